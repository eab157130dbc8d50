r"""Token counts of the prepared rows, and what becomes of those that are too long.

from data_prep.preflight.lengths import lengths, overlong
print(*overlong(recipe, lengths(recipe)), sep="\n")
"""

from dataclasses import dataclass
from typing import Any, Literal

from data_prep.errors import UserError
from data_prep.prompt import PromptEncoder, TokenCounter, read_rows
from data_prep.recipe import Recipe, sequence_len
from data_prep.unavailable import model_unavailable

SPLITS = ("train", "validation")
CHUNK = 2000  # rows that are tokenised at a time
FATES = {
    "drop": "left out",
    "truncate": "cut at their end, where the summary is",
    "raise": "they end training before its first step",
}


@dataclass(frozen=True)
class Overlong:
    """How many rows of a split have more than `limit` tokens, and what Axolotl does with them."""

    split: str
    rows: int
    of: int
    longest: int
    limit: int
    strategy: Literal["drop", "truncate", "raise"]

    def __str__(self) -> str:
        """One line for a person."""
        if not self.rows:
            return f"{self.split}: none of {self.of:,} rows has more than {self.limit:,} tokens"
        return (
            f"{self.split}: {self.rows:,} of {self.of:,} rows have more than {self.limit:,} tokens "
            f"(the longest {self.longest:,}): {FATES[self.strategy]} "
            f"(excess_length_strategy: {self.strategy})"
        )


def lengths(recipe: Recipe) -> dict[str, list[int]]:
    """Tokens of every row of `train` and `validation`, as training sees them, over-long ones too.

    Raises UserError where the tokenizer or the rows cannot be had.
    """
    try:
        counter = TokenCounter(recipe)
    except (OSError, ValueError) as error:
        raise UserError(model_unavailable(recipe, error)) from error
    counts: dict[str, list[int]] = {}
    for split in SPLITS:
        rows = read_rows(recipe.data_dir / f"{split}.jsonl")
        chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
        counts[split] = [count for chunk in chunks for count in counter.count(chunk)]
        if split == "train" and rows:
            tail = _template_tail(recipe, rows, counts[split])
    return {split: [count - tail for count in numbers] for split, numbers in counts.items()}


def overlong(recipe: Recipe, counts: dict[str, list[int]]) -> list[Overlong]:
    """The over-long rows of each split, of the result of `lengths`."""
    config = recipe.config
    limit = sequence_len(config)
    limits = {"train": limit, "validation": config.get("eval_sequence_len") or limit}
    strategy: Any = config.get("excess_length_strategy") or "drop"
    return [
        Overlong(split, sum(n > limits[split] for n in numbers), len(numbers),
                 max(numbers, default=0), limits[split], strategy)
        for split, numbers in counts.items()
    ]  # fmt: skip


def _template_tail(recipe: Recipe, rows: list[dict[str, Any]], counts: list[int]) -> int:
    """Tokens that a template writes after the last turn; Axolotl leaves them out."""
    shortest = counts.index(min(counts))
    ids, _ = PromptEncoder(recipe).training_ids(rows[shortest])
    return counts[shortest] - len(ids)
