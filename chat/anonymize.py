"""Names, numbers and addresses out of a chat: `Person 1`, `<phone>`, `<email>`.

What is masked are the names that the export itself knows: those who write, and those whom Telegram
and Slack list. A name that stands in the text alone cannot be told from another word. In doubt more
is masked than need be.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from chat.chat import Chat, speakers_of

_TITLES = "dr mr mrs ms miss prof sir the and van von der den del della dos das los"
_BETWEEN = "at by for from in my of on our to with"  # as in a contact called `anna from work`
SMALL = frozenset([*_TITLES.split(), *_BETWEEN.split()])
_SAME = str.maketrans("’‘ʼ‐‑\u00a0\u2007\u202f", "'''--   ")
_I = str.maketrans("İı", "ii")  # as `re.I` has them
# Vowel signs and accents, which are no `\w`; the second ones of Thai, Lao, Burmese and Khmer.
_SIGNS = "\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0dff"
_THAI = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
# Scripts in which a word may follow another, or a particle a name, without a blank.
_GLUED = f"{_THAI}\u3005-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
BEFORE = rf"(?<![^\W{_GLUED}])(?<![{_SIGNS}])"
AFTER = rf"(?![^\W{_GLUED}]|[{_SIGNS}])"
_LETTERS = rf"(?:[^\W\d_]|[{_SIGNS}{_THAI}])+"
_PART = re.compile(rf"{_LETTERS}(?:['-]{_LETTERS})*")
_GLUED_NAME = re.compile(f"[{_GLUED}]+")
_FAMILY_FIRST = re.compile("[\u4e00-\u9fff]{3}|[\uac00-\ud7a3]{3}")  # 王 + 小明, 김 + 지우

_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_YEAR = r"(?:19|20)\d\d"
_DATE = "|".join(  # not in `01.12.30.45.60` and `0151 12-11-20`, which are numbers of phones
    rf"(?:{_YEAR}{sign}{_DAY}{sign}{_DAY}|{_DAY}{sign}{_DAY}{sign}{_YEAR}"
    rf"|(?<!\d ){_DAY}{sign}{_DAY}{sign}\d\d)(?!(?:{sign})?\d)"
    for sign in ("-", "/", r"\. ?")
)
_TO = r"\s?[-–]\s?"
_TIME = r"\d?\d:\d\d(?::\d\d)?(?!\d)"
_SEASON = rf"{_YEAR}(?:{_TO}|/){_YEAR}(?![-/. ]?\d)"
# 1.250.000 and 250 000 000, but not 612.345.678.
_AMOUNT = r"(?:[1-9]\d?(?:[. ]\d{3}){2}|[1-9]\d{0,2}(?:[. ]000){2,})(?![-/. ]?\d)"
_KEPT = re.compile(
    r"(Person \d{1,5}\b|(?<![\d+(])(?:"
    rf"(?<!\d[-/.])(?:(?:{_DATE})(?:{_TO}(?:{_DATE}))?|{_TIME}|{_SEASON})|(?<!\d[-/. ]){_AMOUNT}))"
)
_NUMBER = re.compile(
    rf"(?:(?<=wa\.me/)|{BEFORE}(?<!/)(?<!\d[.,:-]))"
    rf"(?:\+|\((?=\+?\d{{1,5}}\))\+?)?\d[\d ()/.\t–-]{{5,}}\d{AFTER}"
)

OTHERS = "someone"
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
HANDLE = re.compile(rf"{BEFORE}(?<!@)@([^\W\d]\w*(?:[.-]\w+)*)")
EVERYONE = frozenset(["here", "channel", "everyone", "all"])
# Names that chats hold as words too: in small letters they are names only where the export writes
# them so, or after an @.
_WORDS = """
    will mark may june april august rose bill hope grace art max faith joy dawn page chase drew
    sunny summer autumn rich frank guy grant miles skip chip
    a an do he i in my no so to you
