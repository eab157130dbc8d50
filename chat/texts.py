"""Texts that an app or tool wrote: a table of formats, each with a pattern for a message's start.

A new format is a row in `FORMATS`. Captions (WebVTT, SRT), CSV and the XML of SMS Backup & Restore
each have a function. Times are as in the text; offsets into a recording do not count as times.
"""

import csv
import html
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

import webvtt
from dateutil import parser as dates

from chat.chat import GIF, LINE_END, OTHER, PHOTO, TURN, VIDEO, Chat, Message, media_word, utc
from data_prep.errors import UserError

_HALF = r"(?:[AaPp]\.?[Mm]\b\.?|오전|오후|上午|下午|午前|午後)"
_CLOCK = rf"(?:{_HALF} ?)?\d?\d:\d\d(?::\d\d)?(?:[.,]\d{{3}})?(?![\d:])(?: ?{_HALF})?"
_DATE = (
    r"(?:\d{4}\s?[-/.年년]\s?\d\d?\s?[-/.月월]\s?\d\d?[.日일]?|\d\d?[-/.]\d\d?[-/.](?:\d{4}|\d\d)"
    r"|[A-Z][a-z]{2,8}\.? \d\d?, \d{4}|\d\d? [A-Z][a-z]{2,8}\.?,? \d{4}"
    r"|\d\d-[A-Z][a-z]{2}-\d\d)"
)
_DAY = rf"(?:[^\W\d]+\.?,? )?{_DATE}(?: ?[(（]?[^\W\d]+[)）]?)?"
_WHEN = rf"{_DATE}(?:,|,? at|T| ?\])?\s{{0,3}}{_CLOCK}(?:Z|[+-]\d\d:?\d\d)?"
_NAME = r"[^\s:：][^:：\n]{0,59}?"
_STAMP = rf"(?:(?P<when>{_WHEN})|(?P<clock>{_CLOCK}))"
_AGO = r"(?:(?:Today|Yesterday|[A-Z][a-z]+day),?(?: at)? )?"
_IRC_EVENT = (
    r"(?:[(\[]\S+[)\]] )?(?:has (?:joined|quit|left|kicked|changed|set)|is now known as|sets? mode"
    r"|joined|quit|left)\b"
)

# Words for attachments in apps that write no file name.
_WORDS = {
    PHOTO: r"photos?|images?|pictures?|写真|画像|照片|圖片|图片|사진(?: \d+장)?|foto|รูป|hình ảnh",
    VIDEO: r"videos?|動画|影片|视频|視頻|동영상|วิดีโอ",
    GIF: r"gif",
    OTHER: r"stickers?|emoticons?|files?|voice messages?|audio|albums?|contacts?|location|スタンプ"
    r"|ファイル|ボイスメッセージ|アルバム|貼圖|贴图|檔案|文件|語音訊息|이모티콘|스티커|파일|음성메시지",
}
MARKDOWN_FILE = re.compile(
    r"(?:!\[[^]\n]{0,300}\]\(|\[[^]\n]{0,300}\]\((?=\./media/))(?P<file>[^)\n]{1,300})\)"
)
FILE_LINE = re.compile(
    r"^(?:Attachment: |attachments/|/Users/|/var/|~/|https://(?:cdn|media)\.discordapp\.\w+/)"
    r"(?:[^\n?]*/)?(?P<file>[^/\n?]+?\.\w{2,5})(?:\?\S*| \(.{0,99}\))?$",
    re.M,
)


# In a pattern, neighbouring `+` or `*` must not match the same characters: on a long line, that
# would take quadratic time.
class Format(NamedTuple):
    """How an app writes a chat.

    `start` matches the start of a message, up to its text, which extends to the next match. Its
    groups are `name`, and `when`, or `clock` after the last `day`. A match without a name was
    written by the app and is left out. If there is a `header`, the text must begin with it, and is
    then certain to have this format. `drop` is removed from messages; a message that `gone` matches
    as a whole was not sent by a person. `media` is how a word for an attachment is written.
    """

    name: str
    start: str
    header: str = ""
    drop: str = ""
    gone: str = ""
    media: str = r"[\[<] ?(?:{}) ?[\]>]"


