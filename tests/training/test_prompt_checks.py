"""Prompt parity: correct recipes pass, and every kind of wrong prompt is reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import Example, PromptEncoder
from data_prep.recipe import Recipe, load_recipe
from scripts.random_model import describe
from tests.conftest import derived_recipe
from training.prompt_checks import EncodedRow, RowChecks, check_parity, spread


@pytest.fixture(scope="module")
def smollm2_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Recipe:
    return prepared("smollm2", tmp_path_factory.mktemp("smollm2"), tiny_smollm2)


@pytest.fixture(scope="module")
def mistral_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_mistral: Path) -> Recipe:
    return prepared("mistral", tmp_path_factory.mktemp("mistral"), tiny_mistral)


def prepared(name: str, folder: Path, base_model: Path) -> Recipe:
    path = derived_recipe(
        f"{name}_samsum", folder, name, base_model=str(base_model),
        summarization__source="data_prep/sample", summarization__license="CC0-1.0",
    )  # fmt: skip
    recipe = load_recipe(path)
    prepare(recipe)
    return recipe


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """Change top-level keys; `datasets__key` sets a key in both `datasets` and `test_datasets`."""
    config = {**recipe.config}
    for key, value in changes.items():
        _, _, inner = key.partition("__")
        if inner:
            for sets in ("datasets", "test_datasets"):
                config[sets] = [{**config[sets][0], inner: value}]
        else:
            config[key] = value
    return replace(recipe, config=config)


def of_a_copy(recipe: Recipe, folder: Path, **changes: Any) -> tuple[Recipe, Path]:
    """Return the recipe with a copy of its model, and the path of the copy."""
    model = Path(shutil.copytree(recipe.config["base_model"], folder / "model"))
    return changed(recipe, {"base_model": str(model), **changes}), model


def jinja(
    start: str = "{{ bos_token }}", before: str = " ", end: str = "{{ eos_token }}"
) -> dict[str, str]:
    """Return a chat template of `start`, the user's turn, `before`, the summary and `end`."""
    template = (
        start + "{% for m in messages %}{% if m.role == 'user' %}[USER] {{ m.content }} [BOT]"
        "{% else %}" + before + "{{ m.content }}" + end + "{% endif %}{% endfor %}"
    )
    return {"chat_template": "jinja", "chat_template_jinja": template}


def test_smollm2_has_parity(smollm2_recipe: Recipe) -> None:
    parity = check_parity(smollm2_recipe)
    assert parity.problems == [] and parity.end == "<|im_end|>"
    assert len(parity.checked) == 4 and not any("mistral" in said for said in parity.checked)
    assert all(sentence.startswith("16 rows: ") for sentence in parity.checked)
    row = parity.example
    assert row
    assert all(label in (-100, token) for token, label in zip(row.ids, row.labels, strict=True))
    assert 0 < sum(label != -100 for label in row.labels) < len(row.labels)


