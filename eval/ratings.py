"""Evaluate human ratings of summaries: preferences, faithfulness and agreement.

Use: `evaluate({"ana": {"dialogue 1": Rating(frozenset({"tuned"}), {"base": False})}}, systems)`.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from pydantic import BaseModel


@dataclass
class Rating:
    """One rater's answers on one dialogue: the best systems (several: a tie), and who is faithful.

    Cells that the rater left empty are missing here.
    """

    best: frozenset[str] = frozenset()
    faithful: dict[str, bool] = field(default_factory=dict)


class Share(BaseModel):
    """`count` of `total` dialogues in percent, with the exact 95 % interval; None if `total` is 0.

    Clopper and Pearson, 1934; it excludes 50 % exactly when the sign test's p is below 0.05.
    """

    count: int
    total: int
    percent: float | None = None
    low: float | None = None
    high: float | None = None


class Preference(BaseModel):
    """In how many dialogues the second of two systems wins, ties and loses.

    `win_rate` and `p` (of the two-sided sign test) ignore ties.
    """

    systems: tuple[str, str]
    wins: int
    ties: int
    losses: int
    win_rate: Share
    p: float


class Result(BaseModel):
    """Results of one rater or of all: each pair of systems, and faithful summaries by system."""

    preferences: list[Preference]
    faithful: dict[str, Share]


class Agreement(BaseModel):
    """Two raters on the items that both rated; kappa is None if chance alone always agrees."""

    question: str
    raters: tuple[str, str]
    items: int
    percent: float
    kappa: float | None


class Ratings(BaseModel):
    """What `read --output` writes; `alpha` has the questions `best` and `faithful` as keys."""

    systems: dict[str, str]
    raters: dict[str, Result]
    together: Result
    agreement: list[Agreement]
    alpha: dict[str, float | None]


def evaluate(raters: dict[str, dict[str, Rating]], systems: dict[str, str]) -> Ratings:
    """Evaluate each rater, all together, and their agreement; `systems` comes from the key."""
    # question -> item (a dialogue, or a dialogue and a system) -> rater -> answer
    by_question: dict[str, dict[Hashable, dict[str, Hashable]]] = {"best": {}, "faithful": {}}
    for rater, ratings in raters.items():
        for name, rating in ratings.items():
            if rating.best:
                by_question["best"].setdefault(name, {})[rater] = rating.best
            for system, answer in rating.faithful.items():
                by_question["faithful"].setdefault((name, system), {})[rater] = answer
    agreement = []
    for question, items in by_question.items():
        for pair in combinations(raters, 2):
            votes = [(of[pair[0]], of[pair[1]]) for of in items.values() if {*pair} <= of.keys()]
            if votes:
                percent = round(100 * sum(a == b for a, b in votes) / len(votes), 2)
                kappa = cohens_kappa(votes)
                entry = Agreement(
                    question=question, raters=pair, items=len(votes), percent=percent, kappa=kappa
                )
                agreement.append(entry)
    return Ratings(
        systems=systems,
        raters={name: _result([ratings], list(systems)) for name, ratings in raters.items()},
        together=_result(list(raters.values()), list(systems)),
        agreement=agreement,
        alpha={
            question: krippendorffs_alpha([[*answers.values()] for answers in items.values()])
            for question, items in by_question.items()
        },
    )


def _result(raters: list[dict[str, Rating]], systems: list[str]) -> Result:
    """Take the majority per dialogue: its raters together count as one observation.

    A system wins if more raters prefer it than prefer the other; equal numbers are a tie. A summary
    is faithful if more than half of its raters say so: with two raters, one who found a mistake is
    enough to reject it. Raters who call a third system best do not count for these two.
    """
    from scipy.stats import binomtest

    def share(count: int, total: int) -> Share:
        if not total:
            return Share(count=0, total=0)
        ends = binomtest(count, total).proportion_ci(0.95, "exact")
        percent, low, high = (round(100 * part, 2) for part in (count / total, ends.low, ends.high))
        return Share(count=count, total=total, percent=percent, low=low, high=high)

    names = dict.fromkeys(name for ratings in raters for name in ratings)
    dialogues = [[ratings[name] for ratings in raters if name in ratings] for name in names]
    preferences, faithful = [], {}
    for first, second in combinations(systems, 2):
        outcomes: Counter[int] = Counter()
        for rated in dialogues:
            votes = [(second in rating.best) - (first in rating.best) for rating in rated
                     if {first, second} & rating.best]  # fmt: skip
            if votes:
                outcomes[(sum(votes) > 0) - (sum(votes) < 0)] += 1
        wins, losses = outcomes[1], outcomes[-1]
        preferences.append(
            Preference(
                systems=(first, second),
                wins=wins,
                ties=outcomes[0],
                losses=losses,
                win_rate=share(wins, wins + losses),
                p=binomtest(wins, wins + losses).pvalue if wins + losses else 1,
            )
        )
    for system in systems:
        judgements = [
            [one.faithful[system] for one in rated if system in one.faithful] for rated in dialogues
        ]
        judgements = [answers for answers in judgements if answers]
        faithful[system] = share(sum(2 * sum(a) > len(a) for a in judgements), len(judgements))
    return Result(preferences=preferences, faithful=faithful)


def cohens_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Return two raters' agreement beyond chance (Cohen, 1960), at most 1; one pair per item.

    Chance: each rater draws from their own category shares. None if chance always agrees.
    """
    total = len(pairs)
    first, second = (Counter(pair[side] for pair in pairs) for side in (0, 1))
    chance = sum(first[category] * second[category] for category in first) / total**2
    observed = sum(one == other for one, other in pairs) / total
    return None if chance == 1 else round((observed - chance) / (1 - chance), 4)