_KAKAO = r"(?:KakaoTalk Chats|.*카카오톡 대화).*\n"
_KAKAO_GONE = r"(?:This message was|Message) deleted\.?|삭제된 메시지입니다\.?"
_KAKAO_EVENT = (
    r".{1,300}님이 (?:들어왔|나갔|.{1,300}(?:초대했|내보냈))습니다\.?.*$"
    r"|.+ (?:joined|left)(?: this chatroom)?\.$"
)
_ZOOM = (
    rf"^(?:{_DATE}\s+)?(?P<clock>{_CLOCK})\s+(?:From|Von|De|Da|Van) +"
    r"(?P<name>[^\n]{1,99}?)(?: {1,9}(?:to|an|à|a|para|aan) {1,9}[^\n]{1,99}?)? ?: ?"
)
_ZOOM_REPLY = r'^[ \t]*Replying to ".*"\s*\n'
_ZOOM_REACTION = r'Reacted to ".*" with .{1,99}|Removed a .+ reaction.+'

FORMATS = [
    Format("LINE", rf"^(?:(?P<clock>{_CLOCK})\t(?P<name>[^\t\n]+)\t|{_CLOCK}\t.*|(?P<day>{_DAY})$)",
           header=r"\[LINE\].*\n", gone=r"☎.*"),
    Format("KakaoTalk", rf"^(?:\[(?P<name>[^\n]+?)\] \[(?P<clock>{_CLOCK})\] |-{{5,}} (?P<day>.+) "
           rf"-{{5,}}$|{_KAKAO_EVENT})", header=rf"{_KAKAO}(?=(?:.*\n){{1,6}}?\[.+\] \[)",
           gone=_KAKAO_GONE, media=r"(?:{})"),
    Format("KakaoTalk", rf"^(?:(?P<when>{_WHEN})(?:, (?P<name>[^\n]+?) : |.*$)|{_DAY}$)",
           header=_KAKAO, gone=_KAKAO_GONE, media=r"(?:{})"),
    Format("sigtop", r"^From: (?P<name>.+?)(?: \([^()\n]*\))?\nType: .*\n(?:Sent: (?P<when>.*)\n"
           r"|(?!Attachment|Quote)[A-Z]\w+: .*\n)*",
           header=r"(?:Conversation: .*\n\s*)?(?=From: .*\nType: )",
           drop=r"^(?:>|(?:Quote|Reaction):).*\n?"),
    Format("Google Meet", rf"^(?:(?P<name>{_NAME}): |\d\d:\d\d:\d\d$"
           r"|(?:Meeting|Transcription) ended after .*|This editable transcript was .*$)",
           header=r"(?:(?:.*\bTranscript|[^:\n]*)\n){0,8}?(?=\d\d:\d\d:\d\d\n+[^:\n]+: )"),
    Format("DiscordChatExporter", rf"^(?:\[(?P<when>{_WHEN})\] (?P<name>.+?)(?: \(pinned\))?$"
           r"|={5,}\nExported .*\n=+$)", header=r"=+\nGuild: .*\n(?:.+\n)*?=+\n",
           drop=r"^\{(?:Reactions|Embed)\}\n(?:.+\n?)*|^\{(?:Attachments|Stickers)\}$\n?",
           gone=r"(?:Joined the server|Pinned a message|Started a call.*|Added .* to the group"
           r"|Removed .* from the group|Left the group|Changed the channel .*)\.?"),
    Format("iMessage", rf"^(?P<when>{_WHEN})(?:(?: \(.*\))?\n(?P<name>\S.*)$| (?!\().+$)",
           drop=r"^Tapbacks:\n(?:.+ by .+\n?)*|^(?: {4}.*|This message responded to an earlier "
           r"message\.|Sent with [A-Z][a-z]+(?: [A-Z]\w+)?)$\n?", gone=r".+ unsent a message!"),
    Format("Zoom", _ZOOM, drop=_ZOOM_REPLY, gone=_ZOOM_REACTION,
           header=rf"(?=(?:{_DATE}\s+)?{_CLOCK}\s+From .+ to .+:)"),
    Format("Zoom", _ZOOM, drop=_ZOOM_REPLY, gone=_ZOOM_REACTION),
    Format("Zoom or Webex", r"^(?i:from) (?P<name>[^\n]{1,99}?) to [^\n]{1,99}?:? {1,9}"
           rf"(?P<clock>{_CLOCK})$"),
    Format("Teams", r"^\d+:\d+:\d+\.\d+ --> \d+:\d+:\d+\.\d+\n(?P<name>.+)$"),
    Format("Telegram", rf"^(?P<name>[^\n]+), \[(?P<when>{_WHEN})\]:?$",
           drop=r"^\[(?:In reply to|Forwarded from) .*\]$\n?"),
    Format("IRC", rf"^(?:(?:\[?{_STAMP}\]?|\[?[A-Z][a-z]{{2}} \d\d {_CLOCK}\]?)? *"
           rf"(?:<[@+%~& ]?|\* )(?P<name>(?!\d)[^\s<>*]+)>?[ \t](?!{_IRC_EVENT})"
           r"|--- (?:Log opened|Day changed) (?P<day>.*)$"
           rf"|(?:\[?{_CLOCK}\]? )?(?:\*|-!-|-->|<--|--).*$)"),
    Format("markdown", rf"^(?:[-*+>] |#+ |\d+\. )?(?:[\[(]?{_CLOCK}[\])]? )?(?P<mark>[*_]{{2,3}})"
           rf"(?P<name>{_NAME})(?:[:：](?P=mark)|(?P=mark)(?: ?[\[(]?{_CLOCK}[\])]?)? ?[:：])"
           r"|^#+ .*$|^-{3,}$"),
    Format("chat with times", rf"^[\[(<]? ?(?:\d\d?[-/.]\d\d?,? )?{_AGO}{_STAMP}"
           rf"(?: ?(?:-->|[-–]) ?{_CLOCK}| \| [^\]\n]{{0,99}})?(?: ?[\])>]|(?=[\s,]))(?: [-–])?"
           rf",?\s{{0,9}}(?P<name>{_NAME}) ?[:：](?!//)"
           rf"|^(?:[\[(] ?{_CLOCK}|[\[(]? ?{_WHEN}) ?[\])]? .*$",
           drop=r"^\(- .* -\)$\n?|^>.*\n"),
    Format("chat with times", rf"^(?P<name>{_NAME}) ?[\[(]{_STAMP}[\])] ?[:：]"),
    Format("chat with tabs", rf"^{_STAMP}\t[@+]?(?:(?P<name>\w[^\t\n]*)\t|.*$)|^(?P<day>{_DAY})$",
           header=rf"(?=(?:.*\n){{0,3}}?(?:{_WHEN}|{_CLOCK})\t[@+]?\w[^\t\n]*\t)"),
    Format("copied chat", rf"^(?P<name>[^\s\d][^\n]{{0,59}}?)(?: {{2,99}}|\t{{1,9}}"
           rf"|\s{{0,9}}[—–]\s{{0,9}}| (?={_DATE})|\n\s{{0,9}}(?=.{{0,99}}{_HALF}))"
           rf"\[?{_AGO}{_STAMP}\]? *$",
           drop=rf"^\[?{_CLOCK}\]? *$\n?|^Transcribed by https://otter\.ai.*"),
    Format("copied chat", rf"^\[[^\]\n]*?{_STAMP}\] (?P<name>[^\n:]+)$"),
]  # fmt: skip


