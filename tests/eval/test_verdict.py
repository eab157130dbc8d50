"""The sentence that says which model is better, and the figures in it."""

from typing import Any

from eval.stats import outcome, p_value, signed, verdict

SETTINGS = {"resamples": 1000, "permutations": 10_000, "confidence": 0.95, "seed": 1}


def pair(difference: float, low: float, high: float, *p: float) -> dict[str, Any]:
    test = {"difference": difference, "low": low, "high": high}
    test |= {"p_bootstrap": p[0], "p_randomization": p[1]}
    return {
        "systems": ["base", "tuned"], "metrics": {"rougeL": test},
        "better": 700, "worse": 1100, "equal": 19,
    }  # fmt: skip


def plain(one: dict[str, Any]) -> str:
    return verdict(one, SETTINGS).replace("\xa0", " ")


def test_verdict_of_a_gain_a_loss_and_of_neither() -> None:
    floor = (1 / 1001, 1 / 10_001)
    assert plain(pair(18.04, 17.1, 18.9, *floor)) == (
        "tuned beats base by 18.04 ROUGE-L points (95 % interval 17.10 to 18.90; paired bootstrap "
        "p ≤ 0.001, paired randomisation p ≤ 0.0001): tuned is better in 700 of 1,819 dialogues, "
        "worse in 1,100, equal in 19."
    )
    assert plain(pair(-3.2, -4.1, -2.3, *floor)).startswith(
        "tuned falls behind base by 3.20 ROUGE-L points (95 % interval 2.30 to 4.10; "
    )
    assert plain(pair(0.31, -0.4, 1.02, 0.4, 0.39)).startswith(
        "No difference between tuned and base that the tests can tell from chance at 5 %: +0.31 "
        "ROUGE-L points (95 % interval −0.40 to +1.02; paired bootstrap p = 0.400, "
    )
    assert "that both tests can tell" in plain(pair(0.9, 0.01, 1.8, 0.049, 0.051))


def test_outcome_needs_both_tests() -> None:
    given = [(0.01, 0.01, 1), (0.01, 0.01, -1), (0.01, 0.06, 1), (0.06, 0.01, 1), (0.05, 0.5, 1)]
    found = [outcome(pair(sign, 0, 0, a, b)["metrics"]["rougeL"], 0.95) for a, b, sign in given]
    assert found == ["better", "worse", "split", "split", "open"]


def test_p_says_no_less_than_is_known() -> None:
    assert p_value(1 / 1001, 1000) == "≤ 0.001"
    assert p_value(1 / 501, 500) == "≤ 0.002"
    assert p_value(1 / 301, 300) == "≤ 0.004"
    assert p_value(2 / 1001, 1000) == "= 0.0020"
    assert p_value(0.0234, 1000) == "= 0.023"
    assert p_value(1.0, 1000) == "= 1.000"


def test_signs_are_real_and_zero_has_none() -> None:
    assert [signed(value) for value in (-1.5, 0.006, -0.004)] == ["−1.50", "+0.01", "0.00"]
