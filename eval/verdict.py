"""The outcome of a paired test in a sentence that says no more than the test does.

Use: `verdict(scores["comparisons"][0], scores["bootstrap"])`.
"""

import math
from typing import Any

METRIC = "rougeL"
Pair = dict[str, Any]


def outcome(test: dict[str, float], confidence: float) -> str:
    """`better`, `worse`, `open` (neither test tells it from chance) or `split` (one of them does).

    Of the second system; the level of the tests is 1 - confidence.
    """
    level = round(1 - confidence, 12)  # 1 - 0.95 comes out above 0.05
    told = [test[p] < level for p in ("p_bootstrap", "p_randomization")]
    if not any(told):
        return "open"
    if not all(told):
        return "split"
    return "better" if test["difference"] > 0 else "worse"


def verdict(pair: Pair, settings: dict[str, Any]) -> str:
    """One sentence on ROUGE-L of two systems, then how the dialogues divide."""
    (first, second), test = pair["systems"], pair["metrics"][METRIC]
    found = outcome(test, settings["confidence"])
    level = percent(1 - settings["confidence"])
    if found in ("better", "worse"):
        low, high, size = test["low"], test["high"], abs(test["difference"])
        low, high = (low, high) if found == "better" else (-high, -low)
        verb = "beats" if found == "better" else "falls behind"
        opening = f"{second} {verb} {first} by {size:.2f} ROUGE-L points"
        between = f"{number(low)} to {number(high)}"
    else:
        which = "the tests" if found == "open" else "both tests"
        opening = f"No difference between {second} and {first} that {which} can tell from chance"
        opening += f" at {level}: {signed(test['difference'])} ROUGE-L points"
        between = f"{signed(test['low'])} to {signed(test['high'])}"
    total = pair["better"] + pair["worse"] + pair["equal"]
    return (
        f"{opening} ({percent(settings['confidence'])} interval {between}; paired bootstrap "
        f"p {p_value(test['p_bootstrap'], settings['resamples'])}, paired randomisation "
        f"p {p_value(test['p_randomization'], settings['permutations'])}): {second} is better in "
        f"{pair['better']:,} of {total:,} dialogues, worse in {pair['worse']:,}, "
        f"equal in {pair['equal']:,}."
    )


def other_metrics(pair: Pair, settings: dict[str, Any], names: dict[str, str]) -> str:
    """Whether the other metrics agree with ROUGE-L; `names` as in `{"rouge1": "ROUGE-1"}`."""
    outcomes = {m: outcome(t, settings["confidence"]) for m, t in pair["metrics"].items()}
    others = [metric for metric in outcomes if metric != METRIC]
    apart = [names[metric] for metric in others if outcomes[metric] != outcomes[METRIC]]
    if apart:
        return f"By {_listed(apart)} it is otherwise: see the paired tests."
    return f"{_listed([names[metric] for metric in others])} agree."


def p_value(p: float, draws: int) -> str:
    """`= 0.023`; at the least that so many draws can give, `≤ 0.001`, never less than is known."""
    if p <= 1.000001 / (draws + 1):
        step = 10.0 ** math.floor(math.log10(p))
        return f"≤ {math.ceil(round(p / step, 6)) * step:g}"
    return f"= {p:.3f}" if p >= 0.01 else f"= {p:.4f}"


def number(value: float) -> str:
    """Two decimals and a real minus sign."""
    return f"{value:.2f}".replace("-", "−")


def signed(value: float) -> str:
    """As `number`, with the plus sign too, and without any where it rounds to 0."""
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def percent(share: float) -> str:
    """`95 %`, the blank one that does not break."""
    return f"{100 * share:.3g}\u00a0%"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
