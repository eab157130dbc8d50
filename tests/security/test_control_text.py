"""Attacks: text never becomes a control token, and no model's code runs unannounced.

The tokenizers are SmolLM2's, with other normalisers, and Mistral's.
"""

import builtins
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from axolotl.utils.chat_templates.base import _CHAT_TEMPLATES
from tokenizers import normalizers
from tokenizers.normalizers import NFKC, Lowercase, Replace
from transformers import AutoTokenizer

from chat import summarize
from data_prep import __main__ as data_prep
from data_prep.errors import UserError, run_cli
from data_prep.prepare import prepare
from data_prep.prompt import (
    WELL_KNOWN_CONTROLS,
    Example,
    Neutralizer,
    PromptEncoder,
    control_strings,
    read_examples,
)
from data_prep.recipe import Recipe, load_recipe
from eval import run
from tests.conftest import derived_recipe
from tests.data_prep.corpora import chats
from tests.data_prep.recipe_edits import BASE, problems
from training import preflight
from training.prompt_checks import check_parity

IM_END = "<|im_end|>"
WIDE = "".join(chr(ord(character) + 0xFEE0) for character in IM_END)
NORMALIZERS: dict[str, tuple[Any, str]] = {  # each with a text that becomes `<|im_end|>`
    "full-width characters": (NFKC(), WIDE),
    "one full-width character": (NFKC(), f"\uff1c{IM_END[1:]}"),
    "capitals": (Lowercase(), IM_END.upper()),
    "capitals and full width": (normalizers.Sequence([NFKC(), Lowercase()]), "\uff1c|IM_END|>"),
    "removed characters": (Replace("\u200b", ""), f"<|im\u200b_end|>{IM_END[:5]}\u200b_end|>"),
    "a character that becomes the whole string": (Replace("\u00a7", IM_END), "\u00a7"),
    "a word that becomes the whole string": (Replace("STOP", IM_END), "STOP"),
    "removed spaces": (Replace(" ", ""), "<|im_ end|>"),
}


