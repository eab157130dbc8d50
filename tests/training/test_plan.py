"""Steps and lengths reported by preflight, compared with Axolotl's tokens and real runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import PromptEncoder, read_examples
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe
from training.plan import check_lengths, count_tokens, plan


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Recipe:
    return prepared("smollm2_samsum", tmp_path_factory.mktemp("plan"), smollm2)


@pytest.fixture(scope="module")
def mistral_recipe(tmp_path_factory: pytest.TempPathFactory, tiny_mistral: Path) -> Recipe:
    return prepared("mistral_samsum", tmp_path_factory.mktemp("plan"), tiny_mistral)


def prepared(of: str, folder: Path, model: Path) -> Recipe:
    recipe = load_recipe(
        derived_recipe(of, folder, "plan", base_model=str(model),
                       summarization__source="data_prep/sample", summarization__license="CC0-1.0")
    )  # fmt: skip
    prepare(recipe)
    return recipe


@pytest.fixture(scope="module")
def counts(recipe: Recipe) -> dict[str, list[int]]:
    return count_tokens(recipe, PromptEncoder(recipe))


def with_keys(recipe: Recipe, **keys: Any) -> Recipe:
    return replace(recipe, config={**recipe.config, **keys})


@pytest.mark.parametrize("name", ["recipe", "mistral_recipe"])
def test_lengths_are_those_of_training(name: str, request: pytest.FixtureRequest) -> None:
    recipe = request.getfixturevalue(name)
    encoder = PromptEncoder(recipe)
    for split, numbers in count_tokens(recipe, encoder).items():
        rows = read_examples(recipe.data_dir / f"{split}.jsonl")
        assert numbers == [len(encoder.training_ids(row)[0]) for row in rows]


@pytest.mark.parametrize(
    ("keys", "processes", "steps"),
    [
        ({}, 1, 40),  # the demo
        ({"num_epochs": 4}, 1, 160),
        ({"num_epochs": 0.5}, 1, 20),
        ({"max_steps": 7}, 1, 7),
        ({"micro_batch_size": 1, "gradient_accumulation_steps": 2}, 1, 80),
        ({"micro_batch_size": 1}, 2, 80),
    ],
)
def test_steps(
    recipe: Recipe, counts: dict[str, list[int]], keys: dict[str, Any], processes: int, steps: int
) -> None:
    found = plan(with_keys(recipe, **keys), counts["train"], processes)
    assert found.steps == steps and f"{steps} steps = " in found.lines[-1]


def test_packing_gives_fewer_and_larger_batches(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    keys = {"sample_packing": True, "attn_implementation": "sdpa", "micro_batch_size": 1}
    packed = plan(with_keys(recipe, **keys), counts["train"])
    limit = recipe.config["sequence_len"]
    assert sum(counts["train"]) / limit <= packed.steps_per_epoch < 160
    assert max(counts["train"]) < packed.largest_batch <= limit


def test_overlong_rows_are_counted_and_left_out(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    limit = sorted(counts["train"])[-5]
    short = with_keys(recipe, sequence_len=limit)
    longer = sum(count > limit for count in counts["train"])
    train = check_lengths(short, counts)[0][0]
    assert longer and f"train: {longer} of 160 rows" in train and "left out" in train
    assert f"{160 - longer} rows" in plan(short, counts["train"]).lines[0]
    with pytest.raises(UserError, match="no training row fits into sequence_len 4"):
        plan(with_keys(recipe, sequence_len=4), counts["train"])


def test_the_handling_of_overlong_rows_is_reported(recipe: Recipe) -> None:
    counts = {"train": [10, 20, 30, 31], "validation": [40, 50]}
    train, validation = check_lengths(with_keys(recipe, sequence_len=29), counts)[0]
    assert "2 of 4 rows have more than 29 tokens (the longest 31): left out" in train
    assert "2 of 2 rows" in validation
    keys = {"sequence_len": 30, "eval_sequence_len": 64, "excess_length_strategy": "truncate"}
    cut, none = check_lengths(with_keys(recipe, **keys), counts)[0]
    assert "1 of 4 rows" in cut and "cut off at the end" in cut
    assert "none of 2 rows has more than 64 tokens" in none
    with pytest.raises(UserError, match="4 rows .* end training before its first step"):
        check_lengths(with_keys(recipe, **keys | {"excess_length_strategy": "raise"}), counts)
