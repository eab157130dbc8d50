"""What counts as equal: the bounds, by made-up measurements."""

import math
from typing import Any

import pytest

from eval.analysis import Settings, analyse
from eval.baselines import Corpus, System
from scripts.merge_proof import Logits, Measured, Weights, checks

REFERENCES = [f"Ann meets Bob at {hour} in the park." for hour in range(1, 41)]
SMOLLM2: dict[str, Any] = {"positions": 860, "size": 44.6}


def exceeded(
    logits: Logits,
    merged: list[str] | None = None,
    dtype: str = "float32",
    weights: Weights | None = None,
) -> list[str]:
    """Which checks fail, where the adapter's own summaries are the references."""
    weights = weights or Weights(0.0, "", 210, 210, "float32")
    merged = merged or REFERENCES
    rows: list[list[dict[str, Any]]] = [
        [{"prediction": t} for t in x] for x in (REFERENCES, merged)
    ]
    measured = Measured(rows[0], rows[1], logits, weights, 30, "not compared")
    systems = {"adapter": System(REFERENCES), "merged": System(merged)}
    figures = analyse(systems, Corpus(REFERENCES), Settings(workers=1)).figures
    return [check.what for check in checks(measured, figures, dtype) if not check.holds]


@pytest.mark.parametrize(
    ("greatest", "mean", "dtype", "stored", "good"),
    [
        (8e-5, 8e-6, "float32", "float32", True),  # measured on SmolLM2-135M
        (0.0067, 2.4e-4, "float32", "float32", False),  # one weight moved by 0.1
        (1.31, 0.142, "bfloat16", "bfloat16", True),
        (15.7, 2.34, "bfloat16", "bfloat16", False),  # no adapter at all
        (0.1975, 0.0267, "float32", "bfloat16", True),
        (0.7188, 0.0709, "float32", "bfloat16", False),  # one matrix put back
        (math.nan, math.nan, "bfloat16", "bfloat16", False),
    ],
)
def test_logits(greatest: float, mean: float, dtype: str, stored: str, good: bool) -> None:
    found = exceeded(
        Logits(greatest, mean, 1.0, **SMOLLM2), None, dtype, Weights(0.5, "", 210, 210, stored)
    )
    assert ("logits: greatest difference" not in found) is good


@pytest.mark.parametrize("weights", [(1.5, 210), (math.nan, 210), (0.5, 209)])
def test_weights_are_refused_in_16_bits_too(weights: tuple[float, int]) -> None:
    steps, changed = weights
    found = exceeded(
        Logits(0.5, 0.05, 1.0, **SMOLLM2), None, "bfloat16",
        Weights(steps, "x", changed, 210, "bfloat16"),
    )  # fmt: skip
    assert len(found) == 1 and ("weights" in found[0] or "matrices" in found[0])


def test_summaries_and_rouge() -> None:
    same = Logits(0.0, 0.0, 1.0, **SMOLLM2)
    assert exceeded(same) == []
    one_other = ["Ann meets Bob at 1 in the garden.", *REFERENCES[1:]]
    assert "identical summaries" in exceeded(same, one_other)
    assert exceeded(same, one_other, "bfloat16") == []
    worse = [text if n % 2 else "Ann meets Bob." for n, text in enumerate(REFERENCES)]
    found = exceeded(same, worse, "bfloat16")
    assert found == [f"ROUGE-{name}: merged - adapter" for name in "12L"]
