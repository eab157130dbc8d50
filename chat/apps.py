"""The JSON exports of Discord, Messenger, Instagram, Signal, Google Chat, Skype, Teams and Matrix.

Each is recognised by keys that only its app writes. Times counted from 1970 become UTC; others
stay as in the export.
"""

import html
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from chat import chat as base
from chat.chat import GIF, OTHER, PHOTO, VIDEO, Chat, Message, People, media_word, said, utc
from data_prep.errors import UserError

Entry = dict[str, Any]
Block = tuple[Entry, list[Any]]  # the object around the messages of a chat, and the messages

# Files without messages, or with the same messages as the file next to them.
BESIDE = {"group_info.json": "messages.json", "channel.json": "messages.json",
          "chat.md": "data.json"}  # fmt: skip
PART = re.compile(r"message_\d+\.json")  # Meta splits a thread into files of 10,000 messages
ME = "Me"  # signal-export's name for the owner; ours if an export gives none

# ----- the messages of each app; None for what the app itself wrote

# Types of messages from people and bots; 20 and 23 are answers to commands.
DISCORD = {"Default", "Reply", "20", "23"}
META = {"photos": PHOTO, "videos": VIDEO, "gifs": GIF, "audio_files": OTHER, "files": OTHER}
META_WROTE = re.compile(r"(Liked a message|Reacted .+ to your message|.+ sent an attachment\.)\s*")
SKYPE = {"UriObject": PHOTO, "Media_Album": PHOTO, "Media_Video": VIDEO, "Location": "<location>"}
SKYPE_QUOTE = re.compile(r"<(quote|blockquote)\b.{0,8000}?</\1>", re.DOTALL)
BREAK, TAG = re.compile(r"<br\s*/?>|</(?:p|div|li)>"), re.compile(r"</?[a-zA-Z][^<>]*>")
MATRIX = {"m.image": PHOTO, "m.video": VIDEO, "m.audio": OTHER, "m.file": OTHER,
          "m.sticker": OTHER, "m.location": "<location>"}  # fmt: skip
MATRIX_QUOTE = re.compile(r"\A(?:> .*\n)+\n?")


def _discord_id(user: Entry) -> object:
    """Return what identifies a user: a webhook (of a bridge or PluralKit) speaks for several."""
    webhook = user.get("isBot") and user.get("discriminator") == "0000"
    return (user["id"], user["name"]) if webhook else user["id"]


def _discord(people: People, entry: Entry) -> Message | None:
    author = entry["author"]
    for user in [*(entry.get("mentions") or []), author]:
        people.name(_discord_id(user), user.get("nickname"), user["name"])
    if entry["type"] not in DISCORD:
        return None
    source = entry.get("forwardedMessage") or entry
    files = [media_word(file["fileName"]) for file in source.get("attachments") or []]
    parts = [source["content"], *files, *(OTHER for _ in source.get("stickers") or [])]
    if not any(parts):  # a bot's; elsewhere an embed is the preview of a link
        parts = [e.get(key) for e in source.get("embeds") or [] for key in ("title", "description")]
    return said(_iso(entry["timestamp"]), people.name(_discord_id(author)), *parts)


def _discord_package(people: People, entry: Entry) -> Message | None:
    urls = str(entry.get("Attachments") or "").split()
    files = [media_word(url.partition("?")[0]) for url in urls]
    return said(_iso(entry["Timestamp"]), ME, entry["Contents"], *files)


def _meta(people: People, entry: Entry) -> Message | None:
    if "call_duration" in entry or entry.get("type") in ("Call", "Subscribe", "Unsubscribe"):
        return None
    files = [word for kind, word in META.items() for _ in entry.get(kind) or []]
    files += [OTHER] if entry.get("sticker") else []
    text, link = entry.get("content") or "", (entry.get("share") or {}).get("link") or ""
    text = "" if META_WROTE.fullmatch(text) else text
    time, speaker = utc(entry["timestamp_ms"] / 1000), people.name(None, entry["sender_name"])
    return said(time, speaker, *files, text, link if link not in text else "")


def _meta_encrypted(people: People, entry: Entry) -> Message | None:
    if entry.get("isUnsent"):  # its text only says so
        return None
    files = [media_word(file["uri"]) for file in entry.get("media") or []]
    text = entry.get("text") if entry.get("type") in ("text", "link", "media", None) else ""
    return said(
        utc(entry["timestamp"] / 1000), people.name(None, entry["senderName"]), *files, text
    )


