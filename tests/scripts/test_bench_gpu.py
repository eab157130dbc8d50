"""The GPU benchmark: row lengths, limits, its record, and a whole run on a tiny model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from data_prep.errors import UserError
from data_prep.recipe import find_problems, load_recipe
from scripts.bench_check import error_of, within_rows
from scripts.bench_gpu import (
    OURS,
    VARIANTS,
    Measured,
    main,
    operations_a_token,
    run_within,
    table,
)  # fmt: skip
from scripts.random_model import (
    LONGEST,
    SAMSUM_ROWS,
    TOKENS_A_ROW,
    mistral_tokenizer,
    on_source,
    row_lengths,
)  # fmt: skip
from tests.conftest import ROOT, SHARED, command


def test_rows_are_on_average_as_long_as_samsum_s() -> None:
    lengths = row_lengths(10_000)
    assert abs(sum(lengths) / len(lengths) / TOKENS_A_ROW - 1) < 0.03
    assert max(lengths) <= LONGEST and lengths == row_lengths(10_000)


@pytest.mark.skipif(not SHARED.is_dir(), reason="SAMSum is absent: not part of this repository")
def test_row_lengths_are_distributed_like_samsum_s() -> None:
    """Compares quantiles over every eighth row, with Mistral's real tokenizer."""
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
    assert SAMSUM_ROWS == 14_637


def test_a_variant_without_memory_keeps_its_row() -> None:
    rows = [
        Measured(variant="check", what="", settings={}, figures={"speed": {"product": 790e12}}),
        Measured(variant="ours", what="", settings={}, tokens_per_second=4000.0, mfu=0.5),
        Measured(variant="no packing", what="", settings={}, failed="out of memory"),
    ]
    heads, *lines = [line.split() for line in table(rows).splitlines()]
    assert heads[:2] == ["variant", "tokens_per_second"] and heads[-1] == "failed"
    assert lines == [
        ["ours", "4,000.00", "-", "-", "-", "0.50", "-", "-"],
        ["no", "packing", "-", "-", "-", "-", "-", "-", "out", "of", "memory"],
    ]


@pytest.mark.parametrize("name", [name for name, v in VARIANTS.items() if v.overrides])
def test_overrides_are_valid_in_the_recipe(name: str) -> None:
    """find_problems checks them as part of the recipe file; it accepts keys that need a GPU."""
    variant = VARIANTS[name]
    config = {**load_recipe(variant.recipe).config, **variant.overrides}
    assert find_problems(variant.recipe, config) == []
    assert config.get("optimizer") != "paged_adamw_32bit"


def test_the_exact_attention_of_the_checks_keeps_rows_apart() -> None:
    """In float64 it equals attention in each row alone; on a GPU, varlen is compared with it."""
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
    """Return whether a process runs; a zombie, which a container may never reap, does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


SPAWN = """
import os, subprocess, sys, time
for name, session in (("group", False), ("session", True)):
    inner = f"import os, time; open({name!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", inner], start_new_session=session)
    while not (os.path.exists(name) and open(name).read()):
        time.sleep(0.05)
