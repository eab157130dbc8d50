"""The JSON exports of Discord, Messenger, Instagram, Signal, Google Chat, Skype, Teams and Matrix.

Each is recognised by keys that only its app writes. Times that count from 1970 become UTC, others
stay as the export gives them.
"""

import html
import json
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from chat.chat import (
    GIF,
    OTHER,
    PHOTO,
    UNEXPECTED,
    VIDEO,
    Chat,
    Message,
    People,
    load_json,
    media_word,
    parse_entries,
    said,
    utc,
)  # fmt: skip
from data_prep.errors import UserError

# Files beside one with messages, which hold the same or no message.
BESIDE = {
    "group_info.json": "messages.json", "channel.json": "messages.json", "chat.md": "data.json",
}  # fmt: skip
PART = re.compile(r"message_\d+\.json")  # Meta cuts a thread into files of 10,000 messages

ME = "Me"  # the owner of an export that does not say the name; signal-export writes it so
# What people and bots write, and not Discord itself; numbers are types without a name there.
DISCORD = {"Default", "Reply", "20", "23"}
META = {
    "photos": PHOTO, "videos": VIDEO, "gifs": GIF, "audio_files": OTHER, "files": OTHER,
}  # fmt: skip
META_WROTE = re.compile(
    r"(?:Liked a message|Reacted .+ to your message|.+ sent an attachment\.)\s*"
)
SKYPE = {"UriObject": PHOTO, "Media_Album": PHOTO, "Media_Video": VIDEO, "Location": "<location>"}
QUOTE = re.compile(r"<(quote|blockquote)\b.*?</\1>", re.DOTALL)  # of another message
BREAK, TAG = re.compile(r"<br\s*/?>|</(?:p|div|li)>"), re.compile(r"</?[a-zA-Z][^<>]*>")
MATRIX = {
    "m.image": PHOTO, "m.video": VIDEO, "m.audio": OTHER, "m.file": OTHER, "m.sticker": OTHER,
    "m.location": "<location>",
}  # fmt: skip
REPLIED = re.compile(r"\A(?:> .*\n)+\n?")  # what is answered, before the answer

Entry = dict[str, Any]
Reader = Callable[[People, Entry], Message | None]


def _discord(people: People, entry: Entry) -> Message | None:
    """A message of DiscordChatExporter, which has the texts of the app itself as other types."""
    for user in [*(entry.get("mentions") or []), author := entry["author"]]:
        people.name(user["id"], user.get("nickname"), user["name"])
    if entry["type"] not in DISCORD:
        return None
    sent = entry.get("forwardedMessage") or entry
    files = [media_word(file["fileName"]) for file in sent.get("attachments") or []]
    parts = [sent["content"], *files, *(OTHER for _ in sent.get("stickers") or [])]
    if not any(parts):  # a bot's; elsewhere it is what a link leads to
        parts = [e.get(key) for e in sent.get("embeds") or [] for key in ("title", "description")]
    return said(_iso(entry["timestamp"]), people.name(author["id"]), *parts)


def _discord_package(people: People, entry: Entry) -> Message | None:
    """A message of the data that Discord gives its owner, who wrote all of them."""
    files = map(media_word, entry.get("Attachments", "").split())
    return said(_iso(entry["Timestamp"]), ME, entry["Contents"], *files)


def _meta(people: People, entry: Entry) -> Message | None:
    """A message of Messenger or Instagram."""
    if "call_duration" in entry or entry.get("type") in ("Call", "Subscribe", "Unsubscribe"):
        return None
    files = [word for kind, word in META.items() for _ in entry.get(kind) or []]
    files += [OTHER] if entry.get("sticker") else []
    text, link = entry.get("content") or "", (entry.get("share") or {}).get("link") or ""
    text = "" if META_WROTE.fullmatch(text) else text
    time, speaker = utc(entry["timestamp_ms"] / 1000), people.name(None, entry["sender_name"])
    return said(time, speaker, *files, text, link if link not in text else "")


def _meta_encrypted(people: People, entry: Entry) -> Message | None:
    """A message of Messenger's newer, encrypted threads."""
    if entry.get("isUnsent"):  # its text says so
        return None
    files = [media_word(file["uri"]) for file in entry.get("media") or []]
    text = entry.get("text") if entry.get("type") in ("text", "link", None) else ""
    return said(
        utc(entry["timestamp"] / 1000), people.name(None, entry["senderName"]), *files, text
    )


