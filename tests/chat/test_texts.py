"""Text exports of many apps and tools, each in a few invented lines."""

from pathlib import Path

import pytest

from tests.chat.fixtures import clock, errors, notes, read, read_items, turns

HI_YES = [("Ida", "hi"), ("Ole", "yes: ok")]
MEET = "Club - Transcript\nAttendees\nIda, Ole\n00:00:00\nIda: hi\n00:05:00\nOle: yes: ok\n"
DISCORD = """=====
Guild: Club
Channel: General / rope
=====

[05/03/2021 21:15] Ida (pinned)
hi

{Reactions}
👍 (2)

[05/03/2021 21:16] Ole
yes: ok

{Attachments}
https://cdn.discordapp.com/attachments/1/2/rope.jpg?ex=1

[05/03/2021 21:17] Bo
Joined the server.

=====
Exported 3 message(s)
=====
"""
IMESSAGE = """Mar 05, 2021  9:15:03 PM (Read by you after 5 minutes)
Ida
hi
attachments/12/IMG_1.heic
Tapbacks:
Loved by Ole
    Mar 05, 2021  9:16:03 PM
    Ole
    yes: ok

Mar 05, 2021  9:16:03 PM
Ole
yes: ok
This message responded to an earlier message.

Mar 05, 2021  9:17:03 PM Ida added Bo to the conversation.
"""
SIGTOP = """Conversation: Ida

From: Ida (aa11)
Type: incoming
Sent: Fri, 05 Mar 2021 21:15:00 +0100
Reaction: 👍 from Ole

hi

From: Ole
Type: outgoing
Sent: Fri, 05 Mar 2021 21:16:00 +0100
Attachment: rope.jpg (image/jpeg, 12 bytes)
Quote: Ida
> hi

yes: ok
"""


