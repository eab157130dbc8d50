"""The start of a WhatsApp message: its date and time in the orders that phones use.

`12/31/20, 9:15 PM - `, `31.12.20, 21:15 - `, `[31/12/2020, 21:15:03] `,
`2020. 12. 31. 오후 9:15, `.
Which number is the day is decided over the whole file.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time
from typing import NamedTuple

_HALF = r"[ap]\.?\s?m\.?|오전|오후|上午|下午|午前|午後|ص|م"
_DATE = r"(\d{1,4})\s?([./-])\s?(\d{1,2})\s?\2\s?(\d{1,4})\.?"
_TIME = rf"(?:({_HALF})\s?)?(\d{{1,2}})[:.](\d{{2}})(?:[:.](\d{{2}}))?(?:\s?({_HALF}))?"
_WHEN = rf"{_DATE}(?:,|،|\s(?:à|at|um|a las|às|kl\.?|om))?\s?{_TIME}"
STARTS = (  # of the iPhone, and of Android
    re.compile(rf"\[{_WHEN}\]\s?(.*)", re.IGNORECASE | re.DOTALL),
    re.compile(rf"{_WHEN}(?:\s[-–]\s|,\s)(.*)", re.IGNORECASE | re.DOTALL),
)
AFTERNOON = re.compile(r"p\.?\s?m\.?|오후|下午|午後|م", re.IGNORECASE)


class Stamp(NamedTuple):
    """A date as three numbers in the file's order, its time of day, and whether that had 12 h."""

    numbers: tuple[int, int, int]
    separator: str
    time: time
    half_day: bool


Order = Callable[[tuple[int, int, int]], date]
ORDERS: dict[str, Order] = {
    "day first": lambda n: date(_year(n[2]), n[1], n[0]),
    "month first": lambda n: date(_year(n[2]), n[0], n[1]),
    "year first": lambda n: date(_year(n[0]), n[1], n[2]),
}


def read_start(line: str) -> tuple[Stamp, str] | None:
    """The stamp of a line that starts a message, and what follows it; None for any other line."""
    found = STARTS[0 if line.startswith("[") else 1].fullmatch(line)
    if not found:
        return None
    first, separator, second, third, before, hour, minute, seconds, after, rest = found.groups()
    half = before or after
    hours = int(hour)
    if half:
        hours = hours % 12 + (12 if AFTERNOON.fullmatch(half) else 0)
    try:
        clock = time(hours, int(minute), int(seconds or 0))
    except ValueError:
        return None
    numbers = (int(first), int(second), int(third))
    return Stamp(numbers, separator, clock, bool(half)), rest


def find_order(stamps: list[Stamp]) -> tuple[str, str]:
    """Which order all dates are in, and a note where that is a guess.

    The order that makes the most of them dates wins; then the one that runs back in time less
    often, for an export is in the order of sending. Left open, 12 hours and a slash mean America.
    """
    if any(stamp.numbers[0] > 31 for stamp in stamps):
        return "year first", ""
    ranked = {name: _faults(stamps, name) for name in ("day first", "month first")}
    if ranked["day first"][0] and ranked["month first"][0] and not _faults(stamps, "year first")[0]:
        return "year first", ""
    if ranked["day first"] != ranked["month first"]:
        return min(ranked, key=lambda name: ranked[name]), ""
    if all(stamp.numbers[0] == stamp.numbers[1] for stamp in stamps):
        return "day first", ""
    american = all(stamp.half_day and stamp.separator == "/" for stamp in stamps)
    order = "month first" if american else "day first"
    return order, f"no date tells day from month; they are read {order}"


def moment(stamp: Stamp, order: str) -> datetime | None:
    """Date and time of a stamp; None where the order makes it no date."""
    try:
        return datetime.combine(ORDERS[order](stamp.numbers), stamp.time)
    except ValueError:
        return None


def _faults(stamps: list[Stamp], order: str) -> tuple[int, int]:
    """How many stamps are no date in this order, and how often the dates run back."""
    times = [moment(stamp, order) for stamp in stamps]
    dates = [when.date() for when in times if when]
    back = sum(later < earlier for earlier, later in zip(dates, dates[1:], strict=False))
    return times.count(None), back


def _year(number: int) -> int:
    return number if number > 99 else 2000 + number