def _signal_export(people: People, entry: Entry) -> Message | None:
    """A line of signal-export's `data.json`."""
    sticker = entry.get("sticker") or ""
    files = [media_word(file.get("name") or "") for file in entry.get("attachments") or []]
    speaker = people.name(None, entry["sender"])
    text = "" if entry.get("call") or entry.get("deleted") else entry["body"]
    sticker = sticker if isinstance(sticker, str) else sticker.get("emoji") or OTHER
    return said(_iso(entry["date"]), speaker, *files, sticker, text)


def _signal(people: People, entry: Entry) -> Message | None:
    """A `chatItem` of Signal's own export."""
    text = entry.get("standardMessage") or {}
    sticker = (entry.get("stickerMessage") or {}).get("sticker") or {}
    kinds = [file["pointer"].get("contentType", "") for file in text.get("attachments") or []]
    kinds += ["view/once"] if "viewOnceMessage" in entry else []
    files = [media_word(kind.replace("/", ".")) for kind in kinds]
    poll = entry.get("poll") or {}
    parts = [
        *files,
        sticker.get("emoji"),
        (text.get("text") or {}).get("body"),
        poll.get("question"),
    ]
    time, speaker = utc(int(entry["dateSent"]) / 1000), people.name(entry["authorId"])
    return said(time, speaker, *parts)


def _google_chat(people: People, entry: Entry) -> Message | None:
    """A message of Google Chat; its time is text, in the language of the account."""
    creator, time = entry.get("creator") or {}, None
    with suppress(ValueError):
        written = " ".join(entry["created_date"].split())
        time = datetime.strptime(written, "%A, %B %d, %Y at %I:%M:%S %p UTC")
    files = [media_word(f.get("original_name") or "") for f in entry.get("attached_files") or []]
    speaker = people.name(creator.get("email"), creator.get("name"), creator.get("email"))
    return said(time, speaker, entry.get("text"), *files, thread=entry.get("topic_id") or "")


def _skype(people: People, entry: Entry) -> Message | None:
    """A message of the export of Skype and of Teams for private use."""
    kind, _, media = entry["messagetype"].partition("/")
    text, sender = entry.get("content") or "", entry["from"].rpartition(":")[2]
    if kind == "RichText" and media in ("", "Html"):
        text = html.unescape(TAG.sub("", BREAK.sub("\n", QUOTE.sub("", text))))
    elif kind != "Text":
        text = SKYPE.get(media, OTHER) if kind == "RichText" else ""
    speaker = people.name(entry["from"], entry.get("displayName"), sender)
    return said(_iso(entry["originalarrivaltime"]), speaker, text)


def _matrix(people: People, entry: Entry) -> Message | None:
    """An event of a room; those of members give their names."""
    kind, content = entry["type"], entry.get("content") or {}
    if kind == "m.room.member":
        people.name(entry.get("state_key") or entry["sender"], content.get("displayname"))
    relation = content.get("m.relates_to") or {}
    if kind not in ("m.room.message", "m.sticker") or relation.get("rel_type") == "m.replace":
        return None
    text = MATRIX.get(content.get("msgtype") or kind) or content.get("body")
    if "m.in_reply_to" in relation:
        text = REPLIED.sub("", text or "")
    thread = relation.get("event_id") if relation.get("rel_type") == "m.thread" else ""
    time, speaker = utc(entry["origin_server_ts"] / 1000), people.name(entry["sender"])
    return said(time, speaker, text, thread=thread or entry.get("event_id") or "")


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)


# What reads a message of an app, and the keys that tell it from those of others.
APPS: tuple[tuple[Reader, str], ...] = (
    (_discord, "timestamp author content type"),
    (_discord_package, "ID Timestamp Contents"),
    (_meta, "sender_name timestamp_ms"),
    (_meta_encrypted, "senderName timestamp"),
    (_signal_export, "date sender body"),
    (_signal, "chatId authorId dateSent"),
    (_google_chat, "creator created_date"),
    (_skype, "originalarrivaltime messagetype from"),
    (_matrix, "type sender origin_server_ts content"),
)

NEWEST_FIRST = {_discord_package, _meta, _meta_encrypted, _skype}


def parse(data: Any, place: str) -> list[Chat | UserError] | None:
    """The chats of an app's export, which may be the rows of a JSONL; None for other data."""
    blocks = _blocks(data)
    for reader, names in APPS:
        keys = set(names.split())
        entries = (entry for _, entries in blocks for entry in entries)
        if any(isinstance(entry, dict) and keys <= entry.keys() for entry in entries):
            blocks = _blocks(_repaired(data)) if reader is _meta else blocks
            return [_chat(reader, *block, place) for block in blocks]
    return None