def test_mistral_has_parity_and_equals_mistral_common(mistral_recipe: Recipe) -> None:
    parity = check_parity(mistral_recipe, sample=6)
    assert parity.problems == [] and parity.end == "</s>"
    assert parity.checked[-1] == "6 rows: the ids equal those of mistral-common's own encoder"


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"chat_template": "mistral_v2v3"},
         ["mistral-common's own encoder (they differ from token 1 on); set it to mistral_v1 (16"]),
        ({"special_tokens": {"eos_token": "<unk>"}},
         ["mistral-common's own encoder", "leave its bos_token and eos_token alone"]),
        (jinja(start=""), ["must start with one <s> and contain no other, but has 0 of them"]),
        (jinja(start="{{ bos_token }}{{ bos_token }}"), ["but has two of them side by side"]),
        (jinja(before="<s>"),
         ["must start with one <s>", "has 2 of them", "the loss leaves out '<s>'"]),
        (jinja(before=" So: "), ["the loss leaves out 'So:' before the turn's end"]),
        ({"chat_template": "chatml"},  # its end is plain text for this tokenizer
         ["must start with one <s>", "the loss covers", "not the summary"]),
        ({"datasets__roles_to_train": []}, ["nothing of the summary is in the loss"]),
    ],
)  # fmt: skip
def test_faults_of_a_mistral_recipe_are_reported(
    mistral_recipe: Recipe, changes: dict[str, Any], reported: list[str]
) -> None:
    assert_reported(changed(mistral_recipe, changes), reported)


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"special_tokens": {"eos_token": "<|im_start|>"}},  # it does not end a turn
         ["the turn's end is not in the loss, so the model never learns to stop; set the token"]),
        ({"special_tokens": {"eos_token": "<|endoftext|>"}},  # the pad token
         ["the turn's end is not in the loss"]),
        ({"train_on_inputs": True}, ["tokens of the prompt are in the loss; leave train_on_input"]),
        ({"datasets__roles_to_train": ["user", "assistant"]},
         ["tokens of the prompt are in the loss"]),
        ({"datasets__train_on_eos": "none"},
         ["the turn's end is not in the loss", "leave train_on_eos out"]),
        ({"datasets__train_on_eos": "all"}, ["tokens of the prompt are in the loss"]),
        ({"chat_template": "llama3"},  # training never sees its generation prompt
         ["the prompt that evaluation sends is not the start of what training sees"]),
        ({"chat_template": "mistral_v1"},
         ["chat_template mistral_v1 is for Mistral-7B-Instruct v0.1 and v0.2, and"]),
    ],
)  # fmt: skip
def test_faults_of_a_smollm2_recipe_are_reported(
    smollm2_recipe: Recipe, changes: dict[str, Any], reported: list[str]
) -> None:
    assert_reported(changed(smollm2_recipe, changes), reported)


def assert_reported(recipe: Recipe, reported: list[str]) -> None:
    problems = check_parity(recipe).problems
    assert all(p.startswith(f"{recipe.path}: ") and "\n" not in p for p in problems)
    assert len(problems) <= len(reported), problems
    for text in reported:
        assert any(text in problem for problem in problems), problems