BLANKS = str.maketrans({"\u202f": " ", "\u00a0": " ", "\ufeff": ""})


def parse(text: str, place: str, name: str, sure: bool) -> list[Chat | UserError]:
    """Return the chats of a text in a known format, or an empty list; `sure` requires a header.

    Raises UserError for a known format without a chat.
    """
    text = "\n".join(LINE_END.split(text.translate(BLANKS))).lstrip("\n")
    start = text[:300].lstrip().lower()
    if sure and CAPTIONS.match(text):
        return [Chat(place, name, _captions(text, place))]
    if sure and "<smses" in start:
        return list(_sms(text, place))
    if sure and re.match(r"<(?:!doctype|html|\?xml)", start):
        raise UserError(f"{place}: {MARKUP}")
    matches = [(form, *fit) for form in FORMATS if (fit := _starts(form, text, sure))]
    if not matches:
        return []
    form, text, starts = max(matches, key=lambda fit: sum(bool(start["name"]) for start in fit[2]))
    messages, note = _messages(form, text, starts)
    if not messages and not sure:
        return []
    if not messages:
        raise UserError(
            f"{place}: seems to be from {form.name}, but no message can be read; write each as "
            "`Name: text`"
        )
    notes = [note] if note else []
    if not sure and (lines_before := _line_count(text[: starts[0].start()])):
        notes.append(f"lines left out before the first message: {lines_before}")
    return [Chat(place, name, messages, notes=tuple(notes))]


