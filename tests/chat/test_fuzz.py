"""Generated chats, written as an app would and read back: no message and no caption is lost.

To add a format, add a function to RENDERERS under the name of the file that it writes.
"""

import datetime as dt
import html
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path

import babel
import pytest
from babel import dates
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from chat.chat import GIF, PHOTO, VIDEO, media_word
from tests.chat.fixtures import read

EXAMPLES = 100


@dataclass(frozen=True)
class Sent:
    """A text that a person sent, or a file with a caption, which may be empty."""

    time: dt.datetime
    speaker: str
    text: str
    file: str = ""


# ----- chats, built from names and texts that readers once misread

NAMES = [
    "Ida", "Ole", "Zoë Ott", "小明", "ליאור", "كريم", "Dr: Ida", "Ole - Norway", "Bo-Anders",
    "A: B: C", "🚲 Lou", "+49 151 23456789", "Turned On Studio", "Security Code",
    "Value Added Ltd", 'Ana "Nana" Ott', "Yılmaz, Ali", "Max (Work)", "[Tom]", "12:30 Club",
    "J.", "null", "You", "<Eva>",
]  # fmt: skip
FILES = [
    "IMG-20201231-WA0001.jpg", "VID-20201231-WA0002.mp4", "Report (1).pdf", "PTT-1.opus",
    "a b.gif", "Value added tax.pdf", "list.txt", "00000012-PHOTO-2017-05-05-18-09-07.jpg",
    "año-1.webp",
]  # fmt: skip
TEXTS = [
    "hi", "12:30", "31.12.20", "1/2/21 was fun", "31.12.20 at 21:15", "12:30 - lunch: soup",
    "note: milk", "ok:", "ok:\nlist", ":", "-", ": x", "- y: z", "x - y: z",
    'he said "no: never"', '"a: b" "c', "“ah: so”", "„na: ja“", "it's 5\": see 7\" too",
    "«oui: non»", "\u200eok see you", "\u200e(050) 123", "a\u200eb", "\u200fשלום", "one\n\ntwo",
    "one\n", "\none", "one\n \n  two", "  two blanks", "null", "NULL", "Ida left",
    "Ole added Ida", "I added Team: Bob", "Ida created group “Foo: bar”", "you: added me?",
    "are they end-to-end encrypted", "he changed the subject", "Ida hat Team: Bo entfernt",
    "the image omitted", "page omitted:\nsee", "<3", "<grin>", "a < b: c > d",
    "I <3 you: a lot>", "‹›", "see a.pdf", "a.pdf (page 2)",
    "https://example.org/a-b:80?q=12:30", "@Ida yes", "~", "~ me too", "a\u2028b", "a\x0cb",
    "a\x85b", "a\tb", "\ttab", "👩‍👩‍👧 👍🏽", "שלום: עולם", "٣١/١٢/٢٠٢٠", "خبر: جيد",
    "今日: 晴れ", "[12:30] yes", "[ok] Ole: no", "[20-12-30] x", "2nd line: yes",
    "Location: here", "POLL:\nWhen?", "On 2001-02-03 04:05, Bo: hi", "2001-02-03T04:05 - Bo: hi",
    "<b>bold</b> &amp; &lt;", "*a* _b_ `c`", '{"a": [1]}', "\\n", "a\\", "'",
    "00:00:01.000 --> 00:00:02.000", "NOTE", "WEBVTT", "1", "#x",
]  # fmt: skip
LETTERS = "ab Zé:-.,/()[]<>\"'“”«»\u200e\u00a0\n12۳中🙂"


