"""How sure a mean, or the difference of two systems, is: bootstrap and randomisation tests.

All arrays have the shape (examples, metrics).
Sources: Efron and Tibshirani, 1993, chapters 13 and 15; Koehn, 2004; Riezler and Maxwell, 2005.
"""

from typing import Any

import numpy as np

from eval.metrics import Array
from eval.scores import PRIMARY, Bootstrap, Comparison, PairedTest

CELLS = 2**21  # drawn numbers held at a time: 16 MiB as float64, however many examples there are
TIE = 1e-12  # of the mean size of the terms: how far two sums of the same terms can differ


def bootstrap(values: Array, settings: Bootstrap) -> Any:
    """SciPy's result: percentile `confidence_interval`, `bootstrap_distribution` (k, resamples).

    All columns share their resamples. One example has no spread: both ends are its value.
    """
    from scipy import stats

    return stats.bootstrap(
        (np.repeat(values, 2, axis=0) if len(values) == 1 else values,),  # SciPy refuses one
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
    """Compare two systems on the same examples: for each column second minus first, in percent.

    Several pairs in one call, their columns side by side, share their draws: the same results as
    one by one, in a fraction of the time.

    Bootstrap: p is the share of resampled differences that are as far from the observed one as
    that is from 0 (the shift method). Approximate randomisation: in each permutation the systems
    swap their outputs on a random half of the examples, the same half in all columns. Both p are
    two-sided, and 1 is added to both counts, so that p is never 0. One example proves nothing: its
    p is 1.

    Not `scipy.stats.permutation_test`: in SciPy 1.17 it takes 25 times as long, and doubles the
    smaller one-sided p, so that the least p is twice this one.
    """
    if first.shape != second.shape:  # NumPy would broadcast them
        raise ValueError(f"the two systems differ in shape: {first.shape} and {second.shape}")
    differences = second - first
    examples = len(differences)
    observed, total = differences.mean(axis=0), differences.sum(axis=0)
    tolerance = TIE * np.abs(differences).mean(axis=0)

    drawn = bootstrap(differences, settings)
    distances = np.abs(drawn.bootstrap_distribution.T - observed)
    as_far = (distances >= np.abs(observed) - tolerance).sum(axis=0)
    p_bootstrap = (as_far + 1) / (settings.resamples + 1)
    if examples == 1:
        p_bootstrap[:] = 1

    as_far = np.zeros_like(as_far)
    generator = np.random.default_rng(settings.seed)
    batch = max(1, CELLS // examples)
    for start in range(0, settings.permutations, batch):
        rows = min(batch, settings.permutations - start)
        swapped = generator.integers(0, 2, (rows, examples), dtype=np.int8)
        totals = total - 2 * (swapped.astype(np.float64) @ differences)
        as_far += (np.abs(totals) >= np.abs(total) - examples * tolerance).sum(axis=0)
    p_randomization = (as_far + 1) / (settings.permutations + 1)

    low, high = drawn.confidence_interval
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
    """A share as scores.json has it."""
    return round(100 * float(value), 4)


# ---- the tests in words ----


def outcome(test: PairedTest, confidence: float) -> str:
    """`better` or `worse` (the second system) where both tests find a difference, or `open`."""
    level = round(1 - confidence, 12)  # 1 - 0.95 comes out above 0.05
    if test.p >= level:
        return "open"
    return "better" if test.difference > 0 else "worse"


def verdict(pair: Comparison, settings: Bootstrap) -> str:
    """One sentence on ROUGE-L of two systems, then in how many dialogues each is better."""
    (first, second), test = pair.systems, pair.metrics[PRIMARY]
    found = outcome(test, settings.confidence)
    if found == "open":
        opening = (
            f"No difference between {second} and {first} that both tests can distinguish from "
            f"chance at {number(1 - settings.confidence, '.0%')}: "
            f"{signed(test.difference)} ROUGE-L points"
        )
        between = f"{signed(test.low)} to {signed(test.high)}"
    else:
        low, high = (test.low, test.high) if found == "better" else (-test.high, -test.low)
        verb = "beats" if found == "better" else "falls behind"
        opening = f"{second} {verb} {first} by {abs(test.difference):.2f} ROUGE-L points"
        between = f"{number(low)} to {number(high)}"
    total = pair.better + pair.worse + pair.equal
    return (
        f"{opening} ({number(settings.confidence, '.0%')} interval {between}; paired bootstrap "
        f"p {p_value(test.p_bootstrap, settings.resamples)}, paired randomisation "
        f"p {p_value(test.p_randomization, settings.permutations)}): {second} is better in "
        f"{pair.better:,} of {total:,} dialogues, worse in {pair.worse:,}, "
        f"equal in {pair.equal:,}."
    )


def p_value(p: float, draws: int) -> str:
    """`= 0.023`; for the least p that so many draws can give `≤ 0.001`."""
    if p <= 1.000001 / (draws + 1):
        return f"≤ {1 / draws:.3g}"
    return f"= {p:.3f}" if p >= 0.01 else f"= {p:.4f}"


def number(value: float | None, form: str = ".2f") -> str:
    """With a real minus sign, and `95 %` with a blank that does not break; a dash for None."""
    return "–" if value is None else format(value, form).replace("-", "−").replace("%", "\u00a0%")


def signed(value: float) -> str:
    """As `number`, with the plus sign too, and without any sign where it rounds to 0."""
    return number(value, "+.2f") if abs(value) >= 0.005 else "0.00"
