"""JSON exports of Discord, Messenger, Instagram, Signal, Google Chat, Skype, Matrix and others."""

import json
from pathlib import Path

import pytest

from tests.chat.fixtures import clock, errors, notes, read, read_items, turns

EVE = 1_614_978_900_000  # 2021-03-05 21:15 in UTC
IDA, OLE = ("Ida", "shall we eat"), ("Ole", "<file_photo> yes")


def discord(number: int, name: str, text: str, **more: object) -> dict[str, object]:
    """Return a message as DiscordChatExporter writes it."""
    author = {"id": name, "name": name.lower(), "nickname": name}
    return {"id": str(number), "type": "Default", "timestamp": f"2021-03-05T21:1{number}:00+01:00",
            "content": text, "author": author, **more}  # fmt: skip


def meta(name: str, minute: int, text: str, **more: object) -> dict[str, object]:
    """Return a message as Messenger or Instagram writes it."""
    return {"sender_name": name, "timestamp_ms": EVE + minute * 60_000, "content": text, **more}


def google(name: str, time: str, **more: object) -> dict[str, object]:
    """Return a message as Google Chat writes it."""
    return {"creator": {"name": name, "email": f"{name}@x.org"}, "created_date": time, **more}


def skype(name: str, minute: int, kind: str, text: str) -> dict[str, object]:
    """Return a message as Skype or Teams writes it."""
    return {"displayName": name, "originalarrivaltime": f"2021-03-05T21:{minute}:00.1Z",
            "messagetype": kind, "content": text, "from": f"8:{name}"}  # fmt: skip


def matrix(sender: str, minute: int, content: object, kind: str = "m.room.message") -> object:
    """Return an event of a Matrix room."""
    return {"type": kind, "sender": sender, "content": content, "state_key": sender,
            "origin_server_ts": EVE + minute * 60_000}  # fmt: skip


def signal(**item: object) -> object:
    """Return a message as Signal's own export has it."""
    return {"chatItem": {"chatId": "1", "dateSent": str(EVE), **item}}


APPS: dict[str, tuple[object, list[tuple[str, str]], set[str]]] = {
    "discord": ({"guild": {}, "channel": {"name": "general"}, "messages": [
        discord(5, "Ida", "shall we eat", mentions=[{"id": "3", "name": "bo", "nickname": "Bo"}]),
        discord(6, "Ole", "Started a call.", type="Call"),
        discord(6, "Ole", "", attachments=[{"fileName": "a.png"}]),
        discord(7, "ci", "", embeds=[{"title": "built", "description": "12"}]),
    ]}, [IDA, ("Ole", "<file_photo>"), ("ci", "built 12")], {"Ida", "ida", "Ole", "ole", "ci",
                                                             "Bo", "bo"}),
    "package": ([
        {"ID": 2, "Timestamp": "2021-03-05 21:16:00.5+00:00", "Contents": "",
         "Attachments": "https://x.org/a.png?ex=1"},
        {"ID": 1, "Timestamp": "2021-03-05 21:15:00", "Contents": "hi", "Attachments": ""},
    ], [("Me", "hi"), ("Me", "<file_photo>")], set()),
    "messenger": ({"participants": [{"name": "Ida"}, {"name": "Bo"}], "messages": [
        meta("Ida", 4, "Ida started a call.", call_duration=3),
        meta("Ole", 3, "Liked a message"),
        {"sender_name": None, "timestamp_ms": EVE + 180_000, "content": "gone"},
        meta("Ole", 2, "Ole sent an attachment.", share={"link": "https://x.org"}),
        meta("Ole", 1, "yes", photos=[{"uri": "a"}]),
        meta("Ida", 0, "shall we eat"),
    ]}, [IDA, OLE, ("Ole", "https://x.org"), ("unknown", "gone")], {"Ida", "Bo", "Ole", "unknown"}),
    "encrypted": ({"participants": ["Ida"], "threadName": "Ida", "messages": [
        {"senderName": "Zoë", "timestamp": EVE + 9, "text": "köstlich", "type": "text"},
        {"senderName": "Ida", "timestamp": EVE, "text": "", "type": "media",
         "media": [{"uri": "./media/a.mp4"}]},
    ]}, [("Ida", "<file_video>"), ("Zoë", "köstlich")], {"Ida", "Zoë"}),
    "signal-export": ([
        {"date": "2021-03-05T21:15:03", "sender": "Ida", "body": "shall we eat  "},
        {"date": "2021-03-05T21:16:00", "sender": "Me", "body": "", "sticker": {"emoji": "👍"},
         "attachments": [{"name": "a.jpg"}]},
    ], [IDA, ("Me", "<file_photo> 👍")], {"Ida", "Me"}),
    "signal": ([
        {"version": "1"}, {"recipient": {"id": "1", "self": {}}},
        {"recipient": {"id": "2", "contact": {"profileGivenName": "Ida", "e164": "4915"}}},
        {"recipient": {"id": "3", "group": {"snapshot": {"title": {"title": "Ropes"}}}}},
        {"chat": {"id": "1", "recipientId": "3"}},
        signal(authorId="2", standardMessage={"text": {"body": "shall we eat"}}),
        signal(authorId="2", updateMessage={"groupChange": {}}),
        signal(authorId="1", standardMessage={
            "attachments": [{"pointer": {"contentType": "image/jpeg"}}]}),
    ], [IDA, ("Me", "<file_photo>")], {"Ida", "4915", "Me"}),
    "google": ({"messages": [
        google("Ida", "Friday, March 5, 2021 at 9:15:00 PM UTC", text="shall we eat"),
        google("Ole", "Friday, March 5, 2021 at 9:16:00\u202fPM UTC",
               attached_files=[{"original_name": "a.png"}]),
    ]}, [IDA, ("Ole", "<file_photo>")], {"Ida", "Ida@x.org", "Ole", "Ole@x.org"}),
    "skype": ({"userId": "8:Ida", "conversations": [{"displayName": "Ole", "MessageList": [
        skype("Ole", 17, "RichText/UriObject", "<URIObject>"),
        skype("Ole", 16, "RichText", "<quote author='x'>old</quote>a &lt; b<br/>c <b>d</b>"),
        skype("Ida", 15, "Text", "<b> & c"),
        skype("Ida", 14, "ThreadActivity/AddMember", "<addmember>"),
    ]}]}, [("Ida", "<b> & c"), ("Ole", "a < b\nc d"), ("Ole", "<file_photo>")], {"Ida", "Ole"}),
    "matrix": ({"room_name": "Ropes", "messages": [
        matrix("@ida:x.org", 0, {"body": "shall we eat", "msgtype": "m.text"}),
        matrix("@ida:x.org", 1, {"displayname": "Ida"}, "m.room.member"),
        matrix("@ole:x.org", 2, {"body": "> <@ida:x.org> shall\n> we\n\nyes", "msgtype": "m.text",
                                 "m.relates_to": {"m.in_reply_to": {"event_id": "$1"}}}),
        matrix("@ole:x.org", 3, {"body": "a.png", "msgtype": "m.image"}),
        matrix("@ole:x.org", 4, {}),
    ]}, [IDA, ("@ole:x.org", "yes"), ("@ole:x.org", "<file_photo>")], {"Ida"}),
}  # fmt: skip


