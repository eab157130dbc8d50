"""The arithmetic of preflight, against runs that were made and against Axolotl's own schema."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.preflight.estimate import lines
from data_prep.preflight.lengths import lengths, overlong
from data_prep.preflight.memory import estimate_memory
from data_prep.preflight.model_shape import shape_of
from data_prep.preflight.plan import plan
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Recipe:
    folder = tmp_path_factory.mktemp("estimate")
    recipe = load_recipe(derived_recipe("smollm2_samsum", folder, "estimate"))
    prepare(recipe)
    return recipe


@pytest.fixture(scope="module")
def counts(recipe: Recipe) -> dict[str, list[int]]:
    return lengths(recipe)


def with_keys(recipe: Recipe, **keys: Any) -> Recipe:
    return replace(recipe, config={**recipe.config, **keys})


@pytest.mark.parametrize(
    ("keys", "processes", "steps"),
    [
        ({}, 1, 40),  # the demo's
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
    assert plan(with_keys(recipe, **keys), counts["train"], processes).steps == steps


def test_overlong_rows_are_counted_and_left_out(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    limit = sorted(counts["train"])[-5]
    short = with_keys(recipe, sequence_len=limit)
    longer = sum(count > limit for count in counts["train"])
    train = overlong(short, counts)[0]
    assert 1 <= longer == train.rows and "left out" in str(train)
    assert plan(short, counts["train"]).rows == 160 - longer


def test_memory_grows_with_the_batch_and_shrinks_with_checkpointing(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    shape = shape_of(recipe)
    assert shape is not None

    def total(**keys: Any) -> float:
        other = with_keys(recipe, **keys)
        return estimate_memory(other.config, shape, plan(other, counts["train"]), 4, False).total

    assert total(micro_batch_size=1) < total(micro_batch_size=4) < total(micro_batch_size=8)
    assert total(gradient_checkpointing=True) < total()


def test_what_is_printed_shows_its_formula_and_its_error(
    recipe: Recipe, counts: dict[str, list[int]]
) -> None:
    text = "\n".join(f"{topic}: {line}" for topic, line in lines(recipe, counts, 1))
    assert "40 steps = 1.00 epochs of 40 steps" in text
    assert "weights 134,515,008 parameters" in text and "adapter 4,884,480 x 16 bytes" in text
    assert "-10% to 0%" in text and "never measured on a GPU" in text
