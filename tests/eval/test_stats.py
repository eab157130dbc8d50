"""Intervals and p-values: known ones, at the extremes; the verdict in words."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval.scores import Bootstrap, Comparison, PairedTest
from eval.stats import (
    Array,
    bootstrap_interval,
    outcome,
    p_value,
    paired_bootstrap,
    paired_randomization,
    signed,
    verdict,
)


def two_systems(examples: int = 819, gain: float = 0.012, seed: int = 7) -> tuple[Array, Array]:
    """F1-like values of two related systems, (examples, 4): multiples of 1/60, many ties, zeros."""
    generator = np.random.default_rng(seed)
    first = generator.beta(2, 4, (examples, 4))
    first[generator.random(examples) < 0.05] = 0
    second = np.clip(first + gain + generator.normal(0, 0.15, first.shape), 0, 1)
    return np.round(first * 60) / 60, np.round(second * 60) / 60


def test_intervals_stay_as_they_were_before_scipy_drew_the_resamples() -> None:
    first, second = two_systems()
    low, high = bootstrap_interval(first)
    assert low[:2] == pytest.approx([0.303377, 0.307465], abs=1e-6)
    assert high[:2] == pytest.approx([0.330139, 0.335216], abs=1e-6)
    paired = paired_bootstrap(first, second)
    assert paired.difference == pytest.approx(second.mean(axis=0) - first.mean(axis=0))
    assert paired.low[:2] == pytest.approx([0.010091, 0.007853], abs=1e-6)
    assert paired.high[:2] == pytest.approx([0.028215, 0.026864], abs=1e-6)
    assert paired.p[:2] == pytest.approx([2 / 1001, 1 / 1001])


@pytest.mark.parametrize("examples", [9, 819])
def test_randomization_agrees_with_scipy(examples: int) -> None:
    first, second = two_systems(examples)
    theirs = scipy_stats.permutation_test(
        (second, first), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=10_000, batch=500, rng=1,
    ).pvalue  # fmt: skip
    ours = paired_randomization(first, second)
    # both are shares of 10,000 draws (SciPy tries all 512 of 9 examples): five standard errors
    assert ours == pytest.approx(theirs, abs=5 * np.sqrt(2 * 0.25 / 10_000))
    assert ((ours > 0) & (ours <= 1)).all() and ours.std() > 0


def test_identical_systems_have_p_1_and_clearly_different_ones_the_least() -> None:
    first, _ = two_systems()
    same = paired_bootstrap(first, first)
    assert (same.p == 1).all() and (same.low == 0).all() and (same.high == 0).all()
    assert (paired_randomization(first, first) == 1).all()
    better = np.clip(first + 0.2, 0, 1)
    assert paired_bootstrap(first, better).p == pytest.approx(1 / 1001)
    assert paired_randomization(first, better) == pytest.approx(1 / 10_001)
    worse = paired_bootstrap(better, first)
    assert (worse.difference < -0.1).all() and (worse.high < 0).all()


def test_ties_that_rounding_breaks_count_as_ties() -> None:
    # 0.1 + 0.2 - 0.3 is 5.6e-17, not 0: every permutation is at least as far as the true 0
    differences = np.array([[0.1], [0.2], [-0.3]])
    assert paired_randomization(np.zeros((3, 1)), differences) == 1
    assert paired_bootstrap(np.zeros((3, 1)), differences).p == 1
    # of the 8 sign flips of three equal differences, 2 are as far out
    p = paired_randomization(np.zeros((3, 1)), np.full((3, 1), 0.1))
    assert p == pytest.approx(0.25, abs=0.02)


def test_one_example_has_no_spread_and_none_has_no_mean() -> None:
    one, two = np.array([[0.25, 0.5]]), np.array([[0.75, 0.5]])
    assert bootstrap_interval(one).tolist() == [[0.25, 0.5], [0.25, 0.5]]
    paired = paired_bootstrap(one, two)
    assert paired.low.tolist() == paired.difference.tolist() == [0.5, 0]
    assert paired.p.tolist() == [1, 1] == paired_randomization(one, two).tolist()
    with pytest.raises(ValueError, match="no examples"):
        bootstrap_interval(np.empty((0, 4)))
    with pytest.raises(ValueError, match=r"shape: \(2, 1\) and \(3, 1\)"):
        paired_randomization(np.zeros((2, 1)), np.zeros((3, 1)))


# ---- in words ----


def paired_test(difference: float, low: float, high: float, *p: float) -> PairedTest:
    return PairedTest(
        difference=difference, low=low, high=high, p_bootstrap=p[0], p_randomization=p[1]
    )


@pytest.mark.parametrize(
    ("test", "parts"),
    [
        (
            paired_test(18.04, 17.1, 18.9, 1 / 1001, 1 / 10_001),
            ["tuned beats base by 18.04", "17.10 to 18.90", "p ≤ 0.001", "p ≤ 0.0001"],
        ),
        (
            paired_test(-3.2, -4.1, -2.3, 1 / 1001, 1 / 10_001),
            ["tuned falls behind base by 3.20", "2.30 to 4.10"],
        ),
        (
            paired_test(0.31, -0.4, 1.02, 0.4, 0.39),
            ["No difference", "the tests", "at 5 %: +0.31", "−0.40 to +1.02", "p = 0.400"],
        ),
        (paired_test(0.9, 0.01, 1.8, 0.049, 0.051), ["No difference", "both tests"]),
    ],
)
def test_verdict(test: PairedTest, parts: list[str]) -> None:
    pair = Comparison(
        systems=("base", "tuned"), metrics={"rougeL": test}, better=700, worse=1100, equal=19
    )
    sentence = verdict(pair, Bootstrap()).replace("\xa0", " ")
    for part in (*parts, "better in 700 of 1,819 dialogues, worse in 1,100, equal in 19."):
        assert part in sentence


def test_outcome_needs_both_tests() -> None:
    given = [(0.01, 0.01, 1), (0.01, 0.01, -1), (0.01, 0.06, 1), (0.06, 0.01, 1), (0.05, 0.5, 1)]
    found = [outcome(paired_test(sign, 0, 0, a, b), 0.95) for a, b, sign in given]
    assert found == ["better", "worse", "split", "split", "open"]


@pytest.mark.parametrize(
    ("p", "draws", "text"),
    [
        (1 / 1001, 1000, "≤ 0.001"), (1 / 501, 500, "≤ 0.002"), (1 / 301, 300, "≤ 0.004"),
        (2 / 1001, 1000, "= 0.0020"), (0.0234, 1000, "= 0.023"), (1.0, 1000, "= 1.000"),
    ],
)  # fmt: skip
def test_p_is_never_below_what_is_known_and_signs_are_real(p: float, draws: int, text: str) -> None:
    assert p_value(p, draws) == text
    assert [signed(value) for value in (-1.5, 0.006, -0.004)] == ["−1.50", "+0.01", "0.00"]
