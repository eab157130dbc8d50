"""The real SAMSum corpus (CC BY-NC-ND, in ../shared, not in this repository): counts, cost."""

import subprocess
import sys
import time

import pytest
import torch

from data_prep.prepare import check_prepared
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import ROOT, SHARED
from tests.data_prep.corpora import (
    manifest_of,
    pairs,
    write_recipe,
)

SAMSUM = SHARED / "samsum"
MEASURE = """
import runpy, sys, time
from axolotl.utils import chat_templates
import data_prep.prepare, transformers
sys.argv = ["data_prep", sys.argv[1]]
start = time.monotonic()
runpy.run_module("data_prep", run_name="__main__")
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("measured", time.monotonic() - start, time.process_time(), int(peak.split()[1]) / 1024)
"""


@pytest.fixture(scope="module")
def samsum(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, dict[str, float]]:
    """The whole corpus, prepared in a new process, with the time and memory that it took."""
    if not (SAMSUM / "train.json").is_file():
        pytest.skip(f"{SAMSUM} is absent: this project may not ship the SAMSum corpus")
    recipe = load_recipe(write_recipe(tmp_path_factory.mktemp("samsum"), SAMSUM))
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(recipe.path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    wall = time.monotonic() - start
    assert done.returncode == 0, done.stderr[-3000:]
    measured = map(float, done.stdout.rsplit("measured ", 1)[1].split())
    return recipe, {"wall": wall, **dict(zip(("prepare", "cpu", "MB"), measured, strict=True))}


def test_samsum_counts(samsum: tuple[Recipe, dict[str, float]]) -> None:
    recipe = samsum[0]
    manifest = check_prepared(recipe)
    read = {split: counts.read for split, counts in manifest.counts.items()}
    assert read == {"train": 14_731, "validation": 818, "test": 819}
    assert manifest.overlaps == {
        "test_in_train": 42,
        "validation_in_train": 47,
        "test_in_validation": 4,
    }
    assert len(set(manifest.leaked["test"])) == 42
    assert len(set(manifest.leaked["validation"])) >= 47
    train = manifest.counts["train"]
    assert train.read - train.written == sum(train.dropped.values())
    assert len(manifest_of(recipe)["dropped"]) == sum(train.dropped.values())
    assert manifest.counts["test"].written == 819


def test_samsum_train_contains_no_evaluation_dialogue(
    samsum: tuple[Recipe, dict[str, float]],
) -> None:
    recipe = samsum[0]
    folded = {
        split: {" ".join(dialogue.split()) for dialogue, _ in pairs(recipe, split)}
        for split in ("train", "validation", "test")
    }
    assert not folded["train"] & (folded["validation"] | folded["test"])
    assert len(folded["train"]) > 14_000


def test_samsum_is_quick_and_small(samsum: tuple[Recipe, dict[str, float]]) -> None:
    took = samsum[1]
    print(took)
    # Seconds including all imports; CPU time counts if other processes keep the cores busy.
    # On an idle machine, `prepare` (without imports) should stay under 5.
    assert min(took["wall"], took["cpu"]) < 25, took
    assert took["MB"] < (800 if torch.version.cuda else 500), took  # its libraries are larger