@pytest.mark.parametrize("app", APPS)
def test_each_app(app: str, tmp_path: Path) -> None:
    """Only what people wrote is kept, sorted by time, from JSON and from JSONL."""
    data, right, people = APPS[app]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(data))
    (chat,) = read_items(path)
    assert turns(chat) == right
    assert clock(chat)[0] == "2021-03-05 21:15" and clock(chat) == sorted(clock(chat))
    assert {name for names in chat.people for name in names} == people
    if isinstance(data, list):
        path.write_text("\n".join(map(json.dumps, data)))
        assert turns(read(path)[0]) == right
        path.with_suffix(".jsonl").write_bytes(path.read_bytes() + b"\n{cut")
        bad, chat = read_items(path.with_suffix(".jsonl"))
        assert turns(chat) == right and f":{len(data) + 1}: is not JSON" in str(bad)


def test_meta_writes_one_character_per_byte(tmp_path: Path) -> None:
    """Some exports have the real characters instead; not all of those fit in a byte."""
    written = json.dumps({"messages": [meta("Zoë", 0, "köstlich 😀")]}, ensure_ascii=False)
    path = tmp_path / "message_1.json"
    for text in (written, written.encode().decode("latin-1")):
        path.write_text(text)
        assert turns(read(path)[0]) == [("Zoë", "köstlich 😀")]


def test_an_inbox_whose_threads_have_several_files(tmp_path: Path) -> None:
    for thread, part, message in (
        ("ida_1", 1, meta("Ole", 2, "c")), ("ida_1", 2, meta("Ole", 1, "b")),
        ("ida_1", 10, meta("Ida", 0, "a")), ("bo_2", 1, meta("Bo", 0, "hi")),
    ):  # fmt: skip
        path = tmp_path / "inbox" / thread / f"message_{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"thread_path": thread, "title": thread, "messages": [message]}))
    chats = {chat.name: turns(chat) for chat in read(tmp_path)}
    assert chats == {"bo_2": [("Bo", "hi")], "ida_1": [("Ida", "a"), ("Ole", "b"), ("Ole", "c")]}
    (tmp_path / "inbox/ida_1/message_2.json").write_text("{")
    assert [turns(chat) for chat in read(tmp_path / "inbox/ida_1")] == [
        [("Ole", "c")], [("Ida", "a")],
    ]  # fmt: skip
    assert "message_2.json: is not JSON" in errors(read_items(tmp_path))[0]