print("started", flush=True)
time.sleep(float(sys.argv[1]))
"""


def pids_of_children(folder: Path, sleep: float, limit: float) -> tuple[int | None, list[int]]:
    """Run `SPAWN`; return its exit code and children, the second in a session of its own."""
    command = [sys.executable, "-c", SPAWN, str(sleep)]
    code = run_within(command, folder, dict(os.environ), folder / "log", limit)
    assert (folder / "log").read_text("utf-8") == "started\n"
    return code, [int((folder / name).read_text("utf-8")) for name in ("group", "session")]


def test_a_process_over_the_limit_is_killed_with_all_its_children(tmp_path: Path) -> None:
    code, pids = pids_of_children(tmp_path, 600, 5)
    assert code is None and not any(map(runs, pids))


def test_children_of_a_finished_process_are_killed(tmp_path: Path) -> None:
    """Except a child that left the process group, since nothing connects the two any more."""
    code, pids = pids_of_children(tmp_path, 0, 60)
    os.kill(pids[1], signal.SIGKILL)
    assert code == 0
    end = time.monotonic() + 5
    while runs(pids[0]):
        assert time.monotonic() < end
        time.sleep(0.2)


def call(monkeypatch: pytest.MonkeyPatch, *flags: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_gpu", *map(str, flags)])
    main()


def test_wrong_calls_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "old.json"
    old.write_text('{"variants": [{"variant": "ours"}]}', "utf-8")
    with pytest.raises(UserError, match=r"unknown \['other'\]; choose from check,ours"):
        call(monkeypatch, "--variants", "ours,other")
    with pytest.raises(UserError, match="no GPU was found; `--width 64` tries the benchmark"):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        call(monkeypatch)
    with pytest.raises(UserError, match=r"old.json: is not a record of this benchmark; move it"):
        call(monkeypatch, "--width", 64, "--output", old)


def test_a_later_call_adds_to_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier result of the variant on this card is replaced.

    Without time left, neither it nor the variant to try instead is started, and both say so.
    """
    old = tmp_path / "old.json"
    settings = [("ours", "CPU", 1.0), ("ours", "H100", 2.0), ("notebook", "CPU", 3.0)]
    rows = [
        Measured(variant=name, what="", settings={"card": card}, tokens_per_second=speed)
        for name, card, speed in settings
    ]
    old.write_text(json.dumps({"variants": [row.model_dump() for row in rows]}), "utf-8")
    flags = ("--variants", "ours", "--width", 64, "--output", old, "--limit-seconds", 9)
    call(monkeypatch, *flags)
    found = [Measured(**row) for row in json.loads(old.read_text("utf-8"))["variants"]]
    assert [row.tokens_per_second for row in found] == [2.0, 3.0, None, None]
    assert [row.variant for row in found[2:]] == ["ours", "plain"]
    assert all(re.fullmatch("not started: [34] s remained", row.failed or "") for row in found[2:])


@pytest.mark.slow
@pytest.mark.longest
def test_the_whole_benchmark_on_a_tiny_model(tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    flags = ("--width", 64, "--steps", 4, "--keep", tmp_path / "keep", "--output", result)
    variants = ("--variants", "check,ours,generation")
    done = command("python", "-m", "scripts.bench_gpu", *flags, *variants)
    assert done.returncode == 0, done.stderr[-3000:]
    check, ours, generation = json.loads(result.read_text("utf-8"))["variants"]
    assert not [row for row in (check, ours, generation) if row.get("failed")]
    speed = ours["tokens_per_second"]
    assert 0.9 * 4 * 2048 < speed * ours["seconds_per_step"] <= 4 * 2048  # four packs, nearly full
    assert ours["minutes"] == pytest.approx(SAMSUM_ROWS * TOKENS_A_ROW * 2 / speed / 60)
    recipe = on_source(load_recipe(OURS), tmp_path / "keep/model-64", tmp_path)
    rate = check["figures"]["speed"]["product"]
    assert ours["mfu"] == pytest.approx(speed * operations_a_token(recipe) / rate)
    assert 0.05 < check["figures"]["nf4"]["error"] < 0.15
    quick, *plain = generation["figures"]
    assert quick["way"] == "hf" and quick["dialogues"] == 180
    assert [way["dtype"] for way in plain] == ["float32", "bfloat16"]
    assert all(1 <= way["dialogues"] <= 180 for way in plain)


@pytest.mark.slow
def test_training_over_its_limit_is_killed_and_the_next_variant_tried(tmp_path: Path) -> None:
    result, keep = tmp_path / "bench.json", tmp_path / "keep"
    flags = ["--width", 64, "--variant-seconds", 10, "--output", result, "--steps", 100_000]
    words = [sys.executable, "-m", "scripts.bench_gpu", *flags, "--keep", keep]
    process = subprocess.Popen(
        [*map(str, words), "--variants", "ours"], cwd=ROOT, stdout=subprocess.PIPE
    )
    seen: dict[int, psutil.Process] = {}
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            seen[child.pid] = child
        time.sleep(0.2)
    rows = json.loads(result.read_text("utf-8"))["variants"]
    assert [row["variant"] for row in rows] == ["ours", "plain"]
    assert [row["failed"] for row in rows] == ["over the limit of 10 s"] * 2
    assert len(seen) > 2 and not [child for child in seen.values() if child.is_running()]
    assert process.returncode == 0 and result.with_suffix(".ours.log").is_file()
