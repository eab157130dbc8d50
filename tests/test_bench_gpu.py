"""The benchmark of GPU recipes: its rows, its arithmetic, and all of it on a tiny model."""

import json
from pathlib import Path

import pytest

from scripts.bench_gpu import table
from scripts.bench_rows import LONGEST, row_lengths
from scripts.bench_variants import ROWS, TOKENS_A_ROW
from tests.conftest import SHARED, command


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
        {"variant": "ours", "tokens_per_second": 4000.0, "mfu": 0.5, "minutes": 26.4},
        {"variant": "sdpa", "failed": "out of memory", "expected_gb": 41.0},
        {"variant": "notebook", "tokens_per_second": 320.0},
    ]
    text = table(found)
    assert "| ours | 4,000 | - | - | - | - | - | 50% | 26.40 | - | - |" in text
    assert "| sdpa (out of memory) | - | - | - | - | - | - | - | - | 41.00 | - |" in text
    assert text.endswith("ours: 12.5 times the notebook's settings in tokens/s")


def test_wrong_variants_and_no_gpu_are_one_line() -> None:
    done = command("python", "-m", "scripts.bench_gpu", "--variants", "ours,other")
    assert done.returncode == 2 and "--variants: unknown ['other']; choose from" in done.stderr
    done = command("python", "-m", "scripts.bench_gpu", "--width", 64, "--set", "bf16")
    assert done.returncode == 2 and "--set: 'bf16' is not of the form key=value" in done.stderr
    done = command("env", "CUDA_VISIBLE_DEVICES=", "python", "-m", "scripts.bench_gpu")
    assert done.returncode == 2
    assert "no GPU is here; `--width 64` tries the benchmark on a CPU" in done.stderr


@pytest.mark.slow
def test_all_of_it_on_a_tiny_model(tmp_path: Path) -> None:
    result = tmp_path / "bench.json"
    done = command(
        "python", "-m", "scripts.bench_gpu", "--width", 64, "--steps", 4, "--rows", 120,
        "--variants", "ours,notebook", "--set", "max_grad_norm=0.5",
        "--scratch", tmp_path, "--output", result,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    ours, notebook = json.loads(result.read_text("utf-8"))["variants"]
    for row in (ours, notebook):
        assert not row.get("failed"), row
        assert 0 < row["trained_per_second"] < row["tokens_per_second"]
        assert row["mfu"] == pytest.approx(
            row["tokens_per_second"] * row["operations_a_token"] / row["matrix_rate"]
        )
        assert row["expected_gb"] > 0 and row["expected_minutes"] > 0
    a_step = ours["tokens_per_second"] * ours["seconds_per_step"]
    assert 0.9 * 4 * 2048 < a_step <= 4 * 2048  # four packs, nearly full
    a_row = notebook["tokens_per_second"] / notebook["rows_per_second"]
    assert a_row * 3 == pytest.approx(
        notebook["tokens_per_second"] * notebook["seconds_per_step"], rel=0.01
    )
    assert notebook["minutes"] == pytest.approx(
        7366 * TOKENS_A_ROW * 3 / notebook["tokens_per_second"] / 60
    )
    assert "times the notebook's settings" in done.stdout