def _signal_export(people: People, entry: Entry) -> Message | None:
    if entry.get("call") or entry.get("deleted"):
        return None
    sticker = entry.get("sticker") or ""
    sticker = sticker if isinstance(sticker, str) else sticker.get("emoji") or OTHER
    files = [media_word(file.get("name") or "") for file in entry.get("attachments") or []]
    return said(
        _iso(entry["date"]), people.name(None, entry["sender"]), *files, sticker, entry["body"]
    )


def _signal(people: People, entry: Entry) -> Message | None:
    standard = entry.get("standardMessage") or {}
    kinds = [file["pointer"].get("contentType") or "" for file in standard.get("attachments") or []]
    files = [media_word(kind.replace("/", ".")) for kind in kinds]
    files += [OTHER] if "viewOnceMessage" in entry else []
    sticker = (entry.get("stickerMessage") or {}).get("sticker") or {}
    texts = [sticker.get("emoji"), (standard.get("text") or {}).get("body")]
    return said(utc(int(entry["dateSent"]) / 1000), people.name(entry["authorId"]), *files, *texts)


def _google_chat(people: People, entry: Entry) -> Message | None:
    creator, time = entry["creator"], None
    with suppress(ValueError):  # the time is text, in the account's language
        date_text = " ".join(entry["created_date"].split())
        time = datetime.strptime(date_text, "%A, %B %d, %Y at %I:%M:%S %p UTC")
    files = [media_word(f.get("original_name") or "") for f in entry.get("attached_files") or []]
    speaker = people.name(creator.get("email"), creator.get("name"), creator.get("email"))
    return said(time, speaker, entry.get("text"), *files, thread=entry.get("topic_id") or "")


def _skype(people: People, entry: Entry) -> Message | None:
    kind, _, media = entry["messagetype"].partition("/")
    if kind not in ("RichText", "Text"):
        return None
    text = entry.get("content") or ""
    if media not in ("", "Html"):
        text = SKYPE.get(media, OTHER)
    elif kind == "RichText":
        text = html.unescape(TAG.sub("", BREAK.sub("\n", SKYPE_QUOTE.sub("", text))))
    speaker = people.name(entry["from"].rpartition(":")[2], entry.get("displayName"))
    return said(_iso(entry["originalarrivaltime"]), speaker, text)


def _matrix(people: People, entry: Entry) -> Message | None:
    kind, content = entry["type"], entry.get("content") or {}
    if kind == "m.room.member":
        people.name(entry.get("state_key") or entry["sender"], content.get("displayname"))
    relation = content.get("m.relates_to") or {}
    related = relation.get("rel_type")
    if kind not in ("m.room.message", "m.sticker") or related == "m.replace":
        return None
    text = MATRIX.get(content.get("msgtype") or kind) or content.get("body") or ""
    caption = content.get("body") or ""
    if content.get("filename", caption) == caption or content.get("msgtype") not in MATRIX:
        caption = ""
    parts = [text, caption]
    if "m.in_reply_to" in relation:
        parts = [MATRIX_QUOTE.sub("", part) for part in parts]
    thread = relation.get("event_id") if related == "m.thread" else entry.get("event_id")
    time = utc(entry["origin_server_ts"] / 1000)
    return said(time, people.name(entry["sender"]), *parts, thread=thread or "")


def _iso(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=None)


# The function that reads an app's messages: the keys that only these messages have.
APPS: dict[Callable[[People, Entry], Message | None], set[str]] = {
    _discord: {"timestamp", "author", "content", "type"},  # of DiscordChatExporter
    _discord_package: {"ID", "Timestamp", "Contents"},  # in the data that Discord sends to users
    _meta: {"sender_name", "timestamp_ms"},
    _meta_encrypted: {"senderName", "timestamp"},
    _signal_export: {"date", "sender", "body"},
    _signal: {"chatId", "authorId", "dateSent"},  # of Signal's own export
    _google_chat: {"creator", "created_date"},
    _skype: {"originalarrivaltime", "messagetype", "from"},
    _matrix: {"type", "sender", "origin_server_ts", "content"},
}
NEWEST_FIRST = {_discord_package, _meta, _meta_encrypted, _skype}

# ----- the chats of an export


def parse(data: Any, place: str) -> list[Chat | UserError] | None:
    """Return the chats of an app's export, which may be JSONL rows; None for other data."""
    entries = [entry for _, entries in _blocks(data) for entry in entries]
    for app, keys in APPS.items():
        if any(isinstance(entry, dict) and keys <= entry.keys() for entry in entries):
            if app is _meta:
                data = _decoded(data)
            return [_chat(app, *block, place) for block in _blocks(data)]
    return None