@st.composite
def chats(draw: st.DrawFn) -> list[Sent]:
    """Generate messages sorted by time.

    The first day is above 12, so that it cannot be a month. No line looks like a message's start.
    """
    people = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    day = draw(st.integers(13, 28))
    time = dt.datetime(draw(st.integers(2012, 2024)), draw(st.integers(1, 12)), day, 12)
    steps = st.sampled_from([0, 1, 59, 60, 3_600, 12 * 3_600, 24 * 3_600, 40 * 24 * 3_600])
    written = st.sampled_from(TEXTS) | st.text(LETTERS, min_size=1, max_size=20).filter(_is_said)
    fewest = 1
    if any(":" in name for name in people):  # only a chat of two talkative people shows this
        people, fewest = sorted(people, key=lambda name: ":" not in name)[:2], 4
    sent = []
    for number in range(draw(st.integers(fewest, 14))):
        time += dt.timedelta(seconds=draw(steps) if number else 0)
        speaker, file = draw(st.sampled_from(people)), ""
        if fewest > 1 and number < 4:
            sent.append(Sent(time, people[number % 2], ("hi", "ho", "when?", "at six")[number]))
            continue
        if draw(st.integers(0, 4)) == 0:
            file = draw(st.sampled_from(FILES))
        text = "" if file and draw(st.booleans()) else draw(written)
        sent.append(Sent(time, speaker, text, file))
    return sent


def _is_said(text: str) -> bool:
    return bool(re.search(r"\w", text))


# ----- WhatsApp

LOCALES = [
    "en_US", "en_GB", "de", "fr", "fr_CA", "es_MX", "pt_BR", "it", "nl", "tr", "ru", "fi", "bg",
    "el", "ar_EG", "fa", "hi", "zh_Hant", "zh_Hans", "ja", "ko", "vi", "sv", "da", "hu", "th",
]  # fmt: skip
DIGITS = {"ar_EG": "٠١٢٣٤٥٦٧٨٩", "fa": "۰۱۲۳۴۵۶۷۸۹", "hi": "०१२३४५६७८९"}
ATTACHED = [
    "file attached", "Datei angehängt", "archivo adjunto", "ficheiro anexado", "dosya eklendi",
]  # fmt: skip


def whatsapp_stamp(time: dt.datetime, locale: str, clock: str) -> str:
    """Return date and time as the locale writes them; `clock`: a CLDR pattern or its name."""
    day = dates.format_date(time, "short", locale=locale)
    stamp = str(dates.get_datetime_format("short", locale=locale)).replace("'", "")
    stamp = stamp.replace("{1}", day).replace("{0}", dates.format_time(time, clock, locale=locale))
    return stamp.translate(str.maketrans("0123456789", DIGITS.get(locale, "0123456789")))


def _whatsapp(messages: list[Sent], choice: random.Random, phone: str) -> str:
    """Return an export in a random locale, with the locale's clock or a 12-hour clock."""
    locale, words = choice.choice(LOCALES), choice.choice(ATTACHED)
    clock = "short" if phone == "android" else "medium"
    pattern = str(babel.Locale.parse(locale).time_formats[clock].pattern)
    if choice.random() < 0.5 and "h" not in pattern.lower().replace("H", ""):
        clock = "h:mm a" if phone == "android" else "h:mm:ss a"
    lines = []
    for one in messages:
        stamp = whatsapp_stamp(one.time, locale, clock)
        if phone == "android":
            mark = choice.choice(["", "\u200e"])
            said = f"{mark}{one.file} ({words})\n{one.text}" if one.file else one.text
            lines.append(f"{stamp} - {one.speaker}: {said}")
        else:
            mark = "\u200e" if one.file else ""
            said = f"{one.text} \u200e<{words}: {one.file}>".lstrip() if one.file else one.text
            lines.append(f"{mark}[{stamp}] {one.speaker}: {said}")
    return choice.choice(["\n", "\r\n"]).join([*lines, ""])


def whatsapp_android(messages: list[Sent], choice: random.Random) -> str:
    """Write lines like `31.12.20, 21:15 - Ida: hi`."""
    return _whatsapp(messages, choice, "android")


def whatsapp_iphone(messages: list[Sent], choice: random.Random) -> str:
    """Write lines like `[31.12.20, 21:15:00] Ida: hi`."""
    return _whatsapp(messages, choice, "iphone")


