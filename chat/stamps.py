"""The timestamp before a line of a chat: date and time as any language or app writes them."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from datetime import date, datetime, time, timedelta
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from babel import Locale, localedata
from babel.core import get_global

EDGES = "\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069"  # text direction marks
_GAP = rf"[\s{EDGES}]*"
_DATE = (
    rf"(?P<first>\d{{1,4}}){_GAP}[./年년-]{_GAP}(?P<second>\d{{1,2}}){_GAP}[./月월-]{_GAP}"
    r"(?P<third>\d{1,4})[日일]?"
)
_TIME = (
    rf"(?P<hour>\d{{1,2}})(?:[:.]|{_GAP}h{_GAP})(?P<minute>\d\d)"
    rf"(?:(?:[:.]|{_GAP}min{_GAP})(?P<seconds>\d\d)(?:{_GAP}s\b)?)?"
)
_AFTER = rf"(?P<after>{_GAP}[^\W\d_][^\d\n:,;()\[\]–-]{{0,19}}?)?"  # `p. m.`, `Uhr`, `ч.`
_AM_PM = rf"(?P<after>{_GAP}[ap]\.?{_GAP}m\.?)?"
_WHEN = (
    rf"{_DATE}(?P<before>[^\d\n:]{{0,20}}?){_TIME}"  # between them `, `, ` klo `, ` 오후 `, `] `
)
STARTS = [  # iPhone, WhatsApp Web, Android, Vietnam, other apps, old iPhones
    re.compile(rf"{start}(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
    for start in (
        rf"\[{_GAP}{_WHEN}{_AFTER}\)?{_GAP}\]\s?",
        rf"\[{_GAP}{_TIME}{_AFTER}[,\s]+{_DATE}(?P<before>){_GAP}\]\s?",
        rf"{_WHEN}{_AFTER}\)?{_GAP}[-–—]\s",
        rf"{_TIME}{_AFTER},?\s{_DATE}(?P<before>){_GAP}[-–—]\s",
        rf"\[?{_GAP}{_WHEN}{_AM_PM}(?:[,;:]\s|\t)",
        rf"{_WHEN}(?<=\d[:.]\d\d[:.]\d\d)(?P<after>)\s(?=[^\s:][^:\n]*:)",
    )
]

# Positions of year, month and day among a date's three numbers.
ORDERS = {"day first": (2, 1, 0), "month first": (2, 0, 1), "year first": (0, 1, 2)}


class Stamp(NamedTuple):
    """A date as three numbers in the file's order, the time of day, and how they are written.

    In `style`, 9 is a number, Y for a four-digit year, H for a part of the day such as AM.
    """

    numbers: tuple[int, int, int]
    time: time
    style: str

    def moment(self, order: str) -> datetime | None:
        """Return date and time; None if there is no such date in this order."""
        year, month, day = (self.numbers[position] for position in ORDERS[order])
        # WhatsApp began in 2009, the Buddhist year 2552: so 52 to 99 are Buddhist years
        year += 2000 if year < 52 else 1957 if year < 100 else -543 if year > 2400 else 0
        try:
            return datetime.combine(date(year, month, day), self.time)
        except ValueError:
            return None


@cache
def _day_periods() -> dict[str, set[int]]:
    """Return the hours that each word for a part of the day may mean, in all official languages.

    Takes up to a second, so it is only called for a word that `_hours` does not know.
    """
    words: dict[str, set[int]] = defaultdict(set)
    territories = get_global("territory_languages").values()
    official = {code for codes in territories for code, f in codes.items() if f["official_status"]}
    for locale in map(Locale.parse, sorted(filter(localedata.exists, official))):
        forms = locale.day_periods.get("format", {})
        rules = {**locale.day_period_rules.get(None, {}), "am": [{}], "pm": [{"from": 43200}]}
        for period, word in [*forms.get("wide", {}).items(), *forms.get("abbreviated", {}).items()]:
            for rule in rules.get(period, []):
                start = rule.get("from", rule.get("at", 0)) // 3600
                default_end = 12 if period == "am" else start + 1 if "at" in rule else 24
                end = rule.get("before", 3600 * default_end) // 3600
                hours = range(start, end + 24 * (end < start))
                words[_letters(word)].update(hour % 24 for hour in hours)
    return words


def _letters(word: str) -> str:
    return "".join(c for c in word.casefold() if unicodedata.category(c)[0] in "LM")


def _hours(word: str) -> Collection[int]:
    """Return the hours that a word next to the time allows; empty for a word like `Uhr`."""
    letters = _letters(word)
    morning, afternoon = range(12), range(12, 24)
    known = {"": (), "a": morning, "am": morning, "p": afternoon, "pm": afternoon}
    return known[letters] if letters in known else _day_periods().get(letters, ())


def read_start(line: str) -> tuple[Stamp, str] | None:
    """Return the stamp of a line that starts a message, and the rest; None for other lines."""
    line = re.sub(rf"^[{EDGES}]+", "", line)
    match = next(filter(None, (pattern.fullmatch(line) for pattern in STARTS)), None)
    if not match:
        return None
    stamp, hour = line[: match.start("rest")], int(match["hour"])
    for word in filter(None, (match["before"], match["after"])):
        if hours := _hours(word):
            both = hour % 12, hour % 12 + 12
            allowed = [h for h in both if h in hours] or [both[max(hours) > 12]]
            hour = allowed[0] if hour < 13 else hour
            stamp = stamp.replace(word, "H")
    try:
        clock = time(
            hour % 24 if hour < 25 else hour, int(match["minute"]), int(match["seconds"] or 0)
        )
    except ValueError:
        return None
    style = re.sub(r"\d+", lambda number: "9" if len(number[0]) < 3 else "Y", stamp)
    style = re.sub(r"\s+", " ", re.sub(rf"[{EDGES}]", "", style))
    numbers = int(match["first"]), int(match["second"]), int(match["third"])
    return Stamp(numbers, clock, style), match["rest"]


def find_order(stamps: list[Stamp]) -> tuple[str, str]:
    """Return the order that all dates are in, and a note if that is a guess.

    A leading year decides. Otherwise the order with the fewest impossible dates wins; then the one
    that goes back in time least often, as an export is in the order of sending; then the one with
    the fewest days in the future, and then with the shortest span of years. If both day first and
    month first remain, a 12-hour clock and slashes mean American dates.
    """
    if all(stamp.numbers[0] > 31 for stamp in stamps):
        return "year first", ""
    faults = {}
    for order in ORDERS:
        times = [stamp.moment(order) for stamp in stamps]
        days = [when.date() for when in times if when]
        backwards = sum(later < earlier for earlier, later in pairwise(days))
        future = sum(day > date.today() + timedelta(1) for day in days)
        years = max(days).year - min(days).year if days else 0
        faults[order] = (times.count(None), backwards, future, years)
    if "9.9.9" in stamps[0].style:  # no language begins such dates with the year
        del faults["year first"]
    best = [order for order, counts in faults.items() if counts == min(faults.values())]
    # languages that write `오후 9:15` put the year in front
    best = ["year first"] if "year first" in best and "H9:" in stamps[0].style else best
    if not {"day first", "month first"} <= {*best}:
        return best[0], ""
    if all(stamp.numbers[0] == stamp.numbers[1] for stamp in stamps):
        return "day first", ""
    american = all("H" in stamp.style and "/" in stamp.style for stamp in stamps)
    order = "month first" if american else "day first"
    return order, f"no date shows which number is the day; they are read {order}"