THINKS = (  # like Qwen3's own template: the prompt ends before the thought, unless it is off
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n"
    "</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n"
    "</think>\n\n{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def qwen3_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """With a tokenizer that has Qwen3's special tokens and never joins a line end to a word."""
    folder = tmp_path_factory.mktemp("qwen3")
    describe("Qwen/Qwen3-0.6B", folder / "model", 64)
    return prepared("qwen3", folder, folder / "model")


@pytest.mark.parametrize("template", [
    {}, {"chat_template": "jinja", "chat_template_jinja": THINKS},
], ids=["Axolotl's", "Qwen's"])  # fmt: skip
def test_a_thinking_template_passes_once_thinking_is_off(
    qwen3_recipe: Recipe, template: dict[str, Any]
) -> None:
    recipe = changed(qwen3_recipe, {"chat_template_kwargs": None, **template})
    (problem,) = check_parity(recipe, sample=4).problems
    fix = "set `chat_template_kwargs: {enable_thinking: false}`"
    assert problem.endswith((fix, f"{fix} (4 of 4 rows)")), problem
    fixed = changed(recipe, {"chat_template_kwargs": yaml.safe_load(fix.split(": ", 1)[1][:-1])})
    assert check_parity(fixed, sample=4).problems == []
    # not suggested if something else is wrong too
    other = changed(recipe, {"train_on_inputs": True})
    assert all("thinking" not in said for said in check_parity(other, sample=4).problems)


def test_a_validation_set_with_another_prompt_is_reported(smollm2_recipe: Recipe) -> None:
    sets = [{**smollm2_recipe.config["test_datasets"][0], "chat_template": "chatml"}]
    (problem,) = check_parity(changed(smollm2_recipe, {"test_datasets": sets})).problems
    assert "datasets[0].chat_template is None, test_datasets[0].chat_template is 'chat" in problem


def test_rows_with_different_end_tokens_are_reported(
    tmp_path: Path, mistral_recipe: Recipe
) -> None:
    ends = "{% if m.content|length is odd %}<unk>{% else %}</s>{% endif %}"
    changes = {**jinja(end=ends), "eot_tokens": ["</s>", "<unk>"]}
    recipe, model = of_a_copy(mistral_recipe, tmp_path, **changes)
    settings = json.dumps({"eos_token_id": [2, 0]})
    (model / "generation_config.json").write_text(settings, "utf-8")
    (problem,) = check_parity(recipe).problems
    assert "rows end with different tokens" in problem


def test_a_template_that_raises_is_a_user_error(mistral_recipe: Recipe) -> None:
    refuses = {"chat_template": "jinja", "chat_template_jinja": "{{ raise_exception('no chats') }}"}
    with pytest.raises(UserError, match="chat_template: no chats; use the model's own"):
        check_parity(changed(mistral_recipe, refuses))


def test_missing_rows_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train.jsonl: missing; run `python -m data_prep`"):
        check_parity(load_recipe(derived_recipe("smollm2_samsum", tmp_path, "x")))


def test_a_blank_outside_the_loss_is_accepted(mistral_recipe: Recipe) -> None:
    """Mistral's tokenizer inserts a blank before a digit, and Axolotl does not train on it."""
    encoder = PromptEncoder(mistral_recipe)
    instruction = mistral_recipe.summarization.instruction
    row = Example.build("1", "Ann: hi", "70 people wait.", instruction)
    encoded = EncodedRow(row, encoder.prompt_ids(row), *encoder.training_ids(row))
    assert len(encoded.untrained) == 1
    assert RowChecks(mistral_recipe, encoder).run([encoded])[0] == []


def test_spread_includes_first_last_and_longest() -> None:
    rows = [Example.build(f"{n:02}", "x" * (9 if n == 13 else 1), "", "") for n in range(100)]
    chosen = [int(row.id) for row in spread(rows, 8)]
    assert chosen == sorted(set(chosen)) and len(chosen) == 8
    assert {0, 13, 99} <= set(chosen)
    assert max(b - a for a, b in zip(chosen, chosen[1:], strict=False)) < 40
    assert spread(rows[:5], 8) == rows[:5]


def test_a_turn_may_end_with_an_eot_token(tmp_path: Path, smollm2_recipe: Recipe) -> None:
    """The tokenizer has another EOS token, and generation_config.json sets none."""
    recipe, model = of_a_copy(
        smollm2_recipe, tmp_path, special_tokens={"eos_token": "<|endoftext|>"}
    )
    (model / "generation_config.json").write_text("{}", "utf-8")
    assert "set the token that ends a turn" in check_parity(recipe).problems[0]
    parity = check_parity(changed(recipe, {"eot_tokens": ["<|im_end|>"]}))
    assert (parity.problems, parity.end) == ([], "<|im_end|>")


def test_a_tokenizer_without_a_chat_template_is_reported(
    tmp_path: Path, smollm2_recipe: Recipe
) -> None:
    recipe, model = of_a_copy(smollm2_recipe, tmp_path)
    (model / "chat_template.jinja").unlink()
    recipe.config.pop("chat_template", None)
    for template in (None, "tokenizer_default"):
        with pytest.raises(UserError, match="has no chat template; add `chat_template: chatml`"):
            check_parity(changed(recipe, {"chat_template": template}))
    assert check_parity(changed(recipe, {"chat_template": "chatml"})).problems == []
    with pytest.raises(UserError, match=r"include \[`embed_tokens`, `lm_head`\] in `lora_mod.*`.$"):
        check_parity(changed(recipe, {"tokens": ["<sum>"]}))