# ----- JSON exports


def _epoch(time: dt.datetime) -> float:
    return time.replace(tzinfo=dt.UTC).timestamp()


def _number(speaker: str) -> str:
    return f"U{NAMES.index(speaker)}"


def telegram(messages: list[Sent], choice: random.Random) -> str:
    """Write `result.json`; texts may be cut into entities."""
    entries = [{"id": 1, "type": "service", "action": "create_group", "text": ""}]
    for number, one in enumerate(messages, 2):
        cut = choice.randrange(len(one.text) + 1)
        kind = media_word(one.file)
        media = {"file": one.file, "media_type": {VIDEO: "video_file", GIF: "animation"}.get(kind)}
        entries.append({
            "id": number, "type": "message", "date": one.time.isoformat(), "from": one.speaker,
            "from_id": _number(one.speaker),
            "text": choice.choice(
                [one.text, [one.text[:cut], {"type": "bold", "text": one.text[cut:]}]]
            ),
        } | ({} if not one.file else {"photo": one.file} if kind == PHOTO else media))  # fmt: skip
    return json.dumps({"name": "Ropes", "type": "private_group", "id": 7, "messages": entries})


def slack(messages: list[Sent], choice: random.Random) -> bytes:
    """Write a ZIP with one file per day, or one file as the API returns it, newest first."""
    people = {
        _number(m.speaker): {"id": _number(m.speaker), "profile": {"real_name": m.speaker}}
        for m in messages
    }
    days: dict[str, list[object]] = {}
    for number, one in enumerate(messages):
        days.setdefault(f"{one.time:%Y-%m-%d}", []).append({
            "type": "message", "ts": f"{_epoch(one.time):.0f}.{number:06}",
            "user": _number(one.speaker), "text": html.escape(one.text, quote=False),
            "user_profile": people[_number(one.speaker)]["profile"],
            "files": [{"name": one.file}] if one.file else [],
        })  # fmt: skip
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        if choice.random() < 0.5:
            found = [entry for entries in days.values() for entry in entries]
            zipped.writestr("C1.json", json.dumps({"ok": True, "messages": found[::-1]}))
        else:
            zipped.writestr("users.json", json.dumps(list(people.values())))
            for day, entries in days.items():
                zipped.writestr(f"general/{day}.json", json.dumps(entries))
    return packed.getvalue()


def discord(messages: list[Sent], choice: random.Random) -> str:
    """Write what DiscordChatExporter does, oldest or newest first."""
    found = [
        {
            "id": str(number), "type": choice.choice(["Default", "Reply"]), "content": one.text,
            "timestamp": f"{one.time.isoformat()}.{number:03}+01:00",
            "author": {"id": _number(one.speaker), "name": "x", "nickname": one.speaker},
            "attachments": [{"fileName": one.file}] if one.file else [],
        }
        for number, one in enumerate(messages)
    ]  # fmt: skip
    head = {"guild": {"name": "Club"}, "channel": {"name": "general"}}
    return json.dumps(head | {"messages": found[:: choice.choice([1, -1])]})


def messenger(messages: list[Sent], choice: random.Random) -> str:
    """Write `message_1.json`, newest first; one character per byte, as Meta does."""
    kinds = {PHOTO: "photos", VIDEO: "videos", GIF: "gifs"}
    found = [
        {"sender_name": one.speaker, "timestamp_ms": _epoch(one.time) * 1000, "content": one.text}
        | ({kinds.get(media_word(one.file), "files"): [{"uri": one.file}]} if one.file else {})
        for one in reversed(messages)
    ]
    people = [{"name": name} for name in {one.speaker for one in messages}]
    text = json.dumps({"participants": people, "messages": found}, ensure_ascii=False)
    return text.encode().decode("latin-1")