@pytest.mark.parametrize(("text", "media"), [
    ("[LINE] Chat history with Ida\nSaved on: 2021/03/05 22:00\n\nFri, 03/05/2021\n"
     "09:15 PM\tIda\thi\n"
     "09:15 PM\tBo joined the group.\n09:16 PM\tOle\tyes: ok\n"
     "09:17 PM\tIda\t☎ Call time 1:23", ""),
    ("[LINE] 美咲とのトーク履歴\n保存日時：2021/03/05 22:00\n\n2021/03/05(金)\n午後9:15\tIda\thi\n"
     "午後9:16\tOle\tyes: ok\n午後9:16\tOle\t[写真]", "<file_photo>"),
    ("KakaoTalk Chats with Ida\nDate Saved : Mar 5, 2021 at 10:00 PM\n\nMarch 5, 2021 at 9:15 PM\n"
     "March 5, 2021 at 9:15 PM, Ida : hi\nMarch 5, 2021 at 9:16 PM, Ole : yes: ok", ""),
    ("Ida 님과 카카오톡 대화\n저장한 날짜 : 2021년 3월 5일 오후 10:00\n\n"
     "2021년 3월 5일 오후 9:15, Ida : hi\n"
     "2021년 3월 5일 오후 9:15, 철수님이 나갔습니다.\n2021년 3월 5일 오후 9:16, Ole : yes: ok\n"
     "2021년 3월 5일 오후 9:16, Ole : 사진", "<file_photo>"),
    ("Ida 님과 카카오톡 대화\n저장한 날짜 : 2021-03-05 22:00:00\n\n"
     "--------------- 2021년 3월 5일 금요일 "
     "---------------\n[Ida] [오후 9:15] hi\n철수님이 나갔습니다.\n[Ole] [오후 9:16] yes: ok", ""),
    (SIGTOP.replace("yes", "\nyes"), "<file_photo>"), (IMESSAGE, "<file_photo>"),
    (DISCORD, "<file_photo>"),
    ("2021-03-05 21:15 Ida: hi\n2021-03-05 21:16 Ole: yes: ok", ""),
    ("Ida, [05.03.2021 21:15]:\nhi\n\nOle, [05.03.2021 21:16]:\n[In reply to Ida]\nyes: ok\n\n"
     "Ole, [5 Mar 2021 at 21:16:03]:\n[ Photo ]", "<file_photo>"),
    ("Ida Mar 5, 2021 9:15 PM\nhi\nOle Mar 5, 2021 9:16 PM\nyes: ok", ""),
    ("=====\nGuild: X\nChannel: y\n=====\n\n[05-Mar-21 09:15 PM] Ida\nhi\n\n"
     "[05-Mar-21 09:16 PM] Ole\nyes: ok", ""),
    ("[LINE] Historial\nGuardado\n\nvie., 05/03/2021\n21:15\tIda\thi\n21:16\tOle\tyes: ok", ""),
    ("Ida — 05/03/2021 21:15\nhi\nOle — 05/03/2021 21:16\nyes: ok", ""),
    ("--- Log opened Fri Mar 05 21:00:00 2021\n21:15 <@Ida> hi\n21:15 -!- bo [~b@x] has quit [x]\n"
     "21:15 * bo has left\n21:16 < Ole> yes: ok", ""),
    ("2021-03-05 21:15:03\tIda\thi\n2021-03-05 21:15:09\t-->\tbo has joined\n"
     "2021-03-05 21:16:03\tOle\tyes: ok", ""),
    ("[ 05-03-2021 ] 21:15:03\tIda: hi\n[ 05-03-2021 ] 21:16:00\tOle: yes: ok", ""),
    ("[05.03.2021 21:15:03] Ida: hi\n[05.03.2021 21:16:00] Ole: yes: ok", ""),
])  # fmt: skip
def test_layouts_with_dates(text: str, media: str) -> None:
    (chat,) = [item for item in read_items("-", stdin=text.encode()) if hasattr(item, "messages")]
    said = [(m.speaker, m.text.replace("<file_photo>", "").strip()) for m in chat.messages]
    assert [turn for turn in said if turn[1]] == HI_YES
    assert (media in str(turns(chat))) and ("<file_" in str(turns(chat))) is bool(media)
    assert [*dict.fromkeys(clock(chat))] == ["2021-03-05 21:15", "2021-03-05 21:16"]


