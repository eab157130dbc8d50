"""The benchmarks of the README run, on small things, and print what they say they measure."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests.conftest import ROOT, command, derived_recipe
from tests.run_records import NAME


def bench(script: str, *args: object) -> str:
    done = command(sys.executable, f"scripts/{script}.py", *args)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def figures(line: str) -> list[float]:
    return [float(found) for found in re.findall(r"\d+(?:\.\d+)?", line)]


def test_preparing_many_rows_of_which_no_two_are_alike() -> None:
    out = bench("bench_data_prep", "recipes/smollm2_samsum.yml", "--rows", 500, "--unique")
    assert "train.jsonl: 500 rows" in out
    last = out.splitlines()[-1]
    assert re.fullmatch(r"500 training rows: \d+ s with imports, peak memory \d+ MB", last)
    assert figures(last)[2] > 50


def test_training_beside_a_bare_loop(tmp_path: Path, tiny_smollm2: Path) -> None:
    path = derived_recipe(
        "smollm2_samsum", tmp_path, "tiny", base_model=str(tiny_smollm2),
        summarization__source="data_prep/sample",
    )  # fmt: skip
    prepare(load_recipe(path))
    steps, axolotl, bare, ratio = bench("bench_train", path, "--steps", 6).splitlines()[-4:]
    assert steps.startswith("3 steps, ") and 0 < figures(steps)[1] <= figures(steps)[2]
    assert axolotl.endswith(" useful tokens/s") and bare.endswith(" useful tokens/s")
    assert abs(figures(axolotl)[0] / figures(bare)[0] - figures(ratio)[0]) < 0.02


def test_generation_beside_the_plain_way(run: Path) -> None:
    script = ROOT / "scripts/bench_generate.py"
    flags = (f"{NAME}.yml", "--dialogues", "3", "--dtype", "float32", "--output", "bench.json")
    done = subprocess.run(
        [sys.executable, str(script), *flags], cwd=run, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    _, ours, _, _, plain, verdict = done.stdout.splitlines()[-6:]
    assert ours.startswith("tuned, ours, float32: 3 dialogues in ")
    assert plain.startswith("tuned, plain, float32: 3 dialogues in ")
    assert re.fullmatch(r"  ratio \d+\.\d to float32; [0-3] of 3 outputs the same", verdict)
    ways = [(w["way"], w["model"]) for w in json.loads((run / "bench.json").read_text("utf-8"))]
    assert ways == [(way, model) for way in ("ours", "plain") for model in ("base", "tuned")]


def test_the_plain_way_ends_when_its_time_is_up(run: Path) -> None:
    script = ROOT / "scripts/bench_generate.py"
    flags = (f"{NAME}.yml", "--dialogues", "0", "--models", "base", "--plain-seconds", "0")
    done = subprocess.run(
        [sys.executable, str(script), *flags], cwd=run, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    ours, plain, verdict = done.stdout.splitlines()[-3:]
    assert figures(ours.split(": ")[1])[0] > 1
    assert ": 1 dialogues in " in plain and " of 1 outputs the same" in verdict
