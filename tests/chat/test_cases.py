"""Inputs from public bug reports, in `../shared`: each is read as a person would, or refused."""

import json
import re
from typing import Any

import pytest

from chat.summarize import cut_at_gaps
from tests.chat.fixtures import clock, errors, notes, read_items, turns
from tests.conftest import ROOT

CASES = ROOT.parent / "shared/cases/chats"
FILE = CASES / "cases.json"
CASE: dict[str, dict[str, Any]] = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}

if not CASE:
    pytest.skip(
        "../shared/cases is absent: its inputs are not in this repository", allow_module_level=True
    )

Turns = list[tuple[str, str]]
P07 = [("Ida", "shall we eat"), ("Me", "yes at six"), ("Ida", "<file_photo>")]


def people(found: Turns) -> list[str]:
    return [name for name, _ in found]


# Checks for inputs with several right results: of the turns as the model reads them (one thread
# after another), the errors and the notes.
CHECKS = {
    "P07": lambda t, e, n: t == P07,
    "P20": lambda t, e, n: people(t) == ["Ida Berg", "Ole"] and "PS: bring salt" in t[1][1],
    "W42": lambda t, e, n: t == [("Ole", "<file_other>"), ("Ole", "lihat ini")],
    "W46": lambda t, e, n: len(t) == 3 and not e,
    "W48": lambda t, e, n: len(t) == 2 or (len(t) == 1 and n),
    "W49": lambda t, e, n: bool(t) != bool(e),
    "W51": lambda t, e, n: bool(n),
    "J08": lambda t, e, n: people(t) == ["U1", "U2"] or (not t and "Slack" in e[0]),
    "J09": lambda t, e, n: len(t) == 2 or (not t and len(e) == 1),
    "J10": lambda t, e, n: t == [("user", "hi"), ("assistant", "hello")],
    "J13": lambda t, e, n: len(t) == 2 or (not t and len(e) == 1),
    "J14": lambda t, e, n: not t and len(e) == 1 and "as JSON" in e[0],
    "T02": lambda t, e, n: len({*people(t)}) == 3,
    "T03": lambda t, e, n: people(t) in (["Ida", "Bo", "Ole", "Ida"], ["Ole", "Ida", "Ida", "Bo"]),
    "T07": lambda t, e, n: len(t) == 2 and "\ufffd" in t[0][1] + t[1][1],
    "S03": lambda t, e, n: len(t) == 3 and "Slackbot" in people(t),
    "S04": lambda t, e, n: len(t) == 3,
    "S05": lambda t, e, n: len({*people(t)}) == 2,
    "S08": lambda t, e, n: len(t) in (2, 3),
}  # fmt: skip


@pytest.mark.parametrize("case", CASE)
def test_case(case: str) -> None:
    items = read_items(CASES / CASE[case]["input"])
    chats = [item for item in items if hasattr(item, "messages")]
    found = [turn for chat in chats for turn in turns(chat)]
    right = CASE[case]["right"]
    if case in CHECKS:
        parts = [turns(part) for chat in chats for part in cut_at_gaps(chat.messages, 1e6)]
        assert CHECKS[case](sum(parts, []), errors(items), notes(items)), items
        return
    assert isinstance(right, list), right
    assert found == [(name, text) for _, name, text in right], items
    times = [time for chat in chats for time in clock(chat)]
    known = [time if time and re.match(r"\d{4}-", time) else None for time, _, _ in right]
    assert [time if one else None for time, one in zip(times, known, strict=True)] == known
