"""The CPU benchmark runs on tiny models and prints what it claims to measure."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from scripts.bench_cpu import main, one_by_one
from tests.conftest import command, derived_recipe
from tests.run_records import NAME


def figures(line: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", line)]


@pytest.mark.slow
@pytest.mark.longest
def test_training_is_compared_with_a_bare_loop(tmp_path: Path, tiny_smollm2: Path) -> None:
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
def test_generation_is_compared_with_plain_generation(run: Path) -> None:
    flags = ("--steps", "0", "--dialogues", "3", "--dtype", "float32", "--output", "bench.json")
    done = command("python", "-m", "scripts.bench_cpu", f"{NAME}.yml", *flags, cwd=run)
    assert done.returncode == 0, done.stderr[-2000:]
    _, ours, _, _, plain, verdict = done.stdout.splitlines()[-6:]
    assert ours.startswith("tuned, hf, float32: 3 dialogues in ")
    assert plain.startswith("tuned, plain, float32: 3 dialogues in ")
    assert re.fullmatch(r"  hf, float32: ratio \d+\.\d; [0-3] of 3 the same", verdict)
    ways = json.loads((run / "bench.json").read_text("utf-8"))
    assert [(way["way"], way["model"]) for way in ways] == [
        ("hf", "base"), ("hf", "tuned"), ("plain", "base"), ("plain", "tuned"),
    ]  # fmt: skip
    for way in ways:
        assert way["tokens"] == pytest.approx(way["tokens_per_second"] * way["seconds"])
        assert "predictions" not in way


@pytest.mark.parametrize(("seconds", "dialogues"), [(0, 1), (None, 3)])
def test_plain_generation_stops_at_its_time_limit(seconds: float | None, dialogues: int) -> None:
    """`generate` repeats the prompt's first token; only this new token may be in the output."""
    model: Any = SimpleNamespace(
        device="cpu", generate=lambda input_ids, **_: torch.cat([input_ids, input_ids[:, :1]], 1)
    )
    ours: Any = SimpleNamespace(
        ends=[2],
        encoder=SimpleNamespace(prompt_ids=lambda example: [example, 7]),
        read_output=lambda example, new: (example, new),
    )
    examples: Any = [11, 12, 13]
    found: Any = list(one_by_one(model, examples, ours, 5, seconds))
    assert len(found) == dialogues
    assert dict(found).items() <= {11: [11], 12: [12], 13: [13]}.items()


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
