"""How sure a mean, or the difference of two systems, is: bootstrap and randomisation tests.

Use: `bootstrap_interval(f1)`, `paired_bootstrap(base, tuned).p`, arrays (examples, metrics).
Sources: Efron and Tibshirani, 1993, chapters 13 and 15; Koehn, 2004; Riezler and Maxwell, 2005.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.scores import PRIMARY, Bootstrap, Comparison, PairedTest

Array = NDArray[np.float64]
DEFAULT = Bootstrap()
CELLS = 2**21  # drawn numbers held at a time: 16 MiB as float64, however many examples there are
TIE = 1e-12  # of the mean size of the terms: how far two sums of the same terms can differ


class PairedBootstrap(NamedTuple):
    """Second system minus first, by column: difference of the means, its interval, two-sided p."""

    difference: Array
    low: Array
    high: Array
    p: Array


def bootstrap_interval(values: Array, settings: Bootstrap = DEFAULT) -> Array:
    """Percentile interval of the mean: (n, k) values give (2, k), the low and the high ends.

    All columns share their resamples. One example has no spread: both ends are its value.
    Raises ValueError where there are no examples.
    """
    return np.array(_bootstrap(values, settings).confidence_interval)


def paired_bootstrap(first: Array, second: Array, settings: Bootstrap = DEFAULT) -> PairedBootstrap:
    """Compare two systems on the same n examples; both are (n, k), all results are (k,).

    Both systems, and all columns, share their resamples. p is the share of resampled differences
    that are as far from the observed one as that is from 0 (the shift method), with 1 added to
    both counts. One example proves nothing: its p is 1.
    Raises ValueError where there are no examples or the two differ in shape.
    """
    differences = _differences(first, second)
    observed = differences.mean(axis=0)
    drawn = _bootstrap(differences, settings)
    distances = np.abs(drawn.bootstrap_distribution.T - observed)
    as_far = distances >= np.abs(observed) - _tolerance(differences)
    p = (as_far.sum(axis=0) + 1) / (settings.resamples + 1)
    ends = drawn.confidence_interval
    return PairedBootstrap(
        observed, ends.low, ends.high, p if len(differences) > 1 else np.ones_like(p)
    )


def paired_randomization(first: Array, second: Array, settings: Bootstrap = DEFAULT) -> Array:
    """Two-sided p, shape (k,), of the difference of two systems' means; both are (n, k).

    Approximate randomisation: in each permutation the systems swap their outputs on a random half
    of the examples, the same half in all columns. 1 is added to both counts, so p is never 0, and
    two identical systems have p = 1. Raises ValueError as `paired_bootstrap` does.

    Not `scipy.stats.permutation_test`: in SciPy 1.17 it takes 25 times as long, and doubles the
    smaller one-sided p, so that the least p is twice this one.
    """
    differences = _differences(first, second)
    total = differences.sum(axis=0)
    as_far = np.zeros(differences.shape[1])
    limit = np.abs(total) - len(differences) * _tolerance(differences)
    generator = np.random.default_rng(settings.seed)
    batch = max(1, CELLS // len(differences))
    for start in range(0, settings.permutations, batch):
        rows = min(batch, settings.permutations - start)
        swapped = generator.integers(0, 2, (rows, len(differences)), dtype=np.int8)
        totals = total - 2 * (swapped.astype(np.float64) @ differences)
        as_far += (np.abs(totals) >= limit).sum(axis=0)
    return (as_far + 1) / (settings.permutations + 1)


def _bootstrap(values: Array, settings: Bootstrap) -> Any:
    """SciPy's result: `confidence_interval`, `bootstrap_distribution` of shape (k, resamples)."""
    from scipy.stats import bootstrap

    if not len(values):
        raise ValueError("no examples: a mean needs at least one")
    return bootstrap(
        (np.repeat(values, 2, axis=0) if len(values) == 1 else values,),  # SciPy refuses one
        np.mean,
        n_resamples=settings.resamples,
        batch=max(1, CELLS // values.size),
        vectorized=True,
        axis=0,
        confidence_level=settings.confidence,
        method="percentile",
        rng=settings.seed,
    )


def _tolerance(differences: Array) -> Array:
    """How far apart two means of the same differences may come out by rounding alone."""
    return TIE * np.abs(differences).mean(axis=0)


def _differences(first: Array, second: Array) -> Array:
    if first.shape != second.shape:  # NumPy would broadcast them
        raise ValueError(f"the two systems differ in shape: {first.shape} and {second.shape}")
    return second - first


# ---- the tests in words ----


def outcome(test: PairedTest, confidence: float) -> str:
    """`better`, `worse`, `open` (neither test finds a difference) or `split` (one of them does).

    Of the second system; the level of the tests is 1 - confidence.
    """
    level = round(1 - confidence, 12)  # 1 - 0.95 comes out above 0.05
    significant = [p < level for p in (test.p_bootstrap, test.p_randomization)]
    if not any(significant):
        return "open"
    if not all(significant):
        return "split"
    return "better" if test.difference > 0 else "worse"


def verdict(pair: Comparison, settings: Bootstrap) -> str:
    """One sentence on ROUGE-L of two systems, then in how many dialogues each is better."""
    (first, second), test = pair.systems, pair.metrics[PRIMARY]
    found = outcome(test, settings.confidence)
    if found in ("better", "worse"):
        low, high = (test.low, test.high) if found == "better" else (-test.high, -test.low)
        verb = "beats" if found == "better" else "falls behind"
        opening = f"{second} {verb} {first} by {abs(test.difference):.2f} ROUGE-L points"
        between = f"{number(low)} to {number(high)}"
    else:
        which = "the tests" if found == "open" else "both tests"
        opening = (
            f"No difference between {second} and {first} that {which} can distinguish from chance "
            f"at {percent(1 - settings.confidence)}: {signed(test.difference)} ROUGE-L points"
        )
        between = f"{signed(test.low)} to {signed(test.high)}"
    total = pair.better + pair.worse + pair.equal
    return (
        f"{opening} ({percent(settings.confidence)} interval {between}; paired bootstrap "
        f"p {p_value(test.p_bootstrap, settings.resamples)}, paired randomisation "
        f"p {p_value(test.p_randomization, settings.permutations)}): {second} is better in "
        f"{pair.better:,} of {total:,} dialogues, worse in {pair.worse:,}, "
        f"equal in {pair.equal:,}."
    )


def other_metrics(pair: Comparison, settings: Bootstrap, names: dict[str, str]) -> str:
    """Whether the other metrics agree with ROUGE-L; `names` as in `{"rouge1": "ROUGE-1"}`."""
    outcomes = {names[m]: outcome(t, settings.confidence) for m, t in pair.metrics.items()}
    main = outcomes.pop(names[PRIMARY])
    if differing := [name for name, found in outcomes.items() if found != main]:
        return f"By {_listed(differing)} it is otherwise: see the paired tests."
    return f"{_listed(list(outcomes))} agree."


def p_value(p: float, draws: int) -> str:
    """`= 0.023`; for the least p that so many draws can give `≤ 0.001`, rounded up."""
    if p <= 1.000001 / (draws + 1):
        step = 10.0 ** math.floor(math.log10(p))
        return f"≤ {math.ceil(round(p / step, 6)) * step:g}"
    return f"= {p:.3f}" if p >= 0.01 else f"= {p:.4f}"


def number(value: float) -> str:
    """Two decimals and a real minus sign."""
    return f"{value:.2f}".replace("-", "−")


def signed(value: float) -> str:
    """As `number`, with the plus sign too, and without any sign where it rounds to 0."""
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def percent(share: float) -> str:
    """`95 %`, with a blank that does not break."""
    return f"{100 * share:.3g}\u00a0%"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
