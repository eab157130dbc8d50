"""Rows as long as SAMSum's, without its text: words drawn at random, lengths of its distribution.

The distribution is a log-normal one, cut at SAMSum's longest row, and fitted to its token counts
with Mistral's tokenizer; a test holds it against the corpus itself.
"""

import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.prepare import prepare
from data_prep.prompt import TokenCounter, to_row
from data_prep.recipe import Recipe

MEDIAN, SPREAD, LONGEST = 185, 0.56, 1200  # tokens of a row; of their logarithm; tokens
SUMMARY = 0.12  # of a row's tokens
VALIDATION = 64  # rows
WORDS = ["the", "we", "you", "meet", "station", "tomorrow", "at", "seven", "dinner", "sure",
         "maybe", "bring", "photos", "train", "late", "see", "there", "great", "wait",
         "call"]  # fmt: skip


def row_lengths(count: int, seed: int = 0) -> list[int]:
    """Tokens of each row, prompt and summary together."""
    rng = random.Random(seed)
    found: list[int] = []
    while len(found) < count:
        tokens = round(MEDIAN * rng.lognormvariate(0, SPREAD))
        if tokens <= LONGEST:
            found.append(tokens)
    return found


def prepare_rows(recipe: Recipe, model: Path, folder: Path, count: int) -> None:
    """Write a corpus of such rows to `folder/source`, and prepare it for the recipe in `folder`."""
    source = folder / "source"
    source.mkdir(parents=True)
    changed = {"source": str(source), "train_rows": "all"}
    block = recipe.summarization.model_copy(update=changed)
    config = {**recipe.config, "base_model": str(model)}
    random_rows = replace(recipe, config=config, summarization=block)
    bare = to_row("0", "", "", block.instruction)
    fixed = TokenCounter(random_rows).count([bare])[0]
    for split, rows in (("train", count), ("validation", VALIDATION), ("test", VALIDATION)):
        made = [_row(f"{split}{i}", n - fixed) for i, n in enumerate(row_lengths(rows, rows))]
        (source / f"{split}.jsonl").write_text("\n".join(map(json.dumps, made)), "utf-8")
    before = Path.cwd()
    os.chdir(folder)  # the recipe's own relative paths then lie in there
    try:
        prepare(random_rows)
    finally:
        os.chdir(before)


def _row(row_id: str, tokens: int) -> dict[str, Any]:
    """Dialogue and summary of about `tokens` tokens together: each word is one of Mistral's."""
    rng = random.Random(row_id)
    words = [rng.choice(WORDS) for _ in range(max(8, tokens))]
    cut = max(3, round(SUMMARY * len(words)))
    return {
        "id": row_id,
        "dialogue": f"Ann: {' '.join(words[cut:])}",
        "summary": " ".join(words[:cut]),
    }
