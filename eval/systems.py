"""What is compared: the systems' outputs, what they are scored on, the baselines beside them."""

from collections.abc import Sequence
from typing import NamedTuple

from eval.baselines import cut_to_lengths, lead, longest

BASELINES = {
    "lead-3": "the first three turns of the dialogue",
    "longest-3": "its three longest turns",
    "base-cut": "each summary of base, cut to as many words as that of tuned",
}


class System(NamedTuple):
    """One system's outputs, in the order of the references.

    `stopped` and `tokens` are None where unknown; `fields` adds to the signature.
    """

    predictions: Sequence[str]
    kind: str = "model"
    tokens: Sequence[int] | None = None
    stopped: Sequence[bool] | None = None
    seconds: float | None = None
    fields: dict[str, str] = {}


class Corpus(NamedTuple):
    """What the systems are scored on; `dialogues` and `leaked` (a flag each) may be unknown."""

    references: Sequence[str]
    dialogues: Sequence[str] | None = None
    leaked: Sequence[bool] | None = None


def with_baselines(systems: dict[str, System], corpus: Corpus) -> dict[str, System]:
    """The systems, then what they are to be judged by: LEAD-3, LONGEST-3, the base model cut.

    The first two need dialogues; the third needs systems named `base` and `tuned`.
    """
    more = dict(systems)
    if corpus.dialogues is not None:
        more["lead-3"] = System([lead(text) for text in corpus.dialogues], "baseline")
        more["longest-3"] = System([longest(text) for text in corpus.dialogues], "baseline")
    if {"base", "tuned"} <= systems.keys():
        lengths = [len(text.split()) for text in systems["tuned"].predictions]
        cut = cut_to_lengths(systems["base"].predictions, lengths)
        more["base-cut"] = System(cut, "baseline")
    return more


def default_pairs(systems: dict[str, System]) -> list[tuple[str, str]]:
    """Every two models; then each baseline against the last model, which is the tuned one."""
    models = [name for name, system in systems.items() if system.kind == "model"]
    pairs = [(a, b) for n, a in enumerate(models) for b in models[n + 1 :]]
    return pairs + [(name, models[-1]) for name in systems if name not in models]
