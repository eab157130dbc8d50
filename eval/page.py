"""A local page: paste a chat, see both summaries. `python -m eval.page RECIPE [--port 7860]`.

Served to this machine alone, by Gradio, which is Axolotl's dependency; nothing leaves the machine.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.errors import UserError, run_cli
from data_prep.manifest import check_prepared
from data_prep.prompt import dialogue_of, read_rows
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe

if TYPE_CHECKING:
    from eval.pair import Pair, Prompt, Summary

EXAMPLES = 4
FREE = "CC0-1.0"  # the only licence under which chats of the recipe's data are shown
PLACEHOLDER = "Anna: are you coming tonight?\nBen: yes, at 8. I'll bring the cake"
NAMES = {"base": "Base model", "tuned": "Tuned model"}


def main() -> None:
    """Check what can be checked at once, load the models, serve."""
    args = _arguments()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import
    if not find_spec("gradio"):
        raise UserError("gradio is not installed; run `pip install gradio`, or `pip install -e .`")
    from eval.local_server import check_address, serve

    recipe = load_recipe(args.recipe)
    check_address(args.host, args.port)
    from data_prep.training.adapter import find_adapter

    adapter = find_adapter(recipe)
    examples = example_chats(recipe)
    from eval.page_looks import STYLE, theme
    from eval.pair import Pair

    page = build(Pair(recipe, adapter), examples)
    if args.host not in ("127.0.0.1", "localhost"):
        print(f"note: whoever reaches {args.host} can use the page", file=sys.stderr)
    serve(page, args.host, args.port, theme=theme(), css_paths=[STYLE])


def example_chats(recipe: Recipe) -> list[str]:
    """A few dialogues of the prepared test rows, where their licence lets anybody show them."""
    if recipe.summarization.license != FREE:
        return []
    try:
        check_prepared(recipe)
    except UserError as error:
        print(f"note: the page has no example chats: {error}", file=sys.stderr)
        return []
    rows = read_rows(recipe.data_dir / "test.jsonl")[:EXAMPLES]
    return [dialogue_of(row, recipe.summarization.instruction) for row in rows]


def build(pair: "Pair", examples: list[str]) -> Any:
    """The page as `gradio.Blocks`."""
    import gradio as gr

    from eval.diagnosis import speakers
    from eval.pair import MOST_CHARACTERS

    with gr.Blocks(title="Chat summaries, base and tuned", analytics_enabled=False) as page:
        gr.HTML(_head(pair), elem_id="head")
        chat = gr.Textbox(
            label="Chat",
            placeholder=PLACEHOLDER,
            lines=9,
            max_lines=18,
            max_length=MOST_CHARACTERS + 1,  # one more than is taken: nothing is cut unseen
            elem_id="chat",
        )
        if examples:
            names = [", ".join(speakers(dialogue)) for dialogue in examples]
            gr.Examples([[e] for e in examples], chat, example_labels=names, label="Example chats")
        button = gr.Button("Summarise", variant="primary", elem_id="go")
        shown: list[Any] = [gr.HTML(elem_id="note")]
        with gr.Row():
            for model, name in NAMES.items():
                with gr.Column(min_width=300):
                    text = gr.Textbox(label=name, lines=5, interactive=False, elem_id=model)
                    shown += [text, gr.HTML(elem_id=f"{model}-facts")]
        button.click(
            answers(pair), chat, shown, concurrency_limit=1, api_visibility="private",
            show_progress="minimal",
        )  # fmt: skip
    return page


def answers(pair: "Pair") -> Callable[[str], Iterator[list[str]]]:
    """What the button does: the note, then text and facts of base and tuned as they get ready."""

    def answer(dialogue: str) -> Iterator[list[str]]:
        note, made = "", dict.fromkeys(NAMES, ("", ""))
        try:
            prompt = pair.encode(dialogue or "")
            for model, name in NAMES.items():
                note = _note(prompt, pair.limit, f"{name} at work")
                yield [note, *made["base"], *made["tuned"]]
                summary = pair.summarize(model, prompt)
                made[model] = (summary.text, _facts(summary))
            note = _note(prompt, pair.limit)
        except UserError as error:
            note = f'<p class="error" role="alert">{escape(str(error))}</p>'
        yield [note, *made["base"], *made["tuned"]]

    return answer


def _note(prompt: "Prompt", limit: int, status: str = "") -> str:
    words = [f"The prompt has {len(prompt.ids):,} tokens, of {limit:,} at most."]
    if prompt.neutralized:
        broken = _counted(prompt.neutralized, "control string")
        words.append(f"In the chat a blank broke {broken}.")
    words += [f"{status} …"] * bool(status)
    return f'<p role="status">{escape(" ".join(words))}</p>'


def _facts(summary: "Summary") -> str:
    end = "stopped by itself" if summary.stopped else "cut at the limit"
    return f"<p>{_counted(summary.tokens, 'new token')}, {summary.seconds:.2f} s, {end}</p>"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _head(pair: "Pair") -> str:
    recipe, decoding = pair.recipe, pair.decoding
    facts = (
        f"{recipe.path}: {recipe.config['base_model']}, and the same with the adapter of "
        f"{recipe.output_dir}. At most {decoding.max_new_tokens} new tokens, {decoding.dtype}."
    )
    return f"<h1>A chat, summarised by base and tuned model</h1><p>{escape(facts)}</p>"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m eval.page",
        description="A local page: paste a chat, see the summaries of base and tuned model.",
    )
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE)
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    return parser.parse_args()


if __name__ == "__main__":
    run_cli(main)