"""
WORDS = frozenset(_WORDS.split())


class _Mask:
    """Replaces what names a person in a text."""

    def __init__(self, chat: Chat):
        speakers = speakers_of(chat.messages)
        self.people = {name: f"Person {n}" for n, name in enumerate(speakers, 1)}
        self._words: dict[str, str] = {}
        self._spelled: set[str] = set()
        self._small: set[str] = set()
        for names in (*((name,) for name in speakers), *sorted(chat.people, key=self._who)):
            for name in names:
                self._learn(same(name).strip(), self._who(names))
        self._kept = WORDS - self._small
        self._pattern = pattern(self._spelled)

    def __call__(self, text: str) -> str:
        text = EMAIL.sub("<email>", same(text))
        return mask_phones(self._pattern.sub(self._person, HANDLE.sub(self._handle, text)))

    def _who(self, names: tuple[str, ...]) -> str:
        """The person with these names; `Person ...` sorts before `someone`."""
        return next((self.people[name] for name in names if name in self.people), OTHERS)

    def _learn(self, name: str, person: str) -> None:
        """Take in a name and its parts; one that speakers share is nobody's."""
        for word in filter(None, (name, *parts(name))):
            if word.islower():
                self._small.add(key(word))
            for spelled in spellings(word):
                self._spelled.add(spelled)
                known = self._words.setdefault(key(spelled), person)
                if known != person != OTHERS:
                    self._words[key(spelled)] = OTHERS

    def _handle(self, found: re.Match[str]) -> str:
        """A handle as `@someone`, unless it is just a name that is known."""
        name = self._pattern.match(found.string, found.start(1))
        known = name and found.string[name.end() : found.end()][:1] not in (".", "-")
        return found[0] if known or found[1].lower() in EVERYONE else f"@{OTHERS}"

    def _person(self, found: re.Match[str]) -> str:
        word, before = key(found[0]), found.string[found.start() - 1 : found.start()]
        if word in self._kept and found[0][0].islower() and before != "@":
            return found[0]
        return self._words.get(word, OTHERS)


def anonymize(chat: Chat, number: int) -> Chat:
    """The chat with its speakers as Person 1, Person 2 ..., in the text too; its name is a number.

    Others whom the export knows become `someone`.
    """
    mask = _Mask(chat)
    messages = [
        replace(m, speaker=mask.people.get(m.speaker, ""), text=mask(m.text)) for m in chat.messages
    ]
    return replace(chat, name=f"chat {number}" if chat.name else "", messages=messages)


def same(text: str) -> str:
    """A text with composed letters and one kind of apostrophe, hyphen and blank."""
    return unicodedata.normalize("NFC", text).translate(_SAME)


def key(name: str) -> str:
    """What all ways to write a name in large and small letters have in common."""
    return name.translate(_I).casefold()


def parts(name: str) -> list[str]:
    """The parts of a name that may stand alone: with a capital, unless the name has none at all."""
    found = [
        part
        for part in _PART.findall(name)
        if len(part) > 1 and key(part) not in SMALL and (name.islower() or not part[0].islower())
    ]
    return found + [part[1:] for part in found if _FAMILY_FIRST.fullmatch(part)]


def spellings(name: str) -> set[str]:
    """A name as it is, as its key (`Weiss` for `Weiß`), and without accents."""
    bare = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFD", name))
    return {name, key(name), unicodedata.normalize("NFC", bare)}


def pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Finds any of the names, the longest first, in large and small letters.

    A name is not found inside a longer word, but in scripts without blanks: there only a single
    character must stand alone.
    """
    each = {name.lower(): name for name in sorted(names)}.values()
    ordered = sorted(each, key=lambda name: (-len(name), name))
    glued = [name for name in ordered if _GLUED_NAME.fullmatch(name)]
    found = [
        _any([name for name in ordered if name not in glued], BEFORE, AFTER),
        _any([name for name in glued if len(name) > 1], "", ""),
        _any([name for name in glued if len(name) == 1], r"(?<!\w)", r"(?!\w)"),
    ]
    return re.compile("|".join(filter(None, found)) or "(?!)", re.IGNORECASE)


def _any(names: list[str], before: str, after: str) -> str:
    return f"{before}(?:{'|'.join(map(re.escape, names))}){after}" if names else ""


def mask_phones(text: str) -> str:
    """The text with `<phone>` for its phone numbers; its blanks are those of `names.same`.

    In doubt a number is taken for one of a phone.
    """
    pieces = _KEPT.split(text)
    pieces[::2] = [_NUMBER.sub(_phone, piece) for piece in pieces[::2]]
    return "".join(pieces)


def _phone(found: re.Match[str]) -> str:
    """Groups of one or two digits are a score or the like, unless all are alike or 0 or + leads."""
    groups = re.findall(r"\d+", found[0])
    lengths = [len(group) for group in groups]
    leads = found[0][0] in "+(" or (groups[0][0] == "0" and lengths[0] > 1)
    alike = set(lengths) == {2} and len(set(re.findall(r"\D+", found[0]))) == 1
    phone = sum(lengths) > 6 and (leads or alike or max(lengths) > 2)
    return "<phone>" if phone else found[0]