def test_google_chat_in_another_language(tmp_path: Path) -> None:
    """Messages are read without their times; the folder gives the name; no error for other JSON."""
    message = google("Ida", "Freitag, 5. März 2021 um 21:15:00 UTC", text="hi")
    (tmp_path / "DM 1").mkdir()
    (tmp_path / "DM 1/messages.json").write_text(json.dumps({"messages": [message]}))
    (tmp_path / "DM 1/group_info.json").write_text('{"members": []}')
    (chat,) = read(tmp_path)
    assert (chat.name, turns(chat), clock(chat)) == ("DM 1", [("Ida", "hi")], [""])
    assert len(notes(read_items(tmp_path))) == 1 and errors(read_items(tmp_path)) == []


def test_the_markdown_copies_of_signal_export_are_not_read(tmp_path: Path) -> None:
    """It writes each chat twice: as JSON, which is read, and as Markdown."""
    (tmp_path / "Ida").mkdir()
    (tmp_path / "Ida/data.json").write_text(json.dumps(APPS["signal-export"][0]))
    (tmp_path / "Ida/chat.md").write_text("[2021-03-05 21:15:03] Ida: shall we eat")
    (chat,) = read(tmp_path)
    assert (chat.name, turns(chat)[0]) == ("Ida", IDA)


@pytest.mark.parametrize("data", [
    {"messages": [{"from": "a", "body": "b", "time": 1}] * 2},
    [{"from": "a", "body": "b", "timestamp": 1}] * 2,
    [{"author": "a", "text": "b", "created_at": 1}] * 2,
    {"room": "x", "log": [{"user": "a", "text": "b"}]},
    {"chats": [{"from": "a", "text": "b"}]},
    [{"text": "two"}, {"text": "three"}],
    {"messages": [meta("Ida", 0, "hi") | {"timestamp_ms": "late"}] * 2},
])  # fmt: skip
def test_json_of_an_unknown_app_is_one_error(tmp_path: Path, data: object) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps(data))
    (said,) = errors(read_items(path))
    assert said.startswith(str(path)) and read(path) == []


@pytest.mark.parametrize("data", [
    [{"speaker": "Ida", "text": "hi"}, {"speaker": "Ole", "text": "yo"}],
    [["Ida", "hi"], ["Ole", "yo"]],
    {"messages": [{"role": "Ida", "content": "hi"}, {"role": "Ole", "content": "yo"}]},
    [{"conversations": [{"from": "Ida", "value": "hi"}, {"from": "Ole", "value": "yo"}]}],
    {"dialogue": [{"speaker": "Ida", "text": "hi", "time": 1}, {"speaker": "Ole", "text": "yo"}]},
])  # fmt: skip
def test_layouts_of_training_data(tmp_path: Path, data: object) -> None:
    path = tmp_path / "turns.json"
    path.write_text(json.dumps(data))
    (chat,) = read_items(path)
    assert turns(chat) == [("Ida", "hi"), ("Ole", "yo")]


def read_json(folder: Path, data: object) -> list[list[tuple[str, str]]]:
    (folder / "chat.json").write_text(json.dumps(data, ensure_ascii=False), "utf-8")
    return [turns(chat) for chat in read(folder / "chat.json")]


def test_meta_writes_only_some_texts_byte_by_byte(tmp_path: Path) -> None:
    texts = [
        meta("Zoë".encode().decode("latin-1"), 1, "k\u00c3\u00b6stlich"),
        meta("Bo", 2, "ja 😂"),
    ]
    assert read_json(tmp_path, {"messages": texts}) == [[("Zoë", "köstlich"), ("Bo", "ja 😂")]]


def test_a_discord_webhook_speaks_for_several(tmp_path: Path) -> None:
    hook = {"id": "7", "isBot": True, "discriminator": "0000"}
    messages = [discord(n, "", "hi", author={**hook, "name": name})
                for n, name in enumerate(["CI", "Deploy"])]  # fmt: skip
    assert read_json(tmp_path, {"messages": messages}) == [[("CI", "hi"), ("Deploy", "hi")]]


def test_signal_rows_around_a_damaged_one(tmp_path: Path) -> None:
    said = {"authorId": "1", "standardMessage": {"text": {"body": "hi"}}}
    rows = [
        {"recipient": {"id": "3", "group": {"snapshot": {}}}},
        {"recipient": {"id": "1", "contact": {"profileGivenName": "Ida"}}},
        {"chat": {"id": "1", "recipientId": "1"}},
        signal(**said),
        signal(chatId="2", **said),
    ]
    assert read_json(tmp_path, rows) == [[("Ida", "hi")], [("Ida", "hi")]]


def test_a_caption_in_matrix(tmp_path: Path) -> None:
    content = {"msgtype": "m.image", "body": "our rope", "filename": "a.png"}
    assert read_json(tmp_path, {"messages": [matrix("@ida", 1, content)]}) == [
        [("@ida", "<file_photo> our rope")]
    ]


def test_roles_of_several_people(tmp_path: Path) -> None:
    messages = [{"role": "user", "name": name, "content": "hi"} for name in ("Ida", "Ole")]
    assert read_json(tmp_path, {"messages": messages}) == [[("Ida", "hi"), ("Ole", "hi")]]
