"""Read dialogues that are lists of turns, recognised by their shape.

Supported are lists of strings, of pairs, and of objects such as `{speaker, text}`,
`{role, content}` and `{from, value}`, and objects of parallel lists, as `datasets` makes of these.
"""

import ast
import io
import json
import re
import tokenize
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

# If an object has several of these keys, the first one in this order is used.
SPEAKER_KEYS = (
    "speaker", "role", "from", "author", "sender", "speaker_name", "sender_name", "participant",
    "agent", "username", "user_name", "user", "nickname", "name", "person", "character", "who",
    "speaker_id", "is_agent", "is_customer",
)  # fmt: skip
TEXT_KEYS = (
    "text", "content", "value", "utterance", "message", "utt", "body", "msg", "sentence",
    "sentences", "utterances", "transcript", "line", "turn",
)  # fmt: skip


# Written without commas by NumPy, which pandas uses for columns of objects: `[{'a': 1}\n {'a': 2}]`
NUMPY = re.compile(r"\}[ \t]*\n[ \t]*\{['\"]")


class Turn(NamedTuple):
    """Who said what; the speaker is empty if the list has none."""

    speaker: str
    text: str

    def line(self) -> str:
        """Return the turn as one line of a dialogue: `Anna: hi`."""
        text = " ".join(self.text.splitlines())
        return f"{self.speaker}: {text}" if self.speaker else text


def as_turns(value: object, speaker: str = "", text: str = "") -> list[Turn] | None:
    """Return the turns of a list, except those without text; None if the shape is not known.

    `speaker` and `text`: the keys of each turn, if they are not the usual ones.
    """
    items = _items_of(value)
    if items is None:
        return None
    if not all(isinstance(item, dict) for item in items):
        pairs = [item if isinstance(item, list | tuple) else ("", item) for item in items]
        if not all(len(pair) == 2 and all(map(_is_text, pair)) for pair in pairs):
            return None
    else:
        speaker, text = _keys(items, speaker, text)
        if not all(not item or text in item for item in items):
            return None
        if speaker and not any(speaker in item for item in items):  # a key from the recipe
            return None
        pairs = [(_name(speaker, item.get(speaker)), item.get(text)) for item in items]
    turns = [Turn(" ".join(plain(name).split()), plain(words).strip()) for name, words in pairs]
    return [turn for turn in turns if turn.text]


def shape(value: object, speaker: str = "", text: str = "") -> str:
    """Return how a list of turns is written, for notes: `strings`, `pairs`, `{speaker, text}`."""
    items = _items_of(value) or []
    if items and all(isinstance(item, dict) for item in items):
        return "{" + ", ".join(filter(None, _keys(items, speaker, text))) + "}"
    return "pairs" if any(isinstance(item, list | tuple) for item in items) else "strings"


def as_list(value: object) -> list[Any]:
    """Return a list, also if it was written as text (JSON or Python); otherwise `[value]`.

    pandas writes a column of lists to CSV as `['first', 'second']`, and an object of parallel
    lists in the same way. Raises ValueError for NumPy's `['first' 'second']`, whose two strings
    Python would join.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        parsed: Any = None
        with suppress(ValueError, RecursionError):
            parsed = json.loads(value)
        if parsed is None:
            with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                parsed = ast.literal_eval(value.strip())
                if _joins_strings(value):
                    parsed = ...
        ends = (value.lstrip()[:2], value.rstrip()[-2:])
        if parsed is None and ends == ("[{", "}]") and NUMPY.search(value):
            parsed = ...
        if parsed is ...:
            raise ValueError(
                "is a list without commas, as NumPy writes it; call `.tolist()` before it is saved"
            )
        parsed = _items_of(parsed)
        if parsed and len({type(item) for item in parsed}) == 1 \
                and isinstance(parsed[0], str | dict | list):  # fmt: skip
            return parsed
    return value if isinstance(value, list) else [value]


def _joins_strings(text: str) -> bool:
    tokens = tokenize.generate_tokens(io.StringIO(text.strip()).readline)
    kinds = [token.type for token in tokens if token.type != tokenize.NL]
    return (tokenize.STRING, tokenize.STRING) in pairwise(kinds)


def _items_of(value: object) -> list[Any] | None:
    """Return a list without nulls; an object of equally long lists becomes a list of objects."""
    if isinstance(value, dict) and value and all(isinstance(v, list) for v in value.values()):
        if len({len(column) for column in value.values()}) > 1:
            return None
        rows = zip(*value.values(), strict=True)
        return [dict(zip(value, row, strict=True)) for row in rows]
    return [item for item in value if item is not None] if isinstance(value, list) else None


def _keys(items: list[dict[str, Any]], speaker: str, text: str) -> tuple[str, str]:
    known = {str(key).lower(): key for item in items for key in item}
    speakers = [known[key] for key in SPEAKER_KEYS if key in known]
    if speakers[:1] == [known.get("role")] and "name" in known:  # OpenAI's `{role, name}`
        names, roles = ([item.get(k) for item in items] for k in (known["name"], known["role"]))
        named = all(isinstance(name, str) and name for name in names)
        if named and len({*names}) >= len({*map(str, roles)}):
            speakers = [known["name"]]
    texts = [known[key] for key in TEXT_KEYS if key in known]
    # a turn's number is not its text, if there is another
    worded = [k for k in texts if not all(type(item.get(k)) in (int, float) for item in items)]
    return speaker or next(iter(speakers), ""), text or next(iter(worded or texts), "")


def _name(key: str, value: object) -> object:
    """Return a speaker's name; TweetSumm's `is_agent` becomes `Agent` if true, else `Other`."""
    if isinstance(value, bool):
        return key.removeprefix("is_").capitalize() if value else "Other"
    return value


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def plain(value: object) -> str:
    """Return the text of a value; sentences and message parts are joined, however deeply nested."""
    texts, pending = [], [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.append(value.get("text") or value.get("name"))
        elif isinstance(value, list):
            pending += reversed(value)
        elif value is not None:
            texts.append(str(value))
    return " ".join(filter(None, texts))
