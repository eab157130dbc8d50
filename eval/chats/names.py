"""A name as it may stand in a text: how it is spelt, its parts, and where it begins and ends."""

import re
import unicodedata
from collections.abc import Iterable

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
