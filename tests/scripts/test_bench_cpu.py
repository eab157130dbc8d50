"""The benchmark for a CPU runs on small things and prints what it says it measures."""

import json
import re
import sys
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from scripts.bench_cpu import main
from tests.conftest import command, derived_recipe
from tests.run_records import NAME


def figures(line: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", line)]


def generation(run: Path, *flags: str) -> list[str]:
    done = command("python", "-m", "scripts.bench_cpu", f"{NAME}.yml", *flags, cwd=run)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.longest
def test_training_next_to_a_bare_loop(tmp_path: Path, tiny_smollm2: Path) -> None:
    path = derived_recipe(
        "smollm2_samsum", tmp_path, "tiny", base_model=str(tiny_smollm2),
        summarization__source="data_prep/sample",
    )  # fmt: skip
    prepare(load_recipe(path))
    flags = ("--steps", 6, "--models", "none")
    done = command("python", "-m", "scripts.bench_cpu", path, *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    steps, speeds = done.stdout.splitlines()[-2:]
    assert steps.startswith("3 steps, ") and 0 < figures(steps)[1] <= figures(steps)[2]
    axolotl, bare, ratio = figures(speeds)
    assert abs(axolotl / bare - ratio) < 0.02


@pytest.mark.slow
def test_generation_next_to_the_plain_way(run: Path) -> None:
    flags = ("--steps", "0", "--dialogues", "3", "--dtype", "float32")
    _, ours, _, _, plain, verdict = generation(run, *flags)[-6:]
    assert ours.startswith("tuned, hf, float32: 3 dialogues in ")
    assert plain.startswith("tuned, plain, float32: 3 dialogues in ")
    assert re.fullmatch(r"  hf, float32: ratio \d+\.\d; [0-3] of 3 the same", verdict)


@pytest.mark.slow
def test_the_plain_way_ends_when_its_time_is_up(run: Path) -> None:
    flags = ("--steps", "0", "--models", "base", "--dialogues", "0", "--dtype", "bfloat16")
    more = ("--plain-dtype", "float32,bfloat16", "--plain-seconds", "0", "--output", "bench.json")
    lines = generation(run, *flags, *more)
    ways = json.loads((run / "bench.json").read_text("utf-8"))
    assert [(way["way"], way["dtype"]) for way in ways] == [
        ("hf", "bfloat16"), ("plain", "float32"), ("plain", "bfloat16"),
    ]  # fmt: skip
    assert ways[0]["dialogues"] > 1 and ways[1]["dialogues"] == 1
    assert " of 1 the same" in lines[-1]


@pytest.mark.parametrize(
    ("flag", "value"), [("--steps", "3"), ("--engines", "hf,other"), ("--dialogues", "9999")]
)
def test_wrong_calls_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, flag: str, value: str
) -> None:
    given = ["bench_cpu", f"{NAME}.yml", "--steps", "0", flag, value]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(UserError, match=f"{flag}: {value.removeprefix('hf,')}; "):
        main()
