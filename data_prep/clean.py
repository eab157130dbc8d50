"""Clean rows and keep evaluation dialogues out of training; each step is counted and optional."""

import hashlib
import re
from collections import Counter
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.formats import SPLITS, SourceRow
from data_prep.settings import Summarization
from data_prep.turns import Turn, as_list, as_turns, plain, shape

HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can encode it, UTF-8 cannot
TRAILING_BLANKS = re.compile(r"(?<![^\S\r\n])[^\S\r\n]+(?=[\r\n]|\Z)")
# How turns end in a dialogue without newlines: with a literal `\n` of two characters, HTML, or
# Unicode's own separators (U+0085, U+2028, U+2029).
TURN_ENDS = re.compile(
    r"(?:(?<![ \t])[ \t]+)?(?:(?:\\r)?\\n|<br ?/?>|[\v\x85\u2028\u2029])[ \t]*", re.IGNORECASE
)
# What pandas, R, SQL and spreadsheets write for a missing value.
MISSING_VALUES = {"nan", "none", "null", "n/a", "na", "<na>", "#n/a"}


class Cleaned(NamedTuple):
    """A row's dialogue, its summaries, and the other columns that the prompt contains.

    A row with a `reason` must be dropped.
    """

    dialogue: str
    summaries: list[str]
    columns: dict[str, str]
    reason: str = ""


