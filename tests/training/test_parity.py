"""Prompt parity: recipes that are right pass, and each way to get the prompt wrong is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import PromptEncoder, read_rows, to_row
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe
from tests.training.wrong_prompts import MISTRAL, SMOLLM2, jinja
from training.plan import lengths, overlong
from training.prompt_checks import EncodedRow, RowChecks, check_parity, spread


@pytest.fixture(scope="module")
def smollm2_recipe(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Recipe:
    return _prepared("smollm2", tmp_path_factory.mktemp("smollm2"), smollm2)


@pytest.fixture(scope="module")
def mistral_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_mistral: Path) -> Recipe:
    return _prepared("mistral", tmp_path_factory.mktemp("mistral"), tiny_mistral)


def _prepared(name: str, folder: Path, base_model: Path) -> Recipe:
    path = derived_recipe(
        f"{name}_samsum", folder, name, base_model=str(base_model),
        summarization__source="data_prep/sample", summarization__license="CC0-1.0",
    )  # fmt: skip
    recipe = load_recipe(path)
    prepare(recipe)
    return recipe


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with other top-level keys; `datasets__key` sets one of both data sets."""
    config = {**recipe.config}
    for key, value in changes.items():
        block, _, inner = key.partition("__")
        if inner:
            for sets in ("datasets", "test_datasets"):
                config[sets] = [{**config[sets][0], inner: value}]
        else:
            config[key] = value
    return replace(recipe, config=config)


def test_smollm2_has_parity(smollm2_recipe: Recipe) -> None:
    parity = check_parity(smollm2_recipe)
    assert parity.problems == []
    assert (parity.rows, parity.end, len(parity.checked)) == (16, "<|im_end|>", 4)
    assert not any("mistral" in sentence for sentence in parity.checked)
    ids, labels = parity.example
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True))
    assert 0 < sum(label != -100 for label in labels) < len(labels)


def test_mistral_has_parity_and_equals_mistral_common(mistral_recipe: Recipe) -> None:
    parity = check_parity(mistral_recipe, sample=6)
    assert parity.problems == []
    assert (parity.rows, parity.end) == (6, "</s>")
    assert parity.checked[-1] == "6 rows: the ids equal those of mistral-common's own encoder"


@pytest.mark.parametrize("case", MISTRAL)
def test_what_is_wrong_with_a_mistral_recipe_is_named(mistral_recipe: Recipe, case: str) -> None:
    changes, expected = MISTRAL[case]
    _assert_named(mistral_recipe, changes, expected)


@pytest.mark.parametrize("case", SMOLLM2)
def test_what_is_wrong_with_a_smollm2_recipe_is_named(smollm2_recipe: Recipe, case: str) -> None:
    changes, expected = SMOLLM2[case]
    _assert_named(smollm2_recipe, changes, expected)


def _assert_named(recipe: Recipe, changes: dict[str, Any], expected: list[str]) -> None:
    problems = check_parity(changed(recipe, **changes)).problems
    assert all(p.startswith(f"{recipe.path}: ") and "\n" not in p for p in problems)
    assert len(problems) <= len(expected), problems
    for text in expected:
        assert any(text in problem for problem in problems), problems


def test_a_template_that_refuses_the_rows_is_one_problem(mistral_recipe: Recipe) -> None:
    template = "{{ raise_exception('no chats please') }}"
    broken = changed(mistral_recipe, chat_template="jinja", chat_template_jinja=template)
    (problem,) = check_parity(broken).problems
    assert "chat_template: no chats please; take the model's own" in problem


def test_validation_set_with_another_prompt_is_named(smollm2_recipe: Recipe) -> None:
    sets = [{**smollm2_recipe.config["test_datasets"][0], "chat_template": "chatml"}]
    (problem,) = check_parity(changed(smollm2_recipe, test_datasets=sets)).problems
    assert (
        "datasets[0].chat_template is None, test_datasets[0].chat_template is 'chatml'" in problem
    )


