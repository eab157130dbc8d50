"""Clean rows and keep evaluation dialogues out of training; each step counted and switchable."""

import ast
import hashlib
import json
import re
from collections import Counter
from contextlib import suppress
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.settings import Summarization
from data_prep.sources import SPLITS

HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can spell it, UTF-8 cannot
TRAILING_BLANKS = re.compile(r"[^\S\r\n]+(?=[\r\n]|\Z)")


class Cleaned(NamedTuple):
    """A row's dialogue and its summaries, one or more; a row with a `reason` is to be dropped."""

    dialogue: str
    summaries: list[str]
    reason: str = ""


class Cleaner:
    """Applies a recipe's cleaning to one row after another.

    Feed it the test split, then validation, then train, which must not hold a dialogue of the
    other two. It keeps a 16-byte hash of each distinct row and of each evaluation dialogue, with
    the ids of the latter, and no text.
    """

    def __init__(self, settings: Summarization):
        """`settings`: the recipe's `summarization:` block."""
        self._settings = settings
        self._steps = settings.cleaning
        self._rows: dict[str, set[bytes]] = {split: set() for split in SPLITS}
        self._held_out: dict[str, dict[bytes, list[str]]] = {"test": {}, "validation": {}}
        self._seen_in_train: set[bytes] = set()
        self.changed: Counter[str] = Counter()

    def __call__(self, split: str, place: str, row_id: str, row: dict[str, object]) -> Cleaned:
        """Clean a row, and say whether it is to be dropped."""
        column = self._settings.dialogue_column
        dialogue = self._text(place, column, self._value(place, row, column))
        summaries = self._summaries(place, row)
        if self._steps.drop_empty:
            summaries = [text for text in summaries if text.strip()]
            if not dialogue.strip():
                return Cleaned(dialogue, summaries, "empty dialogue")
        if not summaries:
            return Cleaned(dialogue, summaries, "empty summary")
        return Cleaned(dialogue, summaries, self._seen_before(split, row_id, dialogue, summaries))

    def overlaps(self) -> dict[str, int]:
        """How many distinct evaluation dialogues are elsewhere too, white space folded."""
        test, validation = (self._held_out[split].keys() for split in ("test", "validation"))
        return {
            "test_in_train": len(test & self._seen_in_train),
            "validation_in_train": len(validation & self._seen_in_train),
            "test_in_validation": len(test & validation),
        }

    def leaked(self) -> dict[str, list[str]]:
        """Ids of the evaluation rows whose dialogue is in the training rows of the source."""
        found: dict[str, list[str]] = {}
        for split, rows in self._held_out.items():
            leaks = (ids for dialogue, ids in rows.items() if dialogue in self._seen_in_train)
            found[split] = [row_id for ids in leaks for row_id in ids]
        return found

    def _summaries(self, place: str, row: dict[str, object]) -> list[str]:
        """Those of every summary column; each holds a text or a list of them."""
        columns = self._settings.summary_column
        found = []
        for column in [columns] if isinstance(columns, str) else columns:
            value = self._value(place, row, column)
            found += [self._text(place, column, text) for text in as_list(value)]
        return list(dict.fromkeys(found))

    def _value(self, place: str, row: dict[str, object], column: str) -> object:
        if column not in row:
            raise UserError(
                f"{place}: has no column `{column}` (found: {', '.join(map(str, row))}); set "
                "summarization.dialogue_column and summarization.summary_column"
            )
        return row[column]

    def _text(self, place: str, column: str, text: object) -> str:
        if text is None:
            return ""
        if not isinstance(text, str):
            raise UserError(f"{place}: `{column}` is {type(text).__name__}, not text; fix the row")
        if HALF_PAIR.search(text):
            raise UserError(f"{place}: `{column}` holds half of a surrogate pair; fix the row")
        if self._steps.normalize_newlines and "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            self.changed["normalize_newlines"] += 1
        if self._steps.strip_trailing_blanks:
            stripped = TRAILING_BLANKS.sub("", text).strip("\r\n")
            self.changed["strip_trailing_blanks"] += stripped != text
            text = stripped
        return text

    def _seen_before(self, split: str, row_id: str, dialogue: str, summaries: list[str]) -> str:
        folded = _digest(" ".join(dialogue.split()))
        if split != "train":
            self._held_out[split].setdefault(folded, []).append(row_id)
        else:
            for held_out, dialogues in self._held_out.items():
                if folded in dialogues:
                    self._seen_in_train.add(folded)
                    if self._steps.decontaminate:
                        return f"dialogue is in {held_out}"
        if self._steps.drop_duplicates:
            row = _digest("\0".join([dialogue, *summaries]))
            if row in self._rows[split]:
                return "exact duplicate"
            self._rows[split].add(row)
        return ""


def as_list(value: object) -> list[Any]:
    """A list as it is, and one that was written as text (JSON's or Python's); else the value alone.

    pandas writes a column of lists to CSV as `['first', 'second']`.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                texts = parse(value.strip())
                if isinstance(texts, list) and texts and all(isinstance(t, str) for t in texts):
                    return texts
    return value if isinstance(value, list) else [value]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