def _decoded(value: Any) -> Any:
    """Return data in which Meta wrote each byte of UTF-8 as a character, with its real texts."""
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if isinstance(value, str):
        with suppress(UnicodeError):  # it does not do so in every text
            return value.encode("latin-1").decode()
    return value


def join_parts(paths: list[Path]) -> list[Entry]:
    """Return the Messenger or Instagram threads of a folder, each joined from all its files.

    Empty if one of the files is damaged or of another kind.
    """
    threads: dict[str, Entry] = {}
    with suppress(UserError, *base.UNEXPECTED):
        for path in paths:
            part = base.load_json(path, path.name)
            thread = threads.setdefault(part["thread_path"], {**part, "messages": []})
            thread["messages"] += part["messages"]
        return list(threads.values())
    return []


def _chat(
    app: Callable[[People, Entry], Message | None], chat_info: Entry, entries: list[Any], place: str
) -> Chat | UserError:
    channel, folder = chat_info.get("channel"), Path(place).parent.name.removesuffix(".zip")
    titles = [channel.get("name")] if isinstance(channel, dict) else []
    titles += [chat_info.get(key) for key in ("title", "threadName", "room_name", "displayName")]
    title = str(next(filter(None, [*titles, folder]), Path(place).stem))
    people = People()
    with suppress(*base.UNEXPECTED):  # their names are only needed for masking
        for person in chat_info.get("participants") or []:
            person = person if isinstance(person, dict) else {"name": person}
            people.name(person.get("id"), *person.get("names", [person.get("name")]))
    try:
        for _ in range(2):  # the first pass learns names that only appear later
            parsed = base.parse_entries(entries, partial(app, people), f"{place} ({title})")
    except UserError as error:
        return error
    messages, notes = parsed
    if all(message.time for message in messages):
        span = [str(message.time) for message in messages[:1] + messages[-1:]]
        if span[::-1] < span or (app in NEWEST_FIRST and span[::-1] == span):
            messages.reverse()
        messages.sort(key=lambda message: message.time or datetime.min)
    return Chat(place, title, messages, people=people.all(), notes=notes)


def _blocks(data: Any) -> list[Block]:
    if isinstance(data, list):
        is_signal = any(isinstance(row, dict) and "chatItem" in row for row in data)
        return _signal_chats(data) if is_signal else [({}, data)]
    conversations = data.get("conversations") if isinstance(data, dict) else None  # of Skype
    blocks: list[Block] = []
    for chat in conversations if isinstance(conversations, list) else [data]:
        if isinstance(chat, dict):
            entries = chat.get("MessageList", chat.get("messages"))
            blocks += [(chat, entries)] if isinstance(entries, list) else []
    return blocks or [({}, [data])]  # a single message: JSONL with one line


def _signal_chats(rows: list[Any]) -> list[Block]:
    """Return the chats of Signal's own export; its rows are recipients, chats and messages."""
    names: dict[object, list[str]] = {}
    people: list[Entry] = []
    chats: dict[object, Block] = {}
    for row in rows:
        with suppress(*base.UNEXPECTED):  # the rows after a damaged one are read
            if one := row.get("recipient"):
                names[one["id"]] = _signal_names(one)
                people += [] if "group" in one else [{"id": one["id"], "names": names[one["id"]]}]
            elif chat := row.get("chat"):
                title = " ".join(names.get(chat["recipientId"], [])[:1])
                chats[chat["id"]] = {"title": title, "participants": people}, []
            elif item := row.get("chatItem"):
                chats.setdefault(item["chatId"], ({"participants": people}, []))[1].append(item)
    return list(chats.values())


def _signal_names(recipient: Entry) -> list[str]:
    """Return the names of a person or a group, first the one that Signal shows."""
    if "self" in recipient:
        return [ME]
    if "group" in recipient:
        return [recipient["group"]["snapshot"]["title"]["title"]]
    contact = recipient.get("contact") or {}
    nickname = contact.get("nickname") or {}
    names = [(nickname.get("given"), nickname.get("family"))]
    names += [(contact.get(f"{k}GivenName"), contact.get(f"{k}FamilyName"))
              for k in ("system", "profile")]  # fmt: skip
    names += [(contact.get(key), "") for key in ("username", "e164")]
    return [name for parts in names if (name := " ".join(filter(None, parts)))]