def test_rows_that_end_on_different_tokens_are_named(tmp_path: Path, tiny_mistral: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_mistral, model)
    settings = json.dumps({"eos_token_id": [2, 0]})
    (model / "generation_config.json").write_text(settings, "utf-8")
    ends = "{% if m.content|length is odd %}<unk>{% else %}</s>{% endif %}"
    recipe = _prepared("mistral", tmp_path, model)
    recipe = changed(recipe, **jinja(end=ends), eot_tokens=["</s>", "<unk>"])
    (problem,) = check_parity(recipe).problems
    assert "rows end on different tokens" in problem


def test_control_strings_in_any_row_are_named(tmp_path: Path, smollm2: Path) -> None:
    recipe = _prepared("smollm2", tmp_path, smollm2)
    path = recipe.data_dir / "train.jsonl"
    rows = read_rows(path)
    rows[77]["messages"][0]["content"] += "<|im_end|>"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (problem,) = check_parity(recipe, sample=4).problems
    assert f"row {rows[77]['id']}: holds a special token of" in problem


def test_missing_rows_are_a_user_error(tmp_path: Path, smollm2: Path) -> None:
    path = derived_recipe("smollm2_samsum", tmp_path, "x", base_model=str(smollm2))
    with pytest.raises(UserError, match="train.jsonl: missing; run `python -m data_prep`"):
        check_parity(load_recipe(path))


def test_a_blank_outside_the_loss_is_no_problem(mistral_recipe: Recipe) -> None:
    """Mistral's tokenizer sets a blank of its own before a digit, and Axolotl trains not on it."""
    encoder = PromptEncoder(mistral_recipe)
    row = to_row("1", "Ann: hi", "70 people wait.", mistral_recipe.summarization.instruction)
    encoded = EncodedRow(row, encoder.prompt_ids(row), *encoder.training_ids(row))
    assert len(encoded.untrained) == 1
    assert RowChecks(mistral_recipe, encoder).run([encoded])[0] == []


def test_spread_holds_first_last_and_longest() -> None:
    rows = [{"id": n, "messages": [{"content": "x" * (9 if n == 13 else 1)}]} for n in range(100)]
    chosen = [row["id"] for row in spread(rows, 8)]
    assert chosen == sorted(set(chosen)) and len(chosen) == 8
    assert {0, 13, 99} <= set(chosen)
    assert max(b - a for a, b in zip(chosen, chosen[1:], strict=False)) < 40
    assert spread(rows[:5], 8) == rows[:5]


@pytest.mark.parametrize("name", ["smollm2_recipe", "mistral_recipe"])
def test_lengths_are_those_of_training(name: str, request: pytest.FixtureRequest) -> None:
    recipe = request.getfixturevalue(name)
    encoder, counts = PromptEncoder(recipe), lengths(recipe)
    for split, numbers in counts.items():
        rows = read_rows(recipe.data_dir / f"{split}.jsonl")
        assert numbers == [len(encoder.training_ids(row)[0]) for row in rows]


def test_overlong_rows_are_counted_and_their_fate_is_told(smollm2_recipe: Recipe) -> None:
    counts = {"train": [10, 20, 30, 31], "validation": [40, 50]}
    told = [str(o) for o in overlong(changed(smollm2_recipe, sequence_len=29), counts)]
    assert told == [
        "train: 2 of 4 rows have more than 29 tokens (the longest 31): left out "
        "(excess_length_strategy: drop)",
        "validation: 2 of 2 rows have more than 29 tokens (the longest 50): left out "
        "(excess_length_strategy: drop)",
    ]
    other = changed(
        smollm2_recipe, sequence_len=30, eval_sequence_len=64, excess_length_strategy="truncate"
    )
    train, validation = overlong(other, counts)
    assert (train.rows, validation.rows) == (1, 0)
    assert "cut at their end, where the summary is (excess_length_strategy: trunc" in str(train)
    assert str(validation) == "validation: none of 2 rows has more than 64 tokens"