@pytest.mark.parametrize("text", [
    "21:15:03\t From Ida : hi\n21:16:00\t From Ole to Ida(Privately) : yes: ok",
    "21:15:03 From Ida to Everyone:\n\thi\n21:16:00 From Ole to Everyone:\n"
    "\tReplying to \"hi\"\n\n\t"
    "yes: ok\n21:17:00 From Bo to Everyone:\n\tReacted to \"hi\" with 👍",
    "From Ida to Everyone:  09:15 PM\nhi\nFrom Ole to Me (Direct Message):  09:16 PM\nyes: ok",
    MEET, "Ida  9:15 PM\nhi\nOle  9:16 PM\nyes: ok", "Ida  0:05\nhi\n\nOle  0:10\nyes: ok\n",
    "Ida\n  9:15 PM\nhi\nOle\n  9:16 PM\nyes: ok", "[9:15 PM] Ida\n    hi\n[9:16 PM] Ole\n"
    "    yes: ok",
    "[3/5 9:15 PM] Ida: hi\n[3/5 9:16 PM] Ole: yes: ok", "[21:15] <Ida> hi\n[21:16] <Ole> yes: ok",
    "<Ida> hi\n*** bo quit (Ping timeout)\n<Ole> yes: ok", "**Ida:** hi\n**Ole:** yes: ok",
    "# Notes\n\n- **Ida**: hi\n- **Ole**: yes: ok", "**Ida** (00:01): hi\n\n"
    "**Ole** (00:02): yes: ok",
    "[21:15] Ida: hi\n[21:16] Ole: yes: ok", "(00:01:23) Ida: hi\n(00:01:25) Ole: yes: ok",
    "[Friday 9:15 PM] Ida: hi\n[Friday 9:16 PM] Ole: yes: ok",
    "Ida (21:15): hi\nOle (21:16): yes: ok", "Ida [00:01]:\nhi\n\nOle [00:02]:\nyes: ok",
    "21:15 Ida: hi\n21:16 Ole: yes: ok", "Ida：hi\nOle： yes: ok",
    "0:0:0.0 --> 0:0:2.0\nIda\nhi\n0:0:2.0 --> 0:0:4.0\nOle\nyes: ok",
    "WEBVTT\n\n00:00.000 --> 00:02.000\n<v Ida>hi</v>\n\n00:02.000 --> 00:04.000\n"
    "<v.loud Ole>yes: ok</v>",
    'WEBVTT\n\n1 "Ida" (20)\n00:00.000 --> 00:02.000\nhi\n\n2 "Ole" (21)\n'
    '00:02.000 --> 00:04.000\nyes: ok',
    "WEBVTT\n\n1\n00:00.000 --> 00:02.000\nIda: <i>hi</i>\n\n2\n00:02.000 --> 00:04.000\n"
    "Ole: yes: ok",
    "1\n00:00:00,000 --> 00:00:02,000\nIda: hi\n\n2\n00:00:02,000 --> 00:00:04,000\n"
    "- Ole: yes: ok\n",
])  # fmt: skip
def test_layouts_without_dates(text: str) -> None:
    (found,) = read_items("-", stdin=text.encode())
    assert turns(found) == HI_YES and clock(found) == ["", ""]


def test_lines_that_continue_a_message() -> None:
    line = '[LINE] Ida\nSaved on: x\n\n2021/03/05(Fri)\n21:15\tIda\t"two ""fine""\nlines"\n'
    assert turns(read_items(line + "21:16\tOle\tok")[0])[0] == ("Ida", 'two "fine"\nlines')
    cues = "WEBVTT\n\n00:00.000 --> 00:02.000\nIda: to\n\n00:02.000 --> 00:04.000\nbe\n\n"
    (found,) = read_items(f"{cues}00:04.000 --> 00:05.000\nOle: or")
    assert turns(found) == [("Ida", "to\nbe"), ("Ole", "or")]
    (found,) = read_items("Ida  9:15 PM\nhi\nOle  9:16 PM\nyes\nPS: bring salt")
    assert turns(found) == [("Ida", "hi"), ("Ole", "yes\nPS: bring salt")]


@pytest.mark.parametrize(("text", "when", "said"), [
    ("[LINE] Ida\n\nFri, 05/03/2021\n21:15\tIda\thi\n21:16\tOle\tok", "2021-03-05 21:15", 0),
    ("[LINE] Ida\n\nMon, 05/03/2021\n21:15\tIda\thi\n21:16\tOle\tok", "2021-05-03 21:15", 0),
    ("[05/03/2021 21:15] Ida\nhi", "2021-03-05 21:15", 1),
    ("Ida — 05/03/2021 9:15 PM\nhi", "2021-05-03 21:15", 1),
    ("[05/03/2021 21:15] Ida\nhi\n[04/13/2021 21:15] Ida\nhi", "2021-05-03 21:15", 0),
    ("[31/01/2021 21:15] Ida\nhi\n[01/02/2021 21:15] Ida\nhi", "2021-01-31 21:15", 0),
    ("Ida, [05.03.2021 21:15]:\nhi", "2021-03-05 21:15", 0),
])  # fmt: skip
def test_order_of_day_and_month(text: str, when: str, said: int) -> None:
    """A weekday, a number above 12 or the order of lines decides; else a note reports a guess."""
    found = read_items("-", stdin=text.encode())
    assert clock(found[-1])[0] == when
    assert len(notes(found)) == said


