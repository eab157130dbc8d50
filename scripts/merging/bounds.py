"""What counts as equal, and whether a measurement does: `checks(measured, ...)`.

The bounds come from SmolLM2-135M (30 layers, greatest logit 44.6; 860 tokens of 20 references):

* Weights: each stored weight is base + change, rounded once: half a step, and 0 in float32. Two
  of 210 adapted matrices that were put back by hand hardly showed in the logits of bf16 (1.72 and
  1.25 beside 1.00): where 16 bits hide a fault, this check is what finds it.
* float32: the greatest logit difference was 0.00008; one weight of one matrix moved by 0.1 gives
  0.0067. The bound is 0.001, and 99 % of the summaries are to be identical.
* 16 bits: a layer rounds its sums twice, by 2^-8 of their size, and independent errors add up as
  the root of their number: unit = 2^-8 x root(2 x layers) x greatest logit = 1.35. Measured were
  1.31 and a mean of 0.14, and 1.08 and 0.12 between the adapter's own bf16 and its own float32. The
  bounds are 2 units and, for the mean, a quarter of one. Where only the stored weights have 16 bits
  and float32 computes, 0.20 and 0.03 were measured, and the bounds are a quarter of those.
  Summaries part where two tokens are about as likely: 25 of 40 were identical in bf16; the bound
  is 25 %.
* ROUGE: no metric's difference may be told from chance by the paired tests, at 0.05 shared among
  the three, or reach 0.5 points. In bf16 the right merge was 0.67 ROUGE-L points off on 40
  dialogues, with p = 0.37, a dialogue's own difference having a standard deviation of about 4.7:
  in 16 bits the bound is 2.5 such errors, 12 / root(dialogues), where that is more: 1.5 at 64.
"""

import math
from typing import Any, NamedTuple

from eval.report import HEADERS
from scripts.merging.measure import Measured
from scripts.merging.weights import Weights

METRICS = ("rouge1", "rouge2", "rougeL")
LEVEL = 0.05 / len(METRICS)
STEPS = 1.0  # rounding of a stored weight; half of one is what rounding costs
ROUNDING = 2**-8  # of bf16

Row = dict[str, Any]


class Check(NamedTuple):
    """One line of the proof: what was looked at, what was found, what it had to be."""

    what: str
    found: str
    bound: str
    holds: bool


def checks(measured: Measured, figures: dict[str, Any], dtype: str) -> list[Check]:
    """Every check of the two models; `figures` as eval.analysis gives them for both."""
    weights = measured.weights
    stored = weights.dtype if weights else "bfloat16"
    exact = dtype == stored == "float32"
    slack = 2.0 if dtype != "float32" else 0.5
    found = _weights(weights) if weights else []
    found += _logits(measured, exact, slack)
    count, least = len(measured.adapter), 0.99 if exact else 0.25
    same = _identical(measured.adapter, measured.merged)
    found.append(
        Check(
            "identical summaries", f"{same} of {count}", f"at least {least:.0%}",
            same / count >= least,
        )
    )  # fmt: skip
    if not isinstance(measured.vllm, str):
        same = _identical(measured.adapter, measured.vllm)
        found.append(Check("identical summaries in vLLM", f"{same} of {count}", "none", True))
    points = 0.5 if exact else max(0.5, 12 / math.sqrt(count))
    return found + [_rouge(figures["comparisons"][0]["metrics"], m, points) for m in METRICS]


def _identical(first: list[Row], second: list[Row]) -> int:
    return sum(a["prediction"] == b["prediction"] for a, b in zip(first, second, strict=True))


def _weights(weights: Weights) -> list[Check]:
    where = f" in {weights.worst}" if weights.steps > STEPS else ""
    return [
        Check(
            f"weights ({weights.dtype}): greatest difference", f"{weights.steps:.2f} steps{where}",
            f"at most {STEPS:g} rounding step", weights.steps <= STEPS,
        ),
        Check(
            "matrices with the adapter's change", f"{weights.changed} of {weights.expected}",
            "all", weights.changed == weights.expected,
        ),
    ]  # fmt: skip


def _logits(measured: Measured, exact: bool, slack: float) -> list[Check]:
    logits = measured.logits
    unit = ROUNDING * math.sqrt(2 * measured.layers) * logits.size
    greatest = 1e-3 if exact else slack * unit
    mean = 1e-4 if exact else slack * unit / 8
    return [
        Check(
            "logits: greatest difference", f"{logits.greatest:.2g}", f"at most {greatest:.2g}",
            logits.greatest <= greatest,
        ),
        Check(
            "logits: mean difference", f"{logits.mean:.2g}", f"at most {mean:.2g}",
            logits.mean <= mean,
        ),
        Check(
            "same first choice of token", f"{logits.same_top:.2%} of {logits.positions}",
            f"at least {0.999 if exact else 0.95:.1%}",
            logits.same_top >= (0.999 if exact else 0.95),
        ),
    ]  # fmt: skip


def _rouge(metrics: dict[str, dict[str, float]], name: str, points: float) -> Check:
    test = metrics[name]
    p = min(test["p_bootstrap"], test["p_randomization"])
    return Check(
        f"{HEADERS[name]}: merged - adapter", f"{test['difference']:+.2f} (p {p:.3f})",
        f"below {points:.2g} points, p above {LEVEL:.3f}",
        abs(test["difference"]) < points and p > LEVEL,
    )  # fmt: skip