class Cleaner:
    """Applies a recipe's cleaning to one row after another.

    Feed it the test split, then validation, then train, which must not contain a dialogue of the
    other two. It stores a 16-byte hash of each distinct row and of each evaluation dialogue, and
    the ids of the latter, but no text.
    """

    def __init__(self, settings: Summarization):
        """`settings`: the recipe's `summarization:` block."""
        self._settings = settings
        self._steps = settings.cleaning
        self._rows: dict[str, set[bytes]] = {split: set() for split in SPLITS}
        self._held_out: dict[str, dict[bytes, list[str]]] = {"test": {}, "validation": {}}
        self._seen_in_train: set[bytes] = set()
        self.changed: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()  # number of rows by note

    def __call__(self, split: str, row_id: str, row: SourceRow) -> Cleaned:
        """Clean a row; the result has a `reason` if the row must be dropped."""
        dialogue, summaries = self._dialogue(row), self._summaries(row)
        columns: dict[str, str] = {}
        for name in self._settings.prompt_columns:
            value = self._value(row, name, in_prompt=True)
            value = plain(value) if isinstance(value, int | float | list) else value
            columns[name] = self._text(row, name, value)
            self.notes[f"empty `{name}` in the prompt"] += not columns[name].strip()
        reason = ""
        if self._steps.drop_empty:
            summaries = [text for text in summaries if text.strip()]
            reason = "" if dialogue.strip() else "empty dialogue"
        reason = reason or ("" if summaries else "empty summary")
        if not reason:
            self.notes["dialogues of one line"] += "\n" not in dialogue
            joined = " ".join(dialogue.split())
            contained = [" ".join(text.split()) in joined for text in summaries if " " in text]
            self.notes["summaries in the prompt"] += any(contained)
            self.notes["shorter dialogues"] += len(dialogue) < len(summaries[0])
            texts = [dialogue, *columns.values(), *summaries]
            reason = self._seen_before(split, row_id, dialogue, texts)
        return Cleaned(dialogue, summaries, columns, reason)

    def overlaps(self) -> dict[str, int]:
        """Count distinct evaluation dialogues that are also in another split, ignoring blanks."""
        test, validation = (self._held_out[split].keys() for split in ("test", "validation"))
        return {
            "test_in_train": len(test & self._seen_in_train),
            "validation_in_train": len(validation & self._seen_in_train),
            "test_in_validation": len(test & validation),
        }

    def leaked(self) -> dict[str, list[str]]:
        """Return the ids of evaluation rows whose dialogue is in the source's training rows."""
        leaked_ids: dict[str, list[str]] = {}
        for split, dialogues in self._held_out.items():
            leaks = (ids for dialogue, ids in dialogues.items() if dialogue in self._seen_in_train)
            leaked_ids[split] = [row_id for ids in leaks for row_id in ids]
        return leaked_ids

    def _dialogue(self, row: SourceRow) -> str:
        """Return a row's dialogue, one turn per line; the column is a text or a list of turns."""
        column, keys = self._settings.dialogue_column, self._settings.turns
        value = self._parsed_value(row, column)
        if keys.speaker_column:
            speakers = self._parsed_value(row, keys.speaker_column)
            if not isinstance(value, list) or not isinstance(speakers, list):
                raise UserError(f"{row.place}: `{column}`, `{keys.speaker_column}` must be lists")
            if len(value) != len(speakers):
                raise UserError(
                    f"{row.place}: `{column}` has {len(value)} turns and `{keys.speaker_column}` "
                    f"{len(speakers)} speakers; fix the row"
                )
            value = [list(map(plain, pair)) for pair in zip(speakers, value, strict=True)]
        if value is None or isinstance(value, str):
            text = self._text(row, column, value)
            if self._steps.normalize_newlines and "\n" not in text:
                text, count = TURN_ENDS.subn("\n", text)
                note = "dialogues whose turns ended in <br>, a spelled-out \\n or the like"
                self.notes[note] += count > 0
            return text
        turns = as_turns(value, keys.speaker, keys.text)
        if turns is None:
            raise UserError(
                f"{row.place}: `{column}` is {_kind(value)}, neither text nor a known list of "
                "turns; set the keys of a turn with `summarization.turns: {speaker: ..., "
                "text: ...}`, or fix the row"
            )
        self.notes[f"dialogues that are lists of {shape(value, keys.speaker, keys.text)}"] += 1
        return self._text(row, column, "\n".join(map(Turn.line, turns)))

    def _summaries(self, row: SourceRow) -> list[str]:
        """Return the distinct summaries of all summary columns; each is a text or a list."""
        texts = []
        for column in self._settings.summary_columns:
            value = self._parsed_value(row, column)
            for text in value if isinstance(value, list) else [value]:
                texts.append(self._text(row, column, plain(text) if type(text) is list else text))
        return list(dict.fromkeys(texts))

    def _parsed_value(self, row: SourceRow, column: str) -> Any:
        """Return the value of a column; a list that was written as text becomes a list."""
        value = self._value(row, column)
        try:
            parsed = as_list(value)
        except ValueError as error:
            raise UserError(f"{row.place}: `{column}` {error}") from error
        if isinstance(value, str) and parsed != [value]:
            self.notes[f"lists in `{column}` that were written as text"] += 1
            return parsed
        return value

    def _value(self, row: SourceRow, column: str, in_prompt: bool = False) -> Any:
        try:
            return value_at(row.columns, column)
        except (LookupError, ValueError) as error:
            problem = f"has no column `{column}` (found: {', '.join([*row.columns][:12])})"
            if in_prompt:
                raise UserError(
                    f"{row.place}: {problem}, which summarization.instruction uses; remove "
                    f"`{{{column}}}` from it, or add the column"
                ) from error
            last_items = {n: v[-1] for n, v in row.columns.items() if isinstance(v, list) and v}
            examples = [
                f"{n}.-1.{[*item][-1]}"
                for n, item in last_items.items()
                if item and isinstance(item, dict)
            ]
            hint = f", or to a place inside one, such as `{examples[-1]}`" if examples else ""
            if column in self._settings.summary_columns and not examples:
                hint = "; or cut the split from train: `summarization.test_rows: 0.1`"
            raise UserError(
                f"{row.place}: {problem}; set summarization.dialogue_column and "
                f"summarization.summary_column to the right columns{hint}"
            ) from error

    def _text(self, row: SourceRow, column: str, text: object) -> str:
        if text is None:
            return ""
        if not isinstance(text, str):
            raise UserError(f"{row.place}: `{column}` is {_kind(text)}, not text; fix the row")
        if HALF_PAIR.search(text):
            raise UserError(f"{row.place}: `{column}` has half of a surrogate pair; fix the row")
        if text.strip().lower() in MISSING_VALUES:
            self.notes[f"`{column}` that is {text.strip()!r}, which counts as empty"] += 1
            return ""
        if self._steps.normalize_newlines and "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
            self.changed["normalize_newlines"] += 1
        if self._steps.strip_trailing_blanks:
            stripped = TRAILING_BLANKS.sub("", text).strip("\r\n")
            self.changed["strip_trailing_blanks"] += stripped != text
            text = stripped
        return text

    def _seen_before(self, split: str, row_id: str, dialogue: str, texts: list[str]) -> str:
        dialogue_hash = digest(" ".join(dialogue.split()))
        if split != "train":
            self._held_out[split].setdefault(dialogue_hash, []).append(row_id)
        else:
            for other_split, hashes in self._held_out.items():
                if dialogue_hash in hashes:
                    self._seen_in_train.add(dialogue_hash)
                    if self._steps.decontaminate:
                        return f"dialogue is in {other_split}"
        if self._steps.drop_duplicates:
            row_hash = digest("\0".join(texts))
            if row_hash in self._rows[split]:
                return "exact duplicate"
            self._rows[split].add(row_hash)
        return ""


def _kind(value: object) -> str:
    kinds = {"dict": "an object", "list": "a list"}
    return kinds.get(type(value).__name__, type(value).__name__)


def value_at(columns: dict[str, Any], name: str) -> Any:
    """Return the value of a column, or of a place in one: `dialog.turns`, `messages.-1.content`.

    In a list of objects, a name is looked up in each of them. Raises LookupError if there is no
    such column or place.
    """
    if name in columns:
        return columns[name]
    value: Any = columns
    for part in name.split("."):
        if isinstance(value, list) and re.fullmatch(r"-?\d+", part):
            value = value[int(part)]
        elif isinstance(value, list):
            value = [item[part] for item in value if isinstance(item, dict)]
        elif isinstance(value, dict):
            value = value[part]
        else:
            raise LookupError(name)
    return value


def digest(text: str) -> bytes:
    """Return a 16-byte hash."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