@pytest.mark.parametrize(("text", "said"), [
    ("Saved on: 5 March\nIda\nhi\nOle\nyes", "only 1 of 5 lines are turns"),
    ("Hi Ole,\nNote: rope\nPS: salt\nIda", "only 2 of 4 lines are turns"),
    ("Subject: rope\nFrom: Ida\n\nHi Ole,\nIda: fine", "begins with a header (`Subject`)"),
    ("Title: rope\nDate: today\n\nIda: hi\nOle: yes\nIda: ok", "begins with a header (`Title`)"),
    ("WEBVTT\n\n00:00.000 --> 00:02.000\nhi", "its captions name no speakers"),
    ("WEBVTT\n\nno cue", "captions"),
    ("[LINE] Chat with Ida\nin a layout of tomorrow\n", "seems to be from LINE"),
    ("<html><body>Ida: hi</body></html>", "export the chat as JSON"),
    ("<?xml version='1.0'?><calls/>", "HTML or XML"),
    ("From: Ana Lee\nTo: Bo\nSubject: Lunch: six\nDate: Friday", "is an e-mail"),
    ("<p>Ana: hi Bo</p>\n<p>Bo: hey</p>", "no line is a turn"),
    ("<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><smses/>", "has a DOCTYPE"),
    ("<?xml version='1.0'?><smses><sms", "is invalid XML"),
])  # fmt: skip
def test_texts_that_are_not_chats_are_refused(text: str, said: str) -> None:
    (error,) = errors(read_items("-", stdin=text.encode()))
    assert error.startswith("standard input: ") and said in error


def test_turns_between_blank_lines_are_not_a_header() -> None:
    (found,) = read_items("Ana: hi\n\nBo: yes\n\nBo: and?\n\nCy: ok")
    assert len(found.messages) == 4


def test_sms_backup(tmp_path: Path) -> None:
    """Emoji halves are joined, drafts are left out, and each address is a chat."""
    path = tmp_path / "sms.xml"
    path.write_text("""<?xml version='1.0' encoding='UTF-8' standalone='yes' ?><smses count="4">
    <sms address="+1" date="1614978900000" type="1" body="hi &#55357;&#56832;&#xD83D;"
     contact_name="Ida"/>
    <sms address="+1" date="1614978960000" type="2" body="a &lt; b" contact_name="Ida" />
    <sms address="+1" date="1614978970000" type="3" body="draft" contact_name="Ida" />
    <mms address="+2" date="1614978960000" msg_box="1" contact_name="(Unknown)"><parts>
    <part ct="application/smil" text="x"/><part ct="image/jpeg" text="null"/>
    <part ct="text/plain" text="look"/></parts></mms></smses>""", "utf-8")  # fmt: skip
    ida, other = read_items(path)
    assert (turns(ida), ida.name) == ([("Ida", "hi 😀\ufffd"), ("Me", "a < b")], "Ida")
    assert clock(ida) == ["2021-03-05 21:15", "2021-03-05 21:16"]
    assert turns(other) == [("+2", "<file_photo>\nlook")]


def test_csv_with_quotes(tmp_path: Path) -> None:
    path = tmp_path / "chat.csv"
    path.write_text(
        'Date,User,Message\n2021-03-05 21:15:03,Ida,"hi, ""all"""\n2021-03-05 21:16,Ole,ok\n'
    )
    (found,) = read_items(path)
    assert turns(found) == [("Ida", 'hi, "all"'), ("Ole", "ok")]
    assert clock(found) == ["2021-03-05 21:15", "2021-03-05 21:16"]


