"""How sure a mean, or the difference of two systems, is: bootstrap and randomisation tests.

Use: `bootstrap_interval(f1)` and `paired_bootstrap(base_f1, tuned_f1).p`, arrays (examples, k).
Sources: Efron and Tibshirani, 1993, chapters 13 and 15; Koehn, 2004; Riezler and Maxwell, 2005.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
CELLS = 2**21  # drawn numbers held at a time: 16 MiB as float64, however many examples there are
TIE = 1e-12  # of the mean size of the terms: how far two sums of the same terms can differ


class PairedBootstrap(NamedTuple):
    """Second system minus first, by column: difference of the means, its interval, two-sided p."""

    difference: Array
    low: Array
    high: Array
    p: Array


def bootstrap_interval(
    values: ArrayLike, resamples: int = 1000, confidence: float = 0.95, seed: int = 12345
) -> Array:
    """Percentile interval of the mean: (n, k) values give (2, k), the low and the high ends.

    All columns share their resamples. One example has no spread: both ends are its value.
    Raises ValueError on no examples, or a value that is not finite.
    """
    return _interval(_resampled_means(_checked(values), resamples, seed), confidence)


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 12345,
) -> PairedBootstrap:
    """Compare two systems on the same n examples; both are (n, k), all results are (k,).

    Both systems, and all columns, share their resamples. p is the share of resampled differences
    that lie as far from the observed one as that lies from 0 (the shift method), with 1 added to
    both counts. One example proves nothing: its p is 1. Raises ValueError as `bootstrap_interval`
    does, and where the two differ in shape.
    """
    differences = _differences(first, second)
    observed = differences.mean(axis=0)
    means = _resampled_means(differences, resamples, seed)
    low, high = _interval(means, confidence)
    as_far = np.abs(means - observed) >= np.abs(observed) - _tolerance(differences)
    p = (as_far.sum(axis=0) + 1) / (resamples + 1)
    return PairedBootstrap(observed, low, high, p if len(differences) > 1 else np.ones_like(p))


def paired_randomization(
    first: ArrayLike, second: ArrayLike, permutations: int = 10000, seed: int = 12345
) -> Array:
    """Two-sided p, shape (k,), of the difference of two systems' means; both are (n, k).

    Approximate randomisation: in each permutation the systems swap their outputs on a random half
    of the examples, the same half in all columns. 1 is added to both counts, so p is never 0, and
    two identical systems have p = 1. Raises ValueError as `paired_bootstrap` does.
    """
    differences = _differences(first, second)
    total = differences.sum(axis=0)
    as_far = np.zeros(differences.shape[1])
    limit = np.abs(total) - len(differences) * _tolerance(differences)
    generator = np.random.default_rng(seed)
    for rows in _chunks(permutations, len(differences)):
        swapped = generator.integers(0, 2, (rows, len(differences)), dtype=np.int8)
        totals = total - 2 * (swapped.astype(np.float64) @ differences)
        as_far += (np.abs(totals) >= limit).sum(axis=0)
    return (as_far + 1) / (permutations + 1)


def _resampled_means(values: Array, resamples: int, seed: int) -> Array:
    """Mean of each resample, shape (resamples, k): how often each example is drawn, times it."""
    count = len(values)
    generator = np.random.default_rng(seed)
    means = []
    for rows in _chunks(resamples, count):
        drawn = generator.integers(0, count, (rows, count))
        drawn += count * np.arange(rows)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        means.append(weights.astype(np.float64) @ values / count)
    return np.concatenate(means)


def _interval(means: Array, confidence: float) -> Array:
    """The (2, k) ends of the middle `confidence` of the resampled means."""
    tail = (1 - confidence) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0)


def _tolerance(differences: Array) -> Array:
    """How far apart two means of the same differences may come out by rounding alone."""
    return TIE * np.abs(differences).mean(axis=0)


def _chunks(total: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to `total`, each chunk of at most CELLS numbers (or one row)."""
    size = max(1, CELLS // width)
    for start in range(0, total, size):
        yield min(size, total - start)


def _differences(first: ArrayLike, second: ArrayLike) -> Array:
    """Second minus first, (n, k), both checked."""
    one, two = _checked(first), _checked(second)
    if one.shape != two.shape:
        raise ValueError(f"the two systems differ in shape: {one.shape} and {two.shape}")
    return two - one


def _checked(values: ArrayLike) -> Array:
    """The values as a float64 array (n, k), n at least 1, all finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"expected an array (examples, metrics), not one of shape {array.shape}")
    if len(array) == 0:
        raise ValueError("no examples: a mean needs at least one")
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise ValueError(f"example {int(bad.argmax())}: a value is not a finite number")
    return array