def join_parts(paths: list[Path]) -> list[Entry]:
    """The threads of Messenger or Instagram in a folder, each of all its files.

    None where one of the files is damaged, or of another kind.
    """
    threads: dict[str, Entry] = {}
    with suppress(UserError, *UNEXPECTED):
        for path in paths:
            part = load_json(path, path.name)
            thread = threads.setdefault(part["thread_path"], {**part, "messages": []})
            thread["messages"] += part["messages"]
        return list(threads.values())
    return []


def _blocks(data: Any) -> list[tuple[Entry, list[Any]]]:
    """Each chat of an export: what is around its messages, and these."""
    if isinstance(data, list):
        rows = [row for row in data if isinstance(row, dict)]
        return _signal_chats(rows) if any("chatItem" in row for row in rows) else [({}, data)]
    if not isinstance(data, dict):
        return []
    several = data.get("conversations")  # of Skype
    chats = several if isinstance(several, list) else [data]
    found = [
        (chat, entries)
        for chat in chats
        if isinstance(chat, dict)
        and isinstance(entries := chat.get("MessageList", chat.get("messages")), list)
    ]
    return found or [({}, [data])]  # a single message, in a file of messages as lines


def _signal_chats(rows: list[Entry]) -> list[tuple[Entry, list[Any]]]:
    """The chats of Signal's own export, whose rows are recipients, chats and messages."""
    participants: dict[object, Entry] = {}
    chats: dict[object, tuple[Entry, list[Any]]] = {}
    with suppress(*UNEXPECTED):  # a damaged row ends what can be understood
        for row in rows:
            if one := row.get("recipient"):
                participants[one["id"]] = {"id": one["id"], "names": _signal_names(one)}
            elif chat := row.get("chat"):
                title = next(iter(participants[chat["recipientId"]]["names"]), None)
                around = {"title": title, "participants": participants.values()}
                chats[chat["id"]] = around, []
            elif item := row.get("chatItem"):
                chats[item["chatId"]][1].append(item)
    return list(chats.values())


def _signal_names(recipient: Entry) -> list[str]:
    """The names of a person or a group, first the one that Signal shows."""
    if "self" in recipient:
        return [ME]
    if group := recipient.get("group"):
        return [group["snapshot"]["title"]["title"]]
    contact = recipient.get("contact") or {}
    nickname = contact.get("nickname") or {}
    pairs = [(nickname.get("given"), nickname.get("family"))]
    for kind in ("system", "profile"):
        pairs.append((contact.get(f"{kind}GivenName"), contact.get(f"{kind}FamilyName")))
    names = [" ".join(filter(None, pair)) for pair in pairs]
    return [name for name in (*names, contact.get("username"), contact.get("e164")) if name]


def _repaired(data: Any) -> Any:
    """Meta writes each byte of UTF-8 as a character; data without that stays as it is."""
    with suppress(UnicodeError):
        return json.loads(json.dumps(data, ensure_ascii=False).encode("latin-1").decode())
    return data


def _chat(reader: Reader, around: Entry, entries: list[Any], place: str) -> Chat | UserError:
    people, title = People(), _title(around, place)
    for one in around.get("participants") or []:
        one = one if isinstance(one, dict) else {"name": one}
        people.name(one.get("id"), *one.get("names", [one.get("name")]))
    try:
        for _ in range(2):  # at the first time, names are learned that come late
            messages, notes = parse_entries(entries, partial(reader, people), f"{place} ({title})")
    except UserError as error:
        return error
    if all(message.time for message in messages):
        ends = [str(message.time) for message in messages[:1] + messages[-1:]]
        if ends[::-1] < ends or (reader in NEWEST_FIRST and ends[::-1] == ends):
            messages.reverse()
        messages.sort(key=lambda message: message.time or datetime.min)
    return Chat(place, title, messages, people=people.all(), notes=notes)


def _title(around: Entry, place: str) -> str:
    """The name of a chat; where the export has none, that of the folder."""
    channel = around.get("channel")
    names = [channel.get("name")] if isinstance(channel, dict) else []
    names += [around.get(key) for key in ("title", "threadName", "room_name", "displayName")]
    folder = Path(place).parent.name.removesuffix(".zip")
    return str(next(filter(None, [*names, folder]), Path(place).stem))