def signal(messages: list[Sent], choice: random.Random) -> str:
    """Write the lines of signal-export's `data.json`."""
    return "\n".join(
        json.dumps({
            "date": one.time.isoformat(), "sender": one.speaker, "body": f"{one.text}  ",
            "attachments": [{"name": one.file}] if one.file else [],
        })
        for one in messages
    )  # fmt: skip


def google_chat(messages: list[Sent], choice: random.Random) -> str:
    """Write `messages.json` of Google Takeout."""
    return json.dumps({"messages": [
        {
            "creator": {"name": one.speaker, "email": _number(one.speaker)}, "text": one.text,
            "created_date": f"{one.time:%A, %B %d, %Y at %I:%M:%S\u202f%p UTC}",
            "attached_files": [{"original_name": one.file}] if one.file else [],
        }
        for one in messages
    ]})  # fmt: skip


# ----- captions


def webvtt(messages: list[Sent], choice: random.Random) -> str:
    """Write a transcript: one line per message, without files and times of day."""
    cues = [
        f"00:00:{n:02}.000 --> 00:00:{n + 1:02}.000\n"
        f"<v {html.escape(one.speaker)}>{html.escape(one.text)}</v>\n"
        for n, one in enumerate(messages)
    ]
    return "\n".join(["WEBVTT\n", *cues])


# ----- reading back

# By file name: the function that writes it, and the share of messages that may be misread.
# (Nothing in WhatsApp's text shows where a name ends.)
RENDERERS: dict[str, tuple[Callable[[list[Sent], random.Random], str | bytes], float]] = {
    "whatsapp_android.txt": (whatsapp_android, 0.003),
    "whatsapp_iphone.txt": (whatsapp_iphone, 0.003),
    "telegram.json": (telegram, 0),
    "slack.zip": (slack, 0),
    "discord.json": (discord, 0),
    "message_1.json": (messenger, 0),
    "data.json": (signal, 0),
    "messages.json": (google_chat, 0),
    "talk.vtt": (webvtt, 0),
}


def _key(time: dt.datetime | None, speaker: str, text: str) -> tuple[str, str, str, str]:
    """Return a message without seconds, direction marks and outer spaces: formats change those."""
    text = re.sub("[\u200e\u200f]", "", text).replace("\u00a0", " ")
    files = " ".join(re.findall(r"<file_\w+>", text))
    said = re.sub(r"<file_\w+>", "", text).strip()
    return f"{time:%Y-%m-%d %H:%M}" if time else "", speaker, files, said


def wrong_messages(path: Path, sent: list[Sent]) -> list[object]:
    """Return the differences between the messages sent and those read from the file."""
    is_timed = path.suffix != ".vtt"
    right = [
        _key(
            m.time if is_timed else None,
            m.speaker,
            f"{media_word(m.file) if m.file else ''} {m.text}",
        )
        for m in sent
    ]
    found = [_key(m.time, m.speaker, m.text) for chat in read(path) for m in chat.messages]
    parts = SequenceMatcher(None, right, found, autojunk=False).get_opcodes()
    return [
        pair
        for kind, a, b, c, d in parts
        for pair in zip_longest(right[a:b], found[c:d])
        if kind != "equal"
    ]


@pytest.mark.parametrize("name", RENDERERS)
def test_messages_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    render, allowed = RENDERERS[name]
    wrong: list[object] = []
    count = 0

    @seed(20201231)
    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(chats(), st.integers(0, 2**32))
    def read_back(sent: list[Sent], choice: int) -> None:
        nonlocal count
        if name.endswith(".vtt"):
            sent = [replace(m, file="", text=" ".join((m.text or m.file).split())) for m in sent]
        content = render(sent, random.Random(choice))
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        count += len(sent)
        wrong.extend(wrong_messages(path, sent))

    read_back()
    print(f"{name}: {len(wrong)} of {count} messages differ ({len(wrong) / count:.2%})")
    assert len(wrong) <= allowed * count, "\n".join(map(repr, wrong[:200]))
