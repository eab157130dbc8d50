"""A local page: paste a chat, see both summaries. `python -m chat.page RECIPE [--port 7860]`.

Served to this machine alone, by Gradio, which is Axolotl's dependency; nothing leaves the machine.
"""

import argparse
import errno
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Lock
from time import perf_counter
from typing import Any

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data_prep.clean import Cleaner
from data_prep.errors import UserError, run_cli
from data_prep.prepare import check_prepared
from data_prep.prompt import Example, read_examples
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe, sequence_len
from eval.generate import Prediction, Summarizer, resolve
from eval.hf_engine import HfEngine

EXAMPLES = 4
FREE = "CC0-1.0"  # the only licence under which chats of the recipe's data are shown
PLACEHOLDER = "Anna: are you coming tonight?\nBen: yes, at 8. I'll bring the cake"
NAMES = {"base": "Base model", "tuned": "Tuned model"}

STYLE = Path(__file__).parent / "page.css"
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans"]
COLOURS = {  # those of the report: light, then dark
    "button_primary_background_fill": "#0b6e99",
    "button_primary_background_fill_dark": "#0b6e99",
    "button_primary_background_fill_hover": "#0a5a8c",
    "button_primary_background_fill_hover_dark": "#0a5a8c",
    "body_text_color_subdued": "#56606c",
    "body_text_color_subdued_dark": "#a5aeb9",
    "input_placeholder_color": "#56606c",
    "input_placeholder_color_dark": "#a5aeb9",
    "body_background_fill_dark": "#14171b",
    "block_background_fill_dark": "#1d2126",
    "input_background_fill_dark": "#14171b",
}

MOST_CHARACTERS = 200_000  # beyond, nothing is tokenised; counted as a browser does, in UTF-16


@dataclass(frozen=True)
class Prompt:
    """A dialogue as data preparation makes it, its prompt's tokens, and broken control strings."""

    example: Example
    tokens: int
    neutralized: int


@dataclass(frozen=True)
class Summary:
    """What a model made, and how long that took."""

    prediction: Prediction
    seconds: float


class Pair:
    """Both models of a recipe at hand at once; `decoding` is the recipe's, its precision chosen."""

    def __init__(self, recipe: Recipe, adapter: Path):
        """Load the base model and the adapter; raises UserError where either cannot be used."""
        self.recipe, self.limit = recipe, sequence_len(recipe.config) - 1
        self.decoding = resolve(recipe.summarization.decoding)
        self._summarizer = Summarizer(recipe, self.decoding, engine=HfEngine)
        self._neutralize = self._summarizer.encoder.neutralizer()
        engine: Any = self._summarizer.engine
        self._peft = engine.attach_beside(adapter)
        self._lock = Lock()  # the adapter is on or off for the whole process

    def encode(self, dialogue: str) -> Prompt:
        """The prompt of a dialogue, cleaned and made harmless as data preparation does it.

        Raises UserError, to be shown, for an empty dialogue and for one that is too long: at most
        `sequence_len` - 1 tokens, since no row with a longer prompt could be trained on.
        """
        if len(dialogue.encode("utf-16-le", "surrogatepass")) // 2 > MOST_CHARACTERS:
            raise UserError(
                f"The chat has more than {MOST_CHARACTERS:,} characters; paste a part of it."
            )
        columns = self.recipe.summarization
        row: dict[str, object] = {columns.summary_column: "-", columns.dialogue_column: dialogue}
        cleaned, _, _ = Cleaner(columns)("test", "the chat", "chat", row)
        if not cleaned.strip():
            raise UserError("There is no chat yet; paste one, a turn a line.")
        text, neutralized = self._neutralize(cleaned)
        example = Example.build("chat", text, "", self.recipe.summarization.instruction)
        tokens = len(self._summarizer.encoder.prompt_ids(example))
        if tokens > self.limit:
            raise UserError(
                f"The chat is too long: its prompt has {tokens:,} tokens, and the recipe's "
                f"sequence_len of {self.limit + 1:,} allows {self.limit:,}; shorten it."
            )
        return Prompt(example, tokens, neutralized)

    def summarize(self, model: str, prompt: Prompt) -> Summary:
        """The summary by `base` or `tuned`; raises UserError where memory runs out on it."""
        with self._lock, self._peft.disable_adapter() if model == "base" else nullcontext():
            start = perf_counter()
            (prediction,) = self._summarizer.summaries([prompt.example])
            return Summary(prediction, perf_counter() - start)


POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
# Gradio has no web app manifest to give where its page is not made installable: an error otherwise.
FOREIGN = re.compile(rb'<link rel="manifest"[^>]*>|<(?:link|script)\b[^>]*"https?://[^>]*>')
REASONS = {
    errno.EADDRINUSE: "the port is taken; end what uses it or choose another --port",
    errno.EACCES: "this account may not use the port; choose a --port above 1023",
    errno.EADDRNOTAVAIL: "not an address of this machine; leave --host at 127.0.0.1",
}


class NothingForeign:
    """ASGI middleware: the policy on every answer, and no tag of the page that names a host."""

    def __init__(self, app: ASGIApp):
        """`app`: what answers."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; only the page itself is held back until it is whole."""
        head: Message = {}
        body = b""
        is_page = scope.get("path") == "/" and scope.get("method") == "GET"

        async def own(message: Message) -> None:
            nonlocal head, body
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
                head = message
                if is_page:
                    return
            elif is_page:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                body = FOREIGN.sub(b"", body)
                MutableHeaders(scope=head)["Content-Length"] = str(len(body))
                await send(head)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self.app(scope, receive, own)


def main() -> None:
    """Check what can be checked at once, load the models, serve."""
    args = _arguments()
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import
    if not find_spec("gradio"):
        raise UserError("gradio is not installed; run `pip install gradio`, or `pip install -e .`")

    recipe = load_recipe(args.recipe)
    check_address(args.host, args.port)
    from eval.adapter import find_adapter

    adapter = find_adapter(recipe)
    examples = example_chats(recipe)

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
    examples = read_examples(recipe.data_dir / "test.jsonl")[:EXAMPLES]
    return [example.dialogue for example in examples]


def build(pair: "Pair", examples: list[str]) -> Any:
    """The page as `gradio.Blocks`."""
    import gradio as gr

    from eval.diagnosis import speakers

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
                made[model] = (summary.prediction.prediction, _facts(summary))
            note = _note(prompt, pair.limit)
        except UserError as error:
            note = f'<p class="error" role="alert">{escape(str(error))}</p>'
        yield [note, *made["base"], *made["tuned"]]

    return answer


def _note(prompt: "Prompt", limit: int, status: str = "") -> str:
    words = [f"The prompt has {prompt.tokens:,} tokens, of {limit:,} at most."]
    if prompt.neutralized:
        broken = _counted(prompt.neutralized, "control string")
        words.append(f"In the chat a blank broke {broken}.")
    words += [f"{status} …"] * bool(status)
    return f'<p role="status">{escape(" ".join(words))}</p>'


def _facts(summary: "Summary") -> str:
    end = "stopped by itself" if summary.prediction.stopped else "cut at the limit"
    return f"<p>{_counted(summary.prediction.tokens, 'new token')}, {summary.seconds:.2f} s, {end}</p>"


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
        prog="python -m chat.page",
        description="A local page: paste a chat, see the summaries of base and tuned model.",
    )
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE)
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    return parser.parse_args()


def theme() -> Any:
    """Gradio's default theme, which would take its fonts from Google, in our colours."""
    mono = ["ui-monospace", "Consolas", "Liberation Mono", "monospace"]
    theme = gr.themes.Default(font=[*FONTS, "sans-serif"], font_mono=mono)
    return theme.set(**COLOURS)


def check_address(host: str, port: int) -> None:
    """Raise UserError where nothing can be served at this IPv4 address or name, and port."""
    if not 1 <= port <= 65_535:
        raise UserError(f"--port: {port} is no port; use one of 1 to 65535")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind((host, port))
    except OSError as error:
        unknown = isinstance(error, socket.gaierror)
        reason = REASONS.get(errno.EADDRNOTAVAIL if unknown else error.errno or 0, str(error))
        raise UserError(f"--host {host} --port {port}: {reason}") from error


def serve(page: Any, host: str, port: int, **looks: Any) -> None:
    """Serve a `gradio.Blocks` until Ctrl-C; `looks` are theme and style sheets.

    Raises UserError where the address has been taken meanwhile.
    """
    around_proxies = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "localhost", host]
    os.environ["no_proxy"] = ",".join(filter(None, around_proxies))  # Gradio calls itself once
    settings: dict[str, Any] = {"share": False, "ssr_mode": False, "mcp_server": False}
    settings |= {"quiet": True, "prevent_thread_lock": True, "enable_monitoring": False}
    settings |= {"app_kwargs": {"middleware": [Middleware(NothingForeign)]}, "footer_links": []}
    try:
        page.launch(server_name=host, server_port=port, **settings, **looks)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {REASONS[errno.EADDRINUSE]}") from error
    print(f"http://{host}:{port} shows the page; Ctrl-C ends it", flush=True)
    try:
        Event().wait()
    except KeyboardInterrupt:
        print(flush=True)
        os._exit(0)  # else a summary in the making, which nobody waits for, would hold it up


if __name__ == "__main__":
    run_cli(main)