def _starts(form: Format, text: str, sure: bool) -> tuple[str, list[re.Match[str]]] | None:
    """Return the text without its header, and the messages' starts; None for another format.

    Without a header, either the text begins with a message and does not look like a plain dialogue
    between the starts, or more than half of its lines start a message.
    """
    header = re.match(form.header, text) if form.header else None
    if sure != bool(form.header) or (sure and not header):
        return None
    text = text[header.end() :] if header else text
    starts = list(re.finditer(form.start, text, re.M))
    names = [start["name"] for start in starts if start["name"]]
    if header:
        return text, starts
    if not names:
        return None
    bodies = (text[start.end() : end].split("\n")[1:] for start, end in _spans(starts, text))
    turns = [turn[1] for body in bodies for line in body if (turn := TURN.fullmatch(line))]
    begins = not text[: starts[0].start()].strip()
    plain = len(turns) > len(names) and (len(names) == 1 or not {*names}.isdisjoint(turns))
    return (text, starts) if (begins and not plain) or 2 * len(names) > _line_count(text) else None


def _line_count(text: str) -> int:
    """Return the number of lines that are not blank."""
    return sum(bool(line.strip()) for line in text.split("\n"))


def _spans(starts: list[re.Match[str]], text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Return each start with the end of its message."""
    ends = [*(start.start() for start in starts), len(text)][1:]
    return zip(starts, ends, strict=True)


def _messages(
    form: Format, text: str, starts: list[re.Match[str]]
) -> tuple[list[Message], str | None]:
    """Return what people sent, and a note if the order of day and month is a guess."""
    entries: list[tuple[str, str, str]] = []
    day = ""
    for start, end in _spans(starts, text):
        groups = start.groupdict()
        day = groups.get("day") or day
        if not groups["name"]:
            continue
        when = groups.get("when") or (f"{day} {groups['clock']}" if day and groups["clock"] else "")
        body = _clean(form, text[start.end() : end])
        if body:
            entries.append((when, groups["name"].strip(), body))
    times, note = _times([when for when, _, _ in entries])
    pairs = zip(times, entries, strict=True)
    return [Message(time, name, body) for time, (_, name, body) in pairs], note


def _clean(form: Format, text: str) -> str:
    """Return a message's text without what the app added; empty if no person said anything."""
    text = re.sub(form.drop, "", text, flags=re.M) if form.drop else text
    text = "\n".join(line.strip() for line in text.strip().split("\n"))
    if "\n" in text and text[0] == text[-1] == '"':  # LINE quotes a message of several lines
        text = text[1:-1].replace('""', '"')
    if form.gone and re.fullmatch(form.gone, text):
        return ""
    for placeholder, words in _WORDS.items():
        if re.fullmatch(form.media.format(words), text, re.I):
            return placeholder
    text = MARKDOWN_FILE.sub(lambda match: media_word(match["file"]), text)
    return FILE_LINE.sub(lambda match: media_word(match["file"]), text)


def _times(texts: list[str]) -> tuple[list[datetime | None], str | None]:
    """Return the times, and a note if nothing shows which number is the day."""
    matches = [re.match(r"\D*(\d\d?)[-/.](\d\d?)[-/.]", text) for text in texts]
    if not any(matches):
        return [_time(text, False) for text in texts], None
    faults, times = {}, {}
    for day_first in (True, False):
        parsed = [_time(text, day_first) for text in texts]
        days = [time.date() for time in parsed if time]
        impossible = sum(int(match[2 if day_first else 1]) > 12 for match in matches if match)
        weekdays = sum(
            time is not None and bool(re.match("(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)", text))
            and not text.startswith(f"{time:%a}")
            for time, text in zip(parsed, texts, strict=True)
        )  # fmt: skip
        backwards = sum(later < earlier for earlier, later in pairwise(days))
        times[day_first], faults[day_first] = parsed, (impossible, weekdays, backwards)
    if faults[True] != faults[False]:
        return times[min(faults, key=lambda order: faults[order])], None
    if all("." in match[0] for match in matches if match):  # no country writes month.day.
        return times[True], None
    day_first = not all("/" in text and re.search(_HALF, text) for text in texts if text)
    order = "day first" if day_first else "month first"
    guess = f"no date shows which number is the day; they are read {order}"
    return times[day_first], guess if times[True] != times[False] else None


def _time(text: str, day_first: bool) -> datetime | None:
    """Parse a date and time as apps write them, without a time zone."""
    text = re.sub(rf"({_HALF}) ?([\d:]+)", r"\2 \1", text)
    text = re.sub("[오上午]\\s?[전午前]", "AM", re.sub("오후|下午|午後", "PM", text))
    text = re.sub(r"\s?[年년月월]\s?|\.\s+(?=\d)", "-", text)
    text = re.sub(r"[^\x00-\x7f]+|[()\[\]]", " ", text)  # weekdays in other languages
    if date := re.search(_DATE, text):
        text = text[date.start() :]
    try:
        year_first = re.match(r"\s*\d{4}", text)
        parsed = dates.parse(text, dayfirst=day_first and not year_first, ignoretz=True)
    except (ValueError, OverflowError):
        return None
    return parsed if isinstance(parsed, datetime) else None


MARKUP = (
    "is HTML or XML of an unknown kind; export the chat as JSON (Telegram Desktop: Export "
    "chat history, Format: Machine-readable JSON), or as text"
)

# ---- captions

CAPTIONS = re.compile(r"\s*(?:WEBVTT|\d+\n\d\d:\d\d:\d\d[,.]\d{3} -->|\d+:\d\d:\d\d\.\d{3},\d)")
SBV = re.compile(r"^(\d+:\d\d:\d\d\.\d{3}),(\d+:\d\d:\d\d\.\d{3})$", re.M)  # of YouTube
MARKS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # of WebVTT, and of subtitles: `{\an8}`
VOICE = re.compile(r"<v(?:\.[^\s<>]+)? ([^<>]+)>")


def _captions(text: str, place: str) -> list[Message]:
    """Return one message per cue; a cue without a speaker belongs to the message before it."""
    text, of_youtube = SBV.subn(r"\1 --> \2", text.lstrip())
    text = f"WEBVTT\n\n{text}" if of_youtube else text
    kind = "vtt" if text.startswith("WEBVTT") else "srt"
    try:
        cues = webvtt.from_buffer(io.StringIO(text), format=kind).captions
    except (webvtt.errors.MalformedFileError, webvtt.errors.MalformedCaptionError) as error:
        raise UserError(f"{place}: is invalid {kind.upper()} ({error}); export it again") from error
    rows: list[tuple[str, str]] = []
    for cue in cues:
        webex = re.match(r'\d+ "(.+)"', cue.identifier or "")
        before, *voices = VOICE.split(cue.raw_text)
        voiced = zip(voices[::2], voices[1::2], strict=True)
        for name, part in [(webex[1] if webex else "", before), *voiced]:
            for line in html.unescape(MARKS.sub("", part)).strip().split("\n"):
                turn = None if name else TURN.fullmatch(re.sub(r"^(?:>>|-)\s*", "", line))
                rows.append((turn[1], turn[2] or "") if turn else (name, line))
                name = ""  # the next lines have the same speaker
    rows = [(name, line) for name, line in rows if name or line.strip()]
    names = [name for name, _ in rows if name]
    # film subtitles have colons too, but few speakers who speak again
    if 2 * len(names) > len(rows):  # drop `[music]` and the like before the first name
        rows = rows[[bool(name) for name, _ in rows].index(True) :]
    if not rows or not rows[0][0] or (2 * len(names) < len(rows) and len(names) == len({*names})):
        raise UserError(
            f"{place}: its captions name no speakers; export them with names (`<v Name>text` or "
            "`Name: text`)"
        )
    turns: list[tuple[str, list[str]]] = []
    for name, line in rows:
        if name:
            turns.append((name, []))
        turns[-1][1].append(line)
    return [
        Message(None, html.unescape(name).strip(), "\n".join(lines).strip())
        for name, lines in turns
    ]


# ---- tables and XML

COLUMNS = {
    "date": ("date", "message date", "timestamp", "datetime", "sent"),
    "time": ("time",),
    "name": ("sender name", "sender", "user", "author", "from", "speaker", "name"),
    "text": ("message text", "message", "text", "content", "body"),
    "file": ("attachments", "attachment"),
}


def parse_csv(text: str, place: str, name: str) -> Chat:
    """Read a CSV with one message per row: Viber, KakaoTalk for Mac or DiscordChatExporter."""
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = {
        key: next((header.index(word) for word in words if word in header), None)
        for key, words in COLUMNS.items()
    }
    name_column, text_column = columns["name"], columns["text"]
    if name_column is None or text_column is None:
        raise UserError(
            f"{place}: has no columns for who wrote what (found: {', '.join(header)[:80]}); name "
            "them `sender` and `message`, or export the chat as text"
        )
    rows = [row for row in rows[1:] if len(row) > max(name_column, text_column)]
    if (file_column := columns["file"]) is not None:
        for row in rows:
            file = row[file_column].partition("?")[0] if len(row) > file_column else ""
            row[text_column] = row[text_column].strip() or (media_word(file) if file else "")
    rows = [row for row in rows if row[text_column].strip()]
    time_columns = [columns[key] for key in ("date", "time")]
    times, note = _times([" ".join(row[n] for n in time_columns if n is not None) for row in rows])
    messages = [
        Message(time, row[name_column].strip(), row[text_column].strip())
        for time, row in zip(times, rows, strict=True)
    ]
    return Chat(place, name, messages, notes=(note,) if note else ())


def _sms(text: str, place: str) -> Iterator[Chat | UserError]:
    """Read SMS Backup & Restore: one chat per address; sent messages are by `Me`."""

    def character(match: re.Match[str]) -> str:
        """Decode references to one or both UTF-16 halves of a character, which XML forbids."""
        numbers = re.findall(r"&#(x?)([0-9a-f]+);", match[0], re.I)
        units = b"".join(
            int(digits, 16 if x else 10).to_bytes(2, "little") for x, digits in numbers
        )
        return units.decode("utf-16-le", "replace")

    if re.search("<!(?!--)", text):  # DOCTYPE: entities can read files
        raise UserError(f"{place}: has a DOCTYPE, which no backup needs; make the backup again")
    half = r"&#(?:5\d{4}|x[dD][\da-fA-F]{3});"  # matches all halves, and some whole characters
    try:
        root = ElementTree.fromstring(re.sub(rf"(?:{half})+", character, text))
    except ElementTree.ParseError as error:
        raise UserError(f"{place}: is invalid XML ({error}); make the backup again") from error
    chats: dict[str, list[Message]] = {}
    names: dict[str, str] = {}
    for entry in root:
        get = entry.attrib.get
        kind, address = get("type") or get("msg_box"), get("address", "")
        contact = get("contact_name", "")
        name = contact if contact not in ("", "(Unknown)", "null") else address
        parts = [get("body", "")] if entry.tag == "sms" else list(_mms_parts(entry))
        body = "\n".join(part for part in parts if part and part != "null")
        if kind == "3" or not body or not get("date", "").isdigit():  # 3: a draft
            continue
        senders = [tag.get("address", "") for tag in entry.iter("addr") if tag.get("type") == "137"]
        sender = senders[0] if "~" in address and senders else name  # ~: a group
        message = Message(utc(int(get("date", "")) / 1000), sender if kind == "1" else "Me", body)
        chats.setdefault(address, []).append(message)
        names[address] = name
    for address, messages in chats.items():
        yield Chat(f"{place} ({names[address]})", names[address], messages)


def _mms_parts(entry: ElementTree.Element) -> Iterator[str]:
    for part in entry.iter("part"):
        kind = part.get("ct", "")
        if kind == "text/plain":
            yield part.get("text", "")
        elif kind != "application/smil":
            yield {"image": PHOTO, "video": VIDEO}.get(kind.split("/")[0], OTHER)
