"""Uncertainty of a mean or of two systems' difference: bootstrap and randomisation tests.

All arrays have the shape (examples, metrics).
Sources: Efron and Tibshirani, 1993, chapters 13 and 15; Koehn, 2004; Riezler and Maxwell, 2005.
"""

from typing import Any

import numpy as np

from eval.metrics import Array
from eval.scores import PRIMARY, Bootstrap, Comparison, PairedTest

CELLS = 2**21  # random numbers in memory at a time: 16 MiB as float64, for any number of examples
TIE = 1e-12  # relative to the mean size of the terms: how far two sums of them can differ


def bootstrap(values: Array, settings: Bootstrap) -> Any:
    """Return SciPy's result: `confidence_interval`, `bootstrap_distribution` (k, resamples).

    The interval is the percentile one. All columns share their resamples. A single example has no
    spread: both ends are its value.
    """
    from scipy import stats

    return stats.bootstrap(
        (np.repeat(values, 2, axis=0) if len(values) == 1 else values,),  # SciPy needs two
        np.mean,
        n_resamples=settings.resamples,
        batch=max(1, CELLS // max(1, values.size)),
        vectorized=True,
        axis=0,
        confidence_level=settings.confidence,
        method="percentile",
        rng=settings.seed,
    )


def paired_tests(first: Array, second: Array, settings: Bootstrap) -> list[PairedTest]:
    """Compare two systems on the same examples: per column, second minus first, in percent.

    Several pairs can be compared in one call, with their columns side by side: they share their
    draws, so the results are the same as one by one, in a fraction of the time.

    Bootstrap: p is the share of resampled differences at least as far from the observed one as
    that is from 0 (the shift method). Approximate randomisation: each permutation swaps the two
    systems' outputs on a random half of the examples, the same half in all columns. Both p are
    two-sided, and 1 is added to both counts so that p is never 0. A single example gives p = 1.

    We do not use `scipy.stats.permutation_test`: in SciPy 1.17 it takes 25 times as long, and it
    doubles the smaller one-sided p, so that its smallest p is twice ours.
    """
    if first.shape != second.shape:  # NumPy would broadcast them
        raise ValueError(f"the two systems differ in shape: {first.shape} and {second.shape}")
    differences = second - first
    examples = len(differences)
    observed, total = differences.mean(axis=0), differences.sum(axis=0)
    tolerance = TIE * np.abs(differences).mean(axis=0)

    resampled = bootstrap(differences, settings)
    distances = np.abs(resampled.bootstrap_distribution.T - observed)
    as_far = (distances >= np.abs(observed) - tolerance).sum(axis=0)
    p_bootstrap = (as_far + 1) / (settings.resamples + 1)
    if examples == 1:
        p_bootstrap[:] = 1

    as_far = np.zeros_like(as_far)
    generator = np.random.default_rng(settings.seed)
    batch = max(1, CELLS // examples)
    for start in range(0, settings.permutations, batch):
        count = min(batch, settings.permutations - start)
        swapped = generator.integers(0, 2, (count, examples), dtype=np.int8)
        totals = total - 2 * (swapped.astype(np.float64) @ differences)
        as_far += (np.abs(totals) >= np.abs(total) - examples * tolerance).sum(axis=0)
    p_randomization = (as_far + 1) / (settings.permutations + 1)

    low, high = resampled.confidence_interval
    return [
        PairedTest(
            difference=in_percent(observed[n]),
            low=in_percent(low[n]),
            high=in_percent(high[n]),
            p_bootstrap=p_bootstrap[n],
            p_randomization=p_randomization[n],
        )
        for n in range(len(observed))
    ]


def in_percent(value: float) -> float:
    """Return a share as a percentage, rounded as in scores.json."""
    return round(100 * float(value), 4)


# ---- the tests in words ----


def outcome(test: PairedTest, confidence: float) -> str:
    """Return `better` or `worse` (second system) if both tests find a difference, else `open`."""
    level = round(1 - confidence, 12)  # 1 - 0.95 is a little above 0.05
    if test.p >= level:
        return "open"
    return "better" if test.difference > 0 else "worse"


def verdict(pair: Comparison, settings: Bootstrap) -> str:
    """Return a sentence on two systems' ROUGE-L and on how many dialogues each is better."""
    (first, second), test = pair.systems, pair.metrics[PRIMARY]
    result = outcome(test, settings.confidence)
    if result == "open":
        opening = (
            f"No difference between {second} and {first} that both tests can distinguish from "
            f"chance at {number(1 - settings.confidence, '.0%')}: "
            f"{signed(test.difference)} ROUGE-L points"
        )
        interval = f"{signed(test.low)} to {signed(test.high)}"
    else:
        low, high = (test.low, test.high) if result == "better" else (-test.high, -test.low)
        verb = "beats" if result == "better" else "falls behind"
        opening = f"{second} {verb} {first} by {abs(test.difference):.2f} ROUGE-L points"
        interval = f"{number(low)} to {number(high)}"
    total = pair.better + pair.worse + pair.equal
    return (
        f"{opening} ({number(settings.confidence, '.0%')} interval {interval}; paired bootstrap "
        f"p {p_value(test.p_bootstrap, settings.resamples)}, paired randomisation "
        f"p {p_value(test.p_randomization, settings.permutations)}): {second} is better in "
        f"{pair.better:,} of {total:,} dialogues, worse in {pair.worse:,}, "
        f"equal in {pair.equal:,}."
    )


def p_value(p: float, draws: int) -> str:
    """Return `= 0.023`, or `≤ 0.001` for the smallest p that this many draws can give."""
    if p <= 1.000001 / (draws + 1):
        return f"≤ {1 / draws:.3g}"
    return f"= {p:.3f}" if p >= 0.01 else f"= {p:.4f}"


def number(value: float | None, form: str = ".2f") -> str:
    """Format with a real minus sign and a non-breaking space in `95 %`; a dash for None."""
    return "–" if value is None else format(value, form).replace("-", "−").replace("%", "\u00a0%")


def signed(value: float) -> str:
    """Format like `number`, but with a plus sign, and with no sign if it rounds to 0."""
    return number(value, "+.2f") if abs(value) >= 0.005 else "0.00"
