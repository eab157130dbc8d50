"""The start of a WhatsApp message: its date and time in the orders that phones use.

`12/31/20, 9:15 PM - `, `31.12.20, 21:15 - `, `[31/12/2020, 21:15:03] `,
`2020. 12. 31. 오후 9:15, `, and `[21:15, 31.12.2020] ` of what WhatsApp Web copies.
A file's messages have one style; which number is the day is decided over all of them.
"""

import re
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, time
from typing import NamedTuple

_HALF = r"[ap]\.?\s?m\.?|오전|오후|上午|下午|午前|午後|ص|م"
_DATE = (
    r"(?P<first>\d{1,4})\s?(?P<separator>[./-])\s?(?P<second>\d{1,2})\s?(?P=separator)"
    r"\s?(?P<third>\d{1,4})\.?"
)
_TIME = (
    rf"(?:(?P<before>{_HALF})\s?)?(?P<hour>\d{{1,2}})[:.](?P<minute>\d{{2}})"
    rf"(?:[:.](?P<seconds>\d{{2}}))?(?:\s?(?P<after>{_HALF}))?"
)
_WHEN = rf"{_DATE}(?:,|،|\s(?:à|at|um|a las|às|kl\.?|om))?\s?{_TIME}"
STARTS = [  # of the iPhone, of WhatsApp Web, and of Android
    re.compile(rf"{start}(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
    for start in (rf"\[{_WHEN}\]\s?", rf"\[{_TIME},\s?{_DATE}\]\s?", rf"{_WHEN}(?:\s[-–]\s|,\s)")
]
AFTERNOON = re.compile(r"p\.?\s?m\.?|오후|下午|午後|م", re.IGNORECASE)


class Style(NamedTuple):
    """How a stamp is written: all that an export's own stamps have in common."""

    pattern: int  # of STARTS
    separator: str
    year_first: bool  # where it has four digits, as is `year_last`
    year_last: bool
    seconds: bool
    half_day: bool


class Stamp(NamedTuple):
    """A date as three numbers in the file's order, its time of day, and how they are written."""

    numbers: tuple[int, int, int]
    time: time
    style: Style


Order = Callable[[tuple[int, int, int]], date]
ORDERS: dict[str, Order] = {
    "day first": lambda n: date(_year(n[2]), n[1], n[0]),
    "month first": lambda n: date(_year(n[2]), n[0], n[1]),
    "year first": lambda n: date(_year(n[0]), n[1], n[2]),
}


def read_start(line: str) -> tuple[Stamp, str] | None:
    """The stamp of a line that starts a message, and what follows it; None for any other line."""
    for number, pattern in enumerate(STARTS):
        found = pattern.fullmatch(line)
        if found:
            return _stamp(found, number)
    return None


def find_style(stamps: list[Stamp]) -> Style:
    """The style of the file's own stamps; others were pasted or written into a message.

    The commonest wins. That of the first counts double, for a file begins with a stamp of its own.
    """
    counts = Counter(stamp.style for stamp in stamps)
    counts[stamps[0].style] *= 2
    return counts.most_common(1)[0][0]


def find_order(stamps: list[Stamp]) -> tuple[str, str]:
    """Which order all dates are in, and a note where that is a guess.

    A year ahead tells. Else the order that makes the most of them dates wins; then the one that
    runs back in time less often, for an export is in the order of sending. Left open, 12 hours and
    a slash mean America.
    """
    if all(stamp.numbers[0] > 31 for stamp in stamps):
        return "year first", ""
    ranked = {name: _faults(stamps, name) for name in ("day first", "month first")}
    if ranked["day first"] != ranked["month first"]:
        return min(ranked, key=lambda name: ranked[name]), ""
    if all(stamp.numbers[0] == stamp.numbers[1] for stamp in stamps):
        return "day first", ""
    american = all(s.style.half_day and s.style.separator == "/" for s in stamps)
    order = "month first" if american else "day first"
    return order, f"no date tells day from month; they are read {order}"


def moment(stamp: Stamp, order: str) -> datetime | None:
    """Date and time of a stamp; None where the order makes it no date."""
    try:
        return datetime.combine(ORDERS[order](stamp.numbers), stamp.time)
    except ValueError:
        return None


def _stamp(found: re.Match[str], pattern: int) -> tuple[Stamp, str] | None:
    first, second, third, seconds = found.group("first", "second", "third", "seconds")
    half = found["before"] or found["after"]
    hours = int(found["hour"])
    if half:
        hours = hours % 12 + (12 if AFTERNOON.fullmatch(half) else 0)
    try:
        clock = time(hours, int(found["minute"]), int(seconds or 0))
    except ValueError:
        return None
    years = len(first) > 2, len(third) > 2
    style = Style(pattern, found["separator"], *years, bool(seconds), bool(half))
    return Stamp((int(first), int(second), int(third)), clock, style), found["rest"]


def _faults(stamps: list[Stamp], order: str) -> tuple[int, int]:
    """How many stamps are no date in this order, and how often the dates run back."""
    times = [moment(stamp, order) for stamp in stamps]
    dates = [when.date() for when in times if when]
    back = sum(later < earlier for earlier, later in zip(dates, dates[1:], strict=False))
    return times.count(None), back


def _year(number: int) -> int:
    return number if number > 99 else 2000 + number
