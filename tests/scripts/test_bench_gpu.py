"""The benchmark of GPU recipes: rows, limits, its record, and all of it on a tiny model."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from data_prep.errors import UserError
from data_prep.recipe import find_problems, load_recipe
from scripts.bench_check import error_of, within_rows
from scripts.bench_gpu import Measured, main, run_within, table
from scripts.bench_variants import (
    FALLBACKS,
    LONGEST,
    ROWS,
    TOKENS_A_ROW,
    VARIANTS,
    row_lengths,
)  # fmt: skip
from tests.conftest import ROOT, SHARED, command

TINY = ("--width", 64, "--steps", 4, "--rows", 120, "--plain-seconds", 1)


def measured(variant: str, **figures: Any) -> Measured:
    return Measured(variant=variant, what="", settings={}, **figures)


def test_rows_are_as_long_as_samsum_s() -> None:
    lengths = row_lengths(10_000)
    assert abs(sum(lengths) / len(lengths) / TOKENS_A_ROW - 1) < 0.03
    assert max(lengths) <= LONGEST and lengths == row_lengths(10_000)


@pytest.mark.skipif(not SHARED.is_dir(), reason="SAMSum is not here: its licence keeps it out")
def test_their_distribution_is_samsum_s() -> None:
    """By quantiles over every eighth row, with Mistral's real tokenizer."""
    from scripts.random_model import mistral_tokenizer

    tokenizer = mistral_tokenizer()
    rows = json.loads((SHARED / "samsum/train.json").read_text("utf-8"))[::8]
    prompt = (
        "Summarize the following dialogue in one to three short sentences, in the third person."
    )
    texts = [f"[INST] {prompt}\n\n{r['dialogue']} [/INST] {r['summary']}</s>" for r in rows]
    real = sorted(len(ids) for ids in tokenizer(texts)["input_ids"])
    ours = sorted(row_lengths(len(real)))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        place = int(share * len(real))
        assert 0.8 < ours[place] / real[place] < 1.2
    assert ROWS == 14_637


def test_a_variant_without_memory_keeps_its_row() -> None:
    found = [
        measured("check", figures={"speed": {"product": 790e12}}),
        measured("ours", tokens_per_second=4000.0, mfu=0.5, minutes=26.4),
        measured("no packing", failed="out of memory"),
        measured("notebook", tokens_per_second=320.0),
    ]
    text = table(found)
    assert "| ours | 4,000 | - | - | - | - | - | 50% | 26.40 |" in text
    assert "| no packing (out of memory) | - | - | - | - | - | - | - | - |" in text
    assert text.endswith("ours: 12.5 times the notebook's settings in tokens/s")
    assert "check" not in text


@pytest.mark.parametrize("name", [name for name, v in VARIANTS.items() if v.overrides])
def test_overrides_are_keys_of_axolotl_that_go_with_the_recipe(name: str) -> None:
    """As find_problems sees a recipe whose file holds them; a GPU's keys are no problem there."""
    variant = VARIANTS[name]
    config = {**load_recipe(variant.recipe).config, **variant.overrides}
    assert find_problems(variant.recipe, config) == []
    assert config.get("optimizer") != "paged_adamw_32bit"


def test_what_is_tried_instead_is_known_and_ends() -> None:
    for name in VARIANTS:
        seen: list[str | None] = [None]
        following: str | None = name
        while following:
            assert following not in seen
            seen.append(following)
            following = VARIANTS[following].otherwise
    assert {"ours uncapped", "plain", "qlora uncapped"} == FALLBACKS - {None}


def test_the_exact_attention_of_the_checks_keeps_rows_apart() -> None:
    """Against each row by itself, in float64: what varlen attention is compared with on a GPU."""
    torch.manual_seed(0)
    lengths = [3, 5, 1]
    q, k, v = (torch.randn(2, 9, 4, dtype=torch.float64) for _ in range(3))
    attention = torch.nn.functional.scaled_dot_product_attention
    packed = attention(q, k, v, attn_mask=within_rows(torch.tensor(lengths)))
    parts = [t.split(lengths, dim=1) for t in (q, k, v)]
    alone = [attention(a, b, c, is_causal=True) for a, b, c in zip(*parts, strict=True)]
    assert error_of(packed, torch.cat(alone, dim=1)) < 1e-12
    assert error_of(packed, attention(q, k, v, is_causal=True)) > 0.1


def runs(pid: int) -> bool:
    """A zombie, which the first process of a container may never reap, does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


SPAWN = """
import os, subprocess, sys, time
inner = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", inner], start_new_session={session})
while not os.path.exists("pid"):
    time.sleep(0.05)