def test_markdown_of_signal_export(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media/notes.txt").write_text("Milk: two")
    (tmp_path / "chat.md").write_text(
        "[2021-03-05 21:15:03] Ida: hi  \n(- Ole: 👍 -)\n[2021-03-05 21:16:00] Ole:   \n>\n"
        "> hi\n>\n"
        "yes: ok  \n[2021-03-05 21:17:00] Ida: ![a.jpg](./media/a.jpg)  \n"
    )
    chat, note = read_items(tmp_path)
    assert turns(chat) == [*HI_YES, ("Ida", "<file_photo>")]
    assert note.endswith("files left out because they are not chats: 1")


@pytest.mark.parametrize(("text", "expected"), [
    ("Ana: hi\nBo: hey\n00:05:00\nAna: more\nBo: yes",
     [("Ana", "hi"), ("Bo", "hey"), ("", "00:05:00"), ("Ana", "more"), ("Bo", "yes")]),
    ("[21:05] <Ana> hello\n[21:06] <Bo> hi: x\n[21:07] -NickServ- y",
     [("Ana", "hello"), ("Bo", "hi: x\n[21:07] -NickServ- y")]),
    ("[00:00:01.000 --> 00:00:03.000]  Ana: hi\n[00:00:03.000 --> 00:00:05.000]  Bo: yo",
     [("Ana", "hi"), ("Bo", "yo")]),
    ("00:01 - 00:03 Ana: hi\n00:03 - 00:05 Bo: yo", [("Ana", "hi"), ("Bo", "yo")]),
    ("00:00:01,500 Ana: hi\n00:00:02,500 Bo: yo", [("Ana", "hi"), ("Bo", "yo")]),
    ("[9:05 PM]Ana: hi\n[9:06 PM]Bo: yo", [("Ana", "hi"), ("Bo", "yo")]),
    ("<2021-01-15 21:05> Ana: hi\n<2021-01-15 21:06> Bo: yo", [("Ana", "hi"), ("Bo", "yo")]),
    ("0:00:01.000,0:00:03.000\nAna: hi\n\n0:00:03.000,0:00:05.000\nBo: yo\n",
     [("Ana", "hi"), ("Bo", "yo")]),
    ("2021-01-15 21:05:10 From Ana Lee to Everyone:\n\thi\n"
     "2021-01-15 21:05:12 From Bo to Ana Lee(Direct Message):\n\tyo",
     [("Ana Lee", "hi"), ("Bo", "yo")]),
    ("21:05:10 Von Ana an Alle: hallo\n21:06:10 Von Bo an Ana: ja",
     [("Ana", "hallo"), ("Bo", "ja")]),
    ("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n[music]\n\n00:00:01.000 --> 00:00:02.000\n"
     "<v Ana>hi</v>\n\n00:00:02.000 --> 00:00:03.000\n<v Bo>yo</v>\n",
     [("Ana", "hi"), ("Bo", "yo")]),
    ("1\n00:00:00,000 --> 00:00:02,000\n{\\an8}Ana: hi\n\n2\n"
     "00:00:02,100 --> 00:00:06,500\nBo: yo\n\n3\n00:00:07,000 --> 00:00:08,000\nAna: ok\n",
     [("Ana", "hi"), ("Bo", "yo"), ("Ana", "ok")]),
])  # fmt: skip
def test_variants_that_were_once_misread(text: str, expected: list[tuple[str, str]]) -> None:
    assert turns(read("-", stdin=text.encode())[0]) == expected


def test_csv_with_semicolons_and_an_attachment(tmp_path: Path) -> None:
    path = tmp_path / "chat.csv"
    path.write_text("sender;message;Attachments\nAna;hi;\nBo;;https://x.org/a.jpg?b=1\n")
    assert turns(read(path)[0]) == [("Ana", "hi"), ("Bo", "<file_photo>")]


def test_files_in_a_media_folder_are_not_chats(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/list.txt").write_text("Milk: two")
    (tmp_path / "chat.txt").write_text("Ana: hi\nBo: yo")
    assert [one.name for one in read(tmp_path)] == ["chat"]
    (note,) = notes(read_items(tmp_path))
    assert note.endswith("files left out because they are not chats: 1")