def krippendorffs_alpha(items: Sequence[Sequence[Hashable]]) -> float | None:
    """Return the agreement of any raters beyond chance (Krippendorff, 2011; nominal), at most 1.

    `items`: the ratings of each item; items with only one rating are left out. Disagreement is the
    share of the other ratings that differ from a rating, on average: observed within the same item,
    expected over all items. None if no two ratings differ.
    """
    items = [ratings for ratings in items if len(ratings) > 1]
    counts = Counter(rating for ratings in items for rating in ratings)
    total = counts.total()
    expected = sum(n * (total - n) for n in counts.values())  # times total * (total - 1)
    observed = sum(  # times total
        n * (len(ratings) - n) / (len(ratings) - 1)
        for ratings in items
        for n in Counter(ratings).values()
    )
    return round(1 - observed * (total - 1) / expected, 4) if expected else None


def tables(result: Ratings) -> str:
    """Return Markdown tables for the terminal: preferences, faithful summaries, agreement."""
    from eval.report import markdown

    def shown(share: Share) -> str:
        if share.percent is None:
            return "-"
        return f"{share.percent:.1f} [{share.low:.1f}, {share.high:.1f}]"

    results = dict(result.raters)
    if len(results) > 1:
        results["all (majority)"] = result.together
    preferences, faithful = [], []
    for rater, rater_result in results.items():
        for tally in rater_result.preferences:
            counts = [str(tally.wins), str(tally.ties), str(tally.losses), shown(tally.win_rate)]
            p = f"{tally.p:.4f}" if tally.p >= 0.001 else "< 0.001"
            preferences.append([f"{tally.systems[1]} over {tally.systems[0]}", rater, *counts, p])
        for system, share in rater_result.faithful.items():
            faithful.append([system, rater, str(share.count), str(share.total), shown(share)])
    titles = ["better", "rater", "wins", "ties", "losses", "win rate %", "p (sign test)"]
    parts = [markdown([titles, *preferences])]
    parts.append(markdown([["faithful", "rater", "yes", "of", "%"], *faithful]))
    pairs = []
    for pair in result.agreement:
        kappa = "-" if pair.kappa is None else f"{pair.kappa:.2f}"
        row = [pair.question, " and ".join(pair.raters), str(pair.items), f"{pair.percent:.1f}"]
        pairs.append([*row, kappa])
    if pairs:
        titles = ["agreement", "raters", "items", "%", "Cohen's kappa"]
        parts.append(markdown([titles, *pairs]))
        alphas = [f"{q} {'-' if a is None else f'{a:.2f}'}" for q, a in result.alpha.items()]
        parts.append(f"Krippendorff's alpha (nominal, all raters): {', '.join(alphas)}")
    return "\n\n".join(parts)