def model_with(folder: Path, source: Path, normalizer: Any = None, template: str = "") -> Path:
    """Copy a model with another template or another normaliser, which added tokens use too.

    The copy's tokenizer then has only single-byte tokens, so that it loads quickly.
    """
    model = folder / "model"
    shutil.copytree(source, model)
    data = json.loads((model / "tokenizer.json").read_text("utf-8"))
    if normalizer is not None or template:
        words = data["model"]["vocab"].items()
        data["model"]["vocab"] = {word: n for word, n in words if len(word) == 1 or n < 17}
        data["model"]["merges"] = []
    if normalizer is not None:
        data["normalizer"] = json.loads(normalizer.__getstate__())
        data["added_tokens"] = [{**token, "normalized": True} for token in data["added_tokens"]]
    (model / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    if template:
        (model / "chat_template.jinja").write_text(template, "utf-8")
    return model


def recipe_of(
    folder: Path, model: Path, text: str = "", alone: bool = False, **overrides: Any
) -> Recipe:
    """Return a recipe whose splits have `text` in their first row's dialogue, summary and topic.

    `alone`: the text is the whole dialogue.
    """
    (folder / "source").mkdir()
    for split, rows in chats(train=4).items():
        for number, row in enumerate(rows):
            row["topic"] = "bus" if number else text
        if text:
            more = f"\nAnn: {text} {text}{text} {split}\nBob: {text}"
            rows[0]["dialogue"] = text + more * (not alone)
            rows[0]["summary"] += f" {text}"
        name = {"validation": "val"}.get(split, split)
        (folder / f"source/{name}.json").write_text(json.dumps(rows), "utf-8")
    return load_recipe(derived_recipe(
        "smollm2_samsum", folder, "recipe", base_model=str(model),
        summarization__source=str(folder / "source"), **overrides,
    ))  # fmt: skip


def rows_of(recipe: Recipe) -> list[Example]:
    splits = ("train", "validation", "test")
    return [row for name in splits for row in read_examples(recipe.data_dir / f"{name}.jsonl")]


@pytest.mark.parametrize("name", NORMALIZERS)
def test_text_that_a_normaliser_turns_into_control_strings_is_broken(
    tmp_path: Path, tiny_smollm2: Path, name: str
) -> None:
    normalizer, text = NORMALIZERS[name]
    recipe = recipe_of(tmp_path, model_with(tmp_path, tiny_smollm2, normalizer), text)
    encoder = PromptEncoder(recipe)
    end = encoder.tokenizer.eos_token_id
    raw = Example.build("raw", f"Ann: {text}", "Hi.", recipe.summarization.instruction)
    assert encoder.prompt_ids(raw).count(end) > 2  # if not neutralised
    with pytest.raises(UserError, match="row raw: holds a special token.*run `python -m data_prep"):
        encoder.check_no_control_strings([raw])
    prepare(recipe)
    encoder.check_no_control_strings(rows_of(recipe))
    assert {encoder.prompt_ids(row).count(end) for row in rows_of(recipe)} == {2}
    assert {encoder.training_ids(row)[0].count(end) for row in rows_of(recipe)} == {3}


def test_tokens_that_a_recipe_adds_are_control_strings(tmp_path: Path, tiny_smollm2: Path) -> None:
    more: dict[str, Any] = {
        "tokens": ["###"], "added_tokens_overrides": {5: "STOP"},
        "lora_modules_to_save": ["embed_tokens", "lm_head"],
    }  # fmt: skip
    recipe = recipe_of(tmp_path, tiny_smollm2, "### STOP", **more)
    recipe.output_dir.mkdir(parents=True)
    with pytest.raises(UserError, match="row raw: holds a special token"):
        raw = Example.build("raw", "Ann: STOP", "Hi.", recipe.summarization.instruction)
        PromptEncoder(recipe).check_no_control_strings([raw])
    assert not list(recipe.output_dir.iterdir())  # Axolotl would write the extended tokenizer there
    prepare(recipe)
    PromptEncoder(recipe).check_no_control_strings(rows_of(recipe))
    text = "".join(turn["content"] for row in rows_of(recipe) for turn in row.messages)
    assert "###" not in text and "STOP" not in text and "S TOP" in text


@pytest.mark.parametrize(("instruction", "text"), [
    ("Sum up <|im_{dialogue}", "end|>"),
    ("Sum up {dialogue}end|>", "<|im_"),
    ("Sum up <|im_{dialogue}|>", "end"),
    ("Sum up: {topic}{dialogue}", "|><|im_end"),
])  # fmt: skip
def test_control_strings_across_the_edge_of_the_instruction_are_broken(
    tmp_path: Path, tiny_smollm2: Path, instruction: str, text: str
) -> None:
    recipe = recipe_of(tmp_path, tiny_smollm2, text, True, summarization__instruction=instruction)
    raw = Example.build("raw", text, "Hi.", instruction, {"topic": text})
    encoder = PromptEncoder(recipe)
    with pytest.raises(UserError, match="row raw: holds a special token.*run `python -m data_prep"):
        encoder.check_no_control_strings([raw])
    assert prepare(recipe).neutralized["strings"] > 0
    encoder.check_no_control_strings(rows_of(recipe))


def test_text_that_a_space_does_not_break_is_refused(tmp_path: Path, tiny_smollm2: Path) -> None:
    """A normaliser that removes every separator; a template that completes a control string."""
    removes = normalizers.Sequence([NFKC(), *(Replace(gap, "") for gap in " -.")])
    (tmp_path / "other").mkdir()
    completes = (
        "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}|><|im_end|>{% endfor %}"
    )
    for folder, model, text in (
        (tmp_path, model_with(tmp_path, tiny_smollm2, removes), WIDE),
        (tmp_path / "other", model_with(tmp_path / "other", tiny_smollm2, None, completes),
         "<|im_end"),
    ):  # fmt: skip
        recipe = recipe_of(folder, model)
        row = Example.build("r7", f"Ann: {text}", "Hi.", recipe.summarization.instruction)
        with pytest.raises(UserError, match="row r7: .*a space does not break it: change it in"):
            PromptEncoder(recipe).check_no_control_strings([row])


MARKS = {  # that templates write in addition to the tokenizer's tokens
    "alpaca": {"### Instruction:", "### Response:"}, "chatml": set(), "mistral_v2v3": set(),
    "llama3": set(), "llava": set(), "metharme": {"<|system|>", "<|user|>", "<|model|>"},
    "exaone": {"[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"},
}  # fmt: skip


def test_turn_marks_that_only_the_template_knows_are_broken(smollm2: Path) -> None:
    """In every template that Axolotl ships; ordinary text is not changed."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    known = control_strings(tokenizer, {}, "") | WELL_KNOWN_CONTROLS
    assert MARKS.keys() <= _CHAT_TEMPLATES.keys()
    usual = "User: <file_photo> [edited] # 1\nAssistant: - no :-)\n*** \u201ehi\u201c -> /no/"
    for name, template in _CHAT_TEMPLATES.items():
        marks = control_strings(tokenizer, {}, template) - known
        assert marks == MARKS.get(name, marks), name
        neutralize = Neutralizer(marks)
        assert neutralize(usual) == (usual, 0), name
        broken, count = neutralize("".join(f"Al: a{mark}b\n{mark}\n" for mark in marks))
        assert count == 2 * len(marks) and not any(mark in broken for mark in marks), name


def test_rows_contain_no_mark_of_the_recipes_template(tmp_path: Path, tiny_smollm2: Path) -> None:
    recipe = recipe_of(tmp_path, tiny_smollm2, "<|model|>", chat_template="metharme")
    raw = Example.build("raw", "Ann: <|model|>", "Hi.", recipe.summarization.instruction)
    encoder = PromptEncoder(recipe)
    with pytest.raises(UserError, match="row raw: holds a special token.*run `python -m data_prep"):
        encoder.check_no_control_strings([raw])
    prepare(recipe)
    encoder.check_no_control_strings(rows_of(recipe))


def test_every_row_of_every_split_is_checked(tmp_path: Path, tiny_smollm2: Path) -> None:
    """Not just a sample, and in the test split too; by token ids, as the text looks harmless."""
    recipe = recipe_of(tmp_path, model_with(tmp_path, tiny_smollm2, NFKC()))
    prepare(recipe)
    for split in ("train", "validation", "test"):
        path = recipe.data_dir / f"{split}.jsonl"
        rows = read_examples(path)
        sound, place = path.read_bytes(), len(rows) // 2
        rows[place].messages[-1]["content"] += WIDE
        path.write_text("".join(row.line() + "\n" for row in rows), "utf-8")
        found = check_parity(recipe, sample=4).problems
        said = f"row {rows[place].id}: holds a special token of"
        assert any(said in problem for problem in found)
        path.write_bytes(sound)


def test_characters_that_a_tokenizer_does_not_know_are_harmless(
    tmp_path: Path, tiny_smollm2: Path
) -> None:
    """They become the unknown token, which is a special token but ends no turn."""
    model = model_with(tmp_path, tiny_smollm2, Replace("\u2603", "\U00012000"))
    data = json.loads((model / "tokenizer.json").read_text("utf-8"))
    words = {token["content"]: token["id"] for token in data["added_tokens"]}
    words |= {word: len(words) + n for n, word in enumerate(("Ann", ":", "Hi"))}
    data["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "<|endoftext|>"}
    data["pre_tokenizer"], data["decoder"] = {"type": "Whitespace"}, None
    data["post_processor"] = None
    (model / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    encoder = PromptEncoder(recipe_of(tmp_path, model))
    encoder.check_no_control_strings(
        [Example.build(text, text, "Hi", "{dialogue}") for text in "Ann \u2603"]
    )


def test_mistrals_rows_are_checked_too(tmp_path: Path, tiny_mistral: Path) -> None:
    recipe = load_recipe(derived_recipe(
        "mistral_samsum", tmp_path, "mistral", base_model=str(tiny_mistral),
        summarization__source="data_prep/sample", summarization__license="CC0-1.0",
    ))  # fmt: skip
    prepare(recipe)
    encoder = PromptEncoder(recipe)
    encoder.check_no_control_strings(rows_of(recipe))
    for text in ("</s>", "[/INST]", "x<s>"):
        row = Example.build("r1", text, "Hi.", recipe.summarization.instruction)
        with pytest.raises(UserError, match="row r1: holds a special token"):
            encoder.check_no_control_strings([row])


@pytest.mark.parametrize(("edit", "says"), [
    ({"datasets": "type: alpaca"}, "`datasets[0].type` is alpaca"),
    ({"datasets": "type: completion"}, "write `type: chat_template`"),
    ({"datasets": "type: chat_template\n    ds_type: text"}, "write `ds_type: json`"),
    ({"datasets": "type: chat_template\n    data_files: /etc/passwd"}, "data_files` is /etc/passw"),
    ({"datasets": "type: chat_template\n    trust_remote_code: true"}, "trust_remote_code` is Tru"),
    ({"test_datasets": "type: chat_template\n    data_files: [a.json]"}, "`test_datasets[0].data_"),
    ({"": "pretraining_dataset: [{path: /etc, type: text}]"}, "`pretraining_dataset` adds rows"),
    ({"": 'trust_remote_code: "false"'}, "write true or false, without quotes"),
    ({"": "trust_remote_code: 1"}, "write true or false, without quotes"),
])  # fmt: skip
def test_keys_that_would_bypass_the_check_of_rows_are_refused(
    tmp_path: Path, edit: dict[str, str], says: str
) -> None:
    ((block, lines),) = edit.items()
    text = BASE + lines + "\n"
    if block:
        head, _, tail = BASE.partition(f"\n{block}:")
        if "ds_type" in lines:
            tail = tail.replace("    ds_type: json\n", "", 1)
        text = f"{head}\n{block}:" + tail.replace("type: chat_template", lines, 1)
    assert any(says in problem for problem in problems(tmp_path, text))


# ---- templates that refuse our roles ----

SYSTEM_FIRST = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('a system turn!') }}{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system!') }}{% endif %}"
ALTERNATE = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMANDS: dict[str, tuple[Callable[[], None], tuple[str, ...]]] = {
    "data_prep": (data_prep.main, ()),
    "preflight": (preflight.main, ()),
    "eval.run": (run.main, ("--models", "base", "--limit", "1")),
    "chat.summarize": (summarize.main, ("--model", "base")),
}


def call(
    name: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Return a command's exit code, stdout and stderr; fail if it asks for input."""
    main, arguments = COMMANDS[name]
    given = [str(recipe.path), *arguments]
    if name == "chat.summarize":
        chat = recipe.path.with_name("chat.txt")
        chat.write_text("Ann: hi\nBob: hello\n", "utf-8")
        given.insert(1, str(chat))
    monkeypatch.setattr(sys, "argv", [name, *given])
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asks on standard input"))
    monkeypatch.chdir(recipe.path.parent)
    code: Any = 0
    try:
        run_cli(main)
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return int(code), out, err


FIX_TEMPLATE = "set `chat_template: jinja` and"
FIX_SYSTEM = "put the text of summarization.sys"
REFUSING = [
    (SYSTEM_FIRST, None, "set `summarization.system`"),
    (NO_SYSTEM, "Be brief.", FIX_SYSTEM),
    (ALTERNATE, "Be brief.", FIX_SYSTEM),
    ("{{ raise_exception('never') }}", None, FIX_TEMPLATE),
    ("{{ 1 + messages[0].content }}", None, FIX_TEMPLATE),
    ("{% if 'tram' in messages[0].content %}{{ raise_exception('tram') }}{% endif %}", None,
     FIX_TEMPLATE),
]  # fmt: skip


@pytest.mark.parametrize(("template", "system", "fix"), REFUSING)
def test_a_template_that_refuses_our_roles_gets_a_fix_that_works(
    tmp_path: Path, tiny_smollm2: Path, template: str, system: str | None, fix: str
) -> None:
    model = model_with(tmp_path, tiny_smollm2, None, template + TURNS)
    recipe = recipe_of(tmp_path, model, summarization__system=system)
    row = Example.build("r1", "Ann: take the tram", "Hi.", "{dialogue}", system=system)
    encoder = PromptEncoder(recipe)
    steps: list[Callable[[], object]] = [partial(prepare, recipe), partial(encoder.prompt_ids, row)]
    steps += [partial(encoder.training_ids, row), partial(encoder.check_no_control_strings, [row])]
    for step in steps:
        with pytest.raises(UserError) as caught:
            step()
        assert str(caught.value).startswith(f"{recipe.path}: chat_template: ")
        assert fix in str(caught.value) and "\n" not in str(caught.value)
    assert not recipe.data_dir.is_dir() or not list(recipe.data_dir.iterdir())
    overrides: dict[str, Any] = {"summarization__system": None if system else "Be brief."}
    if fix == FIX_TEMPLATE:
        overrides = {"chat_template": "jinja", "chat_template_jinja": TURNS}
    fixed = load_recipe(derived_recipe(
        "smollm2_samsum", tmp_path, "fixed", base_model=str(model),
        summarization__source=str(tmp_path / "source"), **overrides,
    ))  # fmt: skip
    prepare(fixed)
    PromptEncoder(fixed).check_no_control_strings(rows_of(fixed))


def test_every_command_refuses_such_a_template_in_one_line(
    tmp_path: Path, tiny_smollm2: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe = recipe_of(tmp_path, model_with(tmp_path, tiny_smollm2, None, TURNS))
    prepare(recipe)
    before = {path.name: path.read_bytes() for path in recipe.data_dir.iterdir()}
    (tmp_path / "model/chat_template.jinja").write_text(SYSTEM_FIRST + TURNS, "utf-8")
    for name in COMMANDS:
        code, _, err = call(name, recipe, monkeypatch, capsys)
        said = [line for line in err.splitlines() if "set `summarization.system`" in line]
        assert (code, len(said)) == (2, 1), (name, err)
        assert "Traceback" not in err and str(recipe.path) in said[0]
    assert {path.name: path.read_bytes() for path in recipe.data_dir.iterdir()} == before


# ---- a model's own code ----

OWN = (
    "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\n\n"
    "Path({marker!r}).touch()\n\n\n"
    "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n\n"
    "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
)


def model_with_code(folder: Path, source: Path) -> tuple[Path, Path]:
    """Return a model with its own code, and the file that this code creates when it runs."""
    model, marker = model_with(folder, source), folder / "it-ran"
    (model / "own.py").write_text(OWN.format(marker=str(marker)), "utf-8")
    config = json.loads((model / "config.json").read_text("utf-8"))
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "own", "auto_map": names}
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    return model, marker


def test_a_models_code_runs_only_if_the_recipe_trusts_it(
    tmp_path: Path, tiny_smollm2: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model, marker = model_with_code(tmp_path, tiny_smollm2)
    recipe = recipe_of(tmp_path, model)
    assert call("data_prep", recipe, monkeypatch, capsys)[0] == 0
    for name in ("preflight", "eval.run", "chat.summarize"):
        code, _, err = call(name, recipe, monkeypatch, capsys)
        said = [line for line in err.splitlines() if "set `trust_remote_code: true`" in line]
        assert (code, len(said), "Traceback" in err) == (2, 1, False), (name, err)
    assert not marker.exists()


def test_preflight_reports_trusted_code_before_it_runs(
    tmp_path: Path, tiny_smollm2: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model, marker = model_with_code(tmp_path, tiny_smollm2)
    recipe = recipe_of(
        tmp_path, model, trust_remote_code=True, summarization__decoding={"max_new_tokens": 40}
    )
    assert call("data_prep", recipe, monkeypatch, capsys)[0] == 0 and not marker.exists()
    ran: list[bool] = []
    show = preflight.foreign_code

    def watched(config: dict[str, Any]) -> Iterator[str]:
        ran.append(marker.exists())
        return show(config)

    monkeypatch.setattr(preflight, "foreign_code", watched)
    code, out, err = call("preflight", recipe, monkeypatch, capsys)
    assert (code, ran, marker.exists()) == (0, [False], True), err
    assert out.startswith("code    `trust_remote_code:` runs the code that") and "ready" in out


@pytest.mark.slow
def test_a_trusted_model_with_its_own_code_can_be_used(
    tmp_path: Path, tiny_smollm2: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model, _ = model_with_code(tmp_path, tiny_smollm2)
    decoding = {"max_new_tokens": 4}
    recipe = recipe_of(tmp_path, model, trust_remote_code=True, summarization__decoding=decoding)
    prepare(recipe)
    for name in ("eval.run", "chat.summarize"):
        assert call(name, recipe, monkeypatch, capsys)[0] == 0, name


def test_preflight_reports_a_plugin_before_importing_it(
    tmp_path: Path, tiny_smollm2: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "their_plugin.py").write_text(
        "from axolotl.integrations.base import BasePlugin\n\nprint('imported')\n\n\n"
        "class Plugin(BasePlugin):\n    pass\n",
        "utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    plugins = ["training.plugin.SummarizationPlugin", "their_plugin.Plugin"]
    path = derived_recipe("smollm2_samsum", tmp_path, "recipe", base_model=str(tiny_smollm2),
                          plugins=plugins)  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["preflight", str(path)])
    with pytest.raises(SystemExit):
        run_cli(preflight.main)
    out = capsys.readouterr().out
    assert out.startswith("code    `plugins:` runs the code of 'their_plugin.Plugin', here and")
    assert "imported" in out
