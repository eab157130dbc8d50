"""`--anonymize`: mask people, e-mail addresses and phone numbers in a chat.

It masks the speakers (`Person 1`), other people that the export lists or a message mentions with @
(`someone`), e-mail addresses, and every number of seven or more digits that is not a date. All
other names, addresses and facts stay in the text: read it before you share it.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from string import punctuation

from chat.chat import Chat, speakers_of
from data_prep.errors import UserError

SOMEONE = "someone"
SIGNS = str.maketrans("’‘ʼ‐‑\u00a0\u2007\u202f", "'''--   ")  # to one apostrophe, hyphen and space
# Parts of a name that do not identify anyone, as in `Dr. Ahrens` and `anna from work`.
_FILLERS = "dr mr mrs ms miss prof sir the and at by for from in my of on to with"
FILLERS = frozenset(_FILLERS.split())
# Names that are also words: in lower case they count as names only after an @, or if the export
# writes them so.
_COMMON_WORDS = """
    will mark may june april august rose bill hope grace art max faith joy dawn page chase drew
    sunny summer autumn rich frank guy grant miles skip chip a an do he i in my no so to you
"""
COMMON_WORDS = frozenset(_COMMON_WORDS.split())
# Thai, Lao, Burmese, Khmer, Chinese, Japanese, Korean: words are not separated by spaces.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u9fff\uac00-\ud7a3"
WORD_START, WORD_END = rf"(?<![^\W{UNSPACED}])", rf"(?![^\W{UNSPACED}])"
FAMILY_FIRST = re.compile("[\u4e00-\u9fff]{3}|[\uac00-\ud7a3]{3}")  # 王 + 小明, 김 + 지우

DAY, YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:19|20)\d\d"
DATE = "|".join(  # not in `01.12.30.45.60`, which is a phone number
    rf"(?:{YEAR}{sign}{DAY}{sign}{DAY}|{DAY}{sign}{DAY}{sign}(?:{YEAR}|\d\d))(?!(?:{sign})?\d)"
    for sign in ("-", "/", r"\. ?")
)
TIME = r"\d?\d:\d\d(?::\d\d)?(?!\d)"
PATTERN = (  # at the same position, the first of these wins
    r"(?P<email>(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"
    r"|(?P<name>@?(?:{names}))"
    rf"|(?P<handle>{WORD_START}@(?!(?:here|channel|everyone|all)\b)[^\W\d]\w*(?:[.-]\w+)*)"
    rf"|(?P<kept>(?<!\d)(?:(?:{DAY}\.{DAY}\. ?[-–] ?)?(?:{DATE})|{TIME}|{YEAR}[-/–]{YEAR}(?!\d)))"
    r"|(?P<phone>(?:\((?=\+?\d+\)))?\+?\d[\d ()/.\t–-]{{5,}}\d(?!\d?:\d\d))"
)


class _Mask:
    """Replaces people's names in a text; `speakers` maps each speaker to a new name."""

    def __init__(self, chat: Chat):
        speakers = speakers_of(chat.messages)
        self.speakers = {name: f"Person {n}" for n, name in enumerate(speakers, 1)}
        self._new_names: dict[str, str] = {}  # by lower-case name
        spellings: set[str] = set()
        # speakers first: a name that they share with someone else is the speaker's
        groups = sorted(chat.people, key=self.speakers.keys().isdisjoint)
        for names in [*((name,) for name in speakers), *groups]:
            new_name = next((self.speakers[n] for n in names if n in self.speakers), SOMEONE)
            words = {_normalized(word) for name in names for word in (name.strip(), *_parts(name))}
            spellings |= words
            for word in {word.lower() for word in words}:
                if self._new_names.setdefault(word, new_name) != new_name != SOMEONE:
                    self._new_names[word] = SOMEONE  # several speakers share it
        self._plain_words = COMMON_WORDS - spellings
        pattern = _any_of(name for name in spellings if any(map(str.isalnum, name)))
        self._pattern = re.compile(PATTERN.format(names=pattern), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        return self._pattern.sub(self._replacement, _normalized(text))

    def _replacement(self, match: re.Match[str]) -> str:
        text, kind = match[0], match.lastgroup
        if kind == "name" and text not in self._plain_words:
            sign = "@" if text[0] == "@" else ""
            return sign + self._new_names.get(text.removeprefix("@").lower(), SOMEONE)
        if kind == "phone" and sum(map(str.isdigit, text)) > 6:
            return "<phone>"
        return {"email": "<email>", "handle": f"@{SOMEONE}"}.get(kind or "", text)


def anonymize(chat: Chat, number: int) -> Chat:
    """Return the chat with names and texts masked; the chat's own name becomes a number.

    Raises UserError if a line has no speaker: names in it cannot be told from words.
    """
    unnamed = [message.text for message in chat.messages if not message.speaker]
    if unnamed:
        raise UserError(
            f"{chat.place}: has lines without a speaker, in which names cannot be masked: "
            f"{len(unnamed)}; write `Name: ` before each, or join it to the line above"
        )
    mask = _Mask(chat)
    messages = [
        replace(m, speaker=mask.speakers.get(m.speaker, ""), text=mask(m.text))
        for m in chat.messages
    ]
    return replace(chat, name=f"chat {number}" if chat.name else "", messages=messages)


def _normalized(text: str) -> str:
    """Return a text with composed letters and one kind of apostrophe, hyphen and space."""
    return unicodedata.normalize("NFC", text).translate(SIGNS)


def _parts(name: str) -> list[str]:
    """Return the parts of a name used alone: those with a capital, or all if none has one."""
    parts = [
        part
        for part in (piece.strip(punctuation) for piece in re.split(r"[\s/,()]+", name))
        if len(part) > 1 and part[0].isalpha() and part.casefold() not in FILLERS
        and (name.islower() or not part[0].islower())
    ]  # fmt: skip
    return parts + [part[1:] for part in parts if FAMILY_FIRST.fullmatch(part)]


def _any_of(names: Iterable[str]) -> str:
    """Return a pattern that finds names as whole words, or anywhere in a script without spaces.

    The longer of two names wins. Word bounds are written once per kind: compiling takes 40 ms.
    """
    kinds: dict[tuple[str, str], list[str]] = {(WORD_START, WORD_END): [], ("", ""): []}
    for name in sorted(names, key=lambda name: (-len(name), name)):
        bounds = (WORD_START, WORD_END)
        if re.fullmatch(f"[{UNSPACED}]+", name):
            bounds = ("", "") if len(name) > 1 else (r"(?<!\w)", r"(?!\w)")
        kinds.setdefault(bounds, []).append(re.escape(name))
    parts = [f"{start}(?:{'|'.join(kind)}){end}" for (start, end), kind in kinds.items() if kind]
    return "|".join(parts) or "(?!)"
