"""Intervals and p-values: known values and extremes; the verdict in words."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from eval.scores import Bootstrap, Comparison, PairedTest
from eval.stats import Array, bootstrap, outcome, p_value, paired_tests, signed, verdict

SETTINGS = Bootstrap()


def two_systems(examples: int = 819) -> tuple[Array, Array]:
    """Return F1-like values of two related systems, (examples, 4): n/60, with ties and zeros."""
    generator = np.random.default_rng(7)
    first = generator.beta(2, 4, (examples, 4))
    first[generator.random(examples) < 0.05] = 0
    second = np.clip(first + 0.012 + generator.normal(0, 0.15, first.shape), 0, 1)
    return np.round(first * 60) / 60, np.round(second * 60) / 60


def column(first: Array, second: Array, field: str) -> list[float]:
    return [getattr(test, field) for test in paired_tests(first, second, SETTINGS)]


def test_intervals_are_the_same_as_before_scipy_drew_the_resamples() -> None:
    first, second = two_systems()
    low, high = bootstrap(first, SETTINGS).confidence_interval
    assert low[:2] == pytest.approx([0.303377, 0.307465], abs=1e-6)
    assert high[:2] == pytest.approx([0.330139, 0.335216], abs=1e-6)
    gain = 100 * (second.mean(axis=0) - first.mean(axis=0))
    assert column(first, second, "difference") == pytest.approx(gain.tolist(), abs=1e-4)
    assert column(first, second, "low")[:2] == pytest.approx([1.0091, 0.7853], abs=1e-4)
    assert column(first, second, "high")[:2] == pytest.approx([2.8215, 2.6864], abs=1e-4)
    assert column(first, second, "p_bootstrap")[:2] == pytest.approx([2 / 1001, 1 / 1001])


@pytest.mark.parametrize("examples", [9, 819])
def test_randomization_agrees_with_scipy(examples: int) -> None:
    first, second = two_systems(examples)
    theirs = scipy_stats.permutation_test(
        (second, first), lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples", vectorized=True, n_resamples=10_000, batch=500, rng=1,
    ).pvalue  # fmt: skip
    ours = column(first, second, "p_randomization")
    # both are shares of 10,000 draws (for 9 examples SciPy tries all 512): five standard errors
    assert ours == pytest.approx(theirs.tolist(), abs=5 * np.sqrt(2 * 0.25 / 10_000))
    assert 0 < min(ours) < max(ours) <= 1


def test_identical_systems_have_p_1_and_different_ones_the_smallest_p() -> None:
    first, _ = two_systems()
    for same in paired_tests(first, first, SETTINGS):
        assert (same.difference, same.low, same.high) == (0, 0, 0)
        assert same.p_bootstrap == same.p_randomization == 1
    better = np.clip(first + 0.2, 0, 1)
    for test in paired_tests(better, first, SETTINGS):
        assert test.difference < -10 and test.high < 0
        assert test.p_bootstrap == pytest.approx(1 / 1001)
        assert test.p_randomization == pytest.approx(1 / 10_001)


def test_ties_broken_by_rounding_count_as_ties() -> None:
    # 0.1 + 0.2 - 0.3 is 5.6e-17, not 0: every permutation is at least as far from 0
    [test] = paired_tests(np.zeros((3, 1)), np.array([[0.1], [0.2], [-0.3]]), SETTINGS)
    assert test.p_bootstrap == test.p_randomization == 1
    # 2 of the 8 sign flips of three equal differences are as extreme
    [test] = paired_tests(np.zeros((3, 1)), np.full((3, 1), 0.1), SETTINGS)
    assert test.p_randomization == pytest.approx(0.25, abs=0.02)


def test_one_example_has_no_spread_and_no_examples_are_refused() -> None:
    one, two = np.array([[0.25, 0.5]]), np.array([[0.75, 0.5]])
    assert np.array(bootstrap(one, SETTINGS).confidence_interval).tolist() == [[0.25, 0.5]] * 2
    assert column(one, two, "low") == column(one, two, "difference") == [50, 0]
    assert column(one, two, "p_bootstrap") == column(one, two, "p_randomization") == [1, 1]
    with pytest.raises(ValueError, match="two or more observations"):
        bootstrap(np.empty((0, 4)), SETTINGS)
    with pytest.raises(ValueError, match=r"shape: \(2, 1\) and \(3, 1\)"):
        paired_tests(np.zeros((2, 1)), np.zeros((3, 1)), SETTINGS)


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
            paired_test(0.31, -0.4, 1.02, 0.4, 0.039),
            ["No difference", "at 5 %: +0.31", "−0.40 to +1.02", "p = 0.400"],
        ),
    ],
)
def test_verdict(test: PairedTest, parts: list[str]) -> None:
    pair = Comparison(
        systems=("base", "tuned"), metrics={"rougeL": test}, better=700, worse=1100, equal=19
    )
    sentence = verdict(pair, SETTINGS).replace("\xa0", " ")
    for part in (*parts, "better in 700 of 1,819 dialogues, worse in 1,100, equal in 19."):
        assert part in sentence


def test_outcome_needs_both_tests() -> None:
    given = [(0.01, 0.01, 1), (0.01, 0.01, -1), (0.01, 0.06, 1), (0.06, 0.01, 1), (0.05, 0.04, 1)]
    found = [outcome(paired_test(sign, 0, 0, a, b), 0.95) for a, b, sign in given]
    assert found == ["better", "worse", "open", "open", "open"]


@pytest.mark.parametrize(
    ("p", "draws", "text"),
    [
        (1 / 1001, 1000, "≤ 0.001"), (1 / 501, 500, "≤ 0.002"), (1 / 10_001, 10_000, "≤ 0.0001"),
        (2 / 1001, 1000, "= 0.0020"), (0.0234, 1000, "= 0.023"), (1.0, 1000, "= 1.000"),
    ],
)  # fmt: skip
def test_p_shows_its_lower_limit_and_real_minus_signs(p: float, draws: int, text: str) -> None:
    assert p_value(p, draws) == text
    assert [signed(value) for value in (-1.5, 0.006, -0.004)] == ["−1.50", "+0.01", "0.00"]