print("started", flush=True)
time.sleep({sleep})
"""


@pytest.mark.parametrize("session", [False, True], ids=["its group", "a session of its own"])
def test_a_process_over_the_limit_is_gone_with_all_its_children(
    tmp_path: Path, session: bool
) -> None:
    script = SPAWN.format(session=session, sleep=600)
    code = run_within(
        [sys.executable, "-c", script], tmp_path, dict(os.environ), tmp_path / "log", 6
    )
    assert code is None and (tmp_path / "log").read_text() == "started\n"
    assert not runs(int((tmp_path / "pid").read_text()))


def test_children_of_a_finished_process_are_gone(tmp_path: Path) -> None:
    script = SPAWN.format(session=False, sleep=0)
    code = run_within(
        [sys.executable, "-c", script], tmp_path, dict(os.environ), tmp_path / "log", 60
    )
    assert code == 0
    pid = int((tmp_path / "pid").read_text())
    end = time.monotonic() + 5
    while runs(pid):
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--variants", "ours,other"), r"--variants: unknown \['other'\]; choose from check,ours"),
        (("--set", "bf16"), "--set: 'bf16' is not of the form key=value"),
        (("--limit-seconds", "0"), "--limit-seconds: 0.0 is not above 0"),
        ((), "old.json: is no record of this benchmark; move it"),
    ],
)
def test_wrong_calls_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], says: str
) -> None:
    old = tmp_path / "old.json"
    old.write_text('{"variants": [{"variant": "ours"}]}', "utf-8")
    given = ["bench_gpu", "--width", "64", "--output", str(old), *flags]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(UserError, match=says):
        main()


def test_without_a_gpu_it_says_how_to_try_it() -> None:
    done = command("env", "CUDA_VISIBLE_DEVICES=", "python", "-m", "scripts.bench_gpu")
    assert done.returncode == 2
    assert "no GPU is here; `--width 64` tries the benchmark on a CPU" in done.stderr


@pytest.mark.slow
@pytest.mark.longest
def test_all_of_it_on_a_tiny_model_and_what_is_measured_is_not_measured_again(
    tmp_path: Path,
) -> None:
    result, keep = tmp_path / "bench.json", tmp_path / "keep"
    flags = (*TINY, "--set", "max_grad_norm=0.5", "--keep", keep, "--output", result)
    call = ("python", "-m", "scripts.bench_gpu", *flags, "--variants")
    done = command(*call, "check,ours,notebook,generation")
    assert done.returncode == 0, done.stderr[-3000:]
    check, ours, notebook, generation = json.loads(result.read_text("utf-8"))["variants"]
    for row in (ours, notebook):
        assert not row.get("failed"), row
        assert 0 < row["trained_per_second"] < row["tokens_per_second"]
        assert row["mfu"] == pytest.approx(
            row["tokens_per_second"] * row["operations_a_token"] / row["matrix_rate"]
        )
    a_step = ours["tokens_per_second"] * ours["seconds_per_step"]
    assert 0.9 * 4 * 2048 < a_step <= 4 * 2048  # four packs, nearly full
    a_row = notebook["tokens_per_second"] / notebook["rows_per_second"]
    assert a_row * 3 == pytest.approx(
        notebook["tokens_per_second"] * notebook["seconds_per_step"], rel=0.01
    )
    assert notebook["minutes"] == pytest.approx(
        7366 * TOKENS_A_ROW * 3 / notebook["tokens_per_second"] / 60
    )
    assert notebook["settings"]["overrides"]["optimizer"] == "adamw_torch"
    assert check["figures"]["speed"]["product"] > 0
    assert 0.05 < check["figures"]["nf4"]["error"] < 0.15
    quick, *plain = generation["figures"]
    assert quick["way"] == "hf" and quick["dialogues"] == 120
    assert [way["dtype"] for way in plain] == ["float32", "bfloat16"]
    assert all(1 <= way["dialogues"] <= 120 for way in plain)
    assert "times the notebook's settings" in done.stdout

    before, again = result.read_text("utf-8"), command(*call, "check,ours,generation")
    assert again.stdout.count("measured already") == 3
    assert result.read_text("utf-8") == before


@pytest.mark.slow
def test_a_training_over_its_limit_is_gone_and_the_next_variant_is_tried(tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    flags = map(str, (*TINY, "--variant-seconds", 15, "--output", result, "--steps", 100_000))
    call = [sys.executable, "-m", "scripts.bench_gpu", *flags, "--keep", str(tmp_path / "keep")]
    process = subprocess.Popen(
        [*call, "--variants", "ours,notebook"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    seen: dict[int, psutil.Process] = {}
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            seen[child.pid] = child
        time.sleep(0.2)
    rows = json.loads(result.read_text("utf-8"))["variants"]
    assert [row["failed"] for row in rows] == ["over the limit of 15 s"] * 2
    assert len(seen) > 2 and not [child for child in seen.values() if child.is_running()]
    assert process.returncode == 0 and result.with_suffix(".failed.log").is_file()
