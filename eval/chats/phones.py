"""Phone numbers in a text, and what looks like one: dates, times, seasons, amounts, scores."""

import re

from eval.chats.names import AFTER, BEFORE

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
