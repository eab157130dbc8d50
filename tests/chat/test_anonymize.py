"""Names that the export knows, phone numbers and e-mail addresses are masked."""

from pathlib import Path

import pytest

from chat.anonymize import anonymize
from chat.chat import Chat, Message, dialogue_of, speakers_of
from tests.chat.exports import read

SPEAKERS = ["Anna Kowalska", "Will", "Jo-Ann Smith", "Bob Smith", "+49 151 23456789", "Zoë 🌸"]


def masked(text: str) -> str:
    """The text as one more message of a chat with all speakers and two others."""
    chat = [Message(None, name, "hi") for name in SPEAKERS] + [Message(None, "Will", text)]
    people = (("Carol Jones",),)
    return anonymize(Chat("place", "Anna", chat, people=people), 3).messages[-1].text


def test_speakers_and_name() -> None:
    chat = anonymize(Chat("p", "Anna", [Message(None, n, "hi") for n in SPEAKERS]), 3)
    assert chat.name == "chat 3"
    assert speakers_of(chat.messages) == [f"Person {n}" for n in range(1, 7)]
    assert anonymize(Chat("p", "", chat.messages), 3).name == ""


@pytest.mark.parametrize(("text", "expected"), [
    ("ask Anna Kowalska", "ask Person 1"), ("anna's hat", "Person 1's hat"),
    ("@Anna look", "@Person 1 look"), ("Kowalska!", "Person 1!"), ("Annabel", "Annabel"),
    ("Will, will you?", "Person 2, will you?"), ("goodwill", "goodwill"),
    ("Jo-Ann or Bob", "Person 3 or Person 4"), ("the Smith house", "the someone house"),
    ("Carol, see @Carol Jones", "someone, see @someone"), ("ZOË", "Person 6"),
    ("Zoë!", "Person 6!"),
    ("call +49 151 23456789", "call Person 5"), ("or (030) 901820-11", "or <phone>"),
    ("0151/2345678 or 00441632960001", "<phone> or <phone>"),
    ("mail a.b+c@mail.example.org!", "mail <email>!"), ("hi @deep_blue.9", "hi @someone"),
    ("@here: 1000 of 250000", "@here: 1000 of 250000"), ("@anna.kowalska, hi", "@someone, hi"),
    ("@will, see @7pm", "@Person 2, see @7pm"), ("Anna 0151 2345678", "Person 1 <phone>"),
])  # fmt: skip
def test_text(text: str, expected: str) -> None:
    assert masked(text) == expected


def asked(text: str, *speakers: str, people: tuple[tuple[str, ...], ...] = ()) -> str:
    """The text as these speakers' last message, with their numbers alone."""
    chat = Chat("p", "n", [Message(None, n, "hi") for n in speakers], people=people)
    chat.messages.append(Message(None, speakers[0], text))
    return anonymize(chat, 1).messages[-1].text.replace("Person ", "")


@pytest.mark.parametrize(("speaker", "text", "expected"), [
    ("Anna Weiß", "Frau Weiß, Anna Weiß, weiss", "Frau 1, 1, 1"), ("İpek", "İpek? ipek?", "1? 1?"),
    ("Zoë", "Zoe\u0308 or Zoe", "1 or 1"), ("Zoe\u0308", "Zoë", "1"),
    ("Pat O'Brien", "ask O’Brien", "ask 1"), ("Pat O’Brien", "ask O'Brien", "ask 1"),
    ("Jo‑Ann", "Jo-Ann", "1"), ("प्रिया शर्मा", "शर्मा जी, शर", "1 जी, शर"),
    ("محمد علي", "يا علي!", "يا 1!"),
    ("지우", "지우야 뭐해?", "1야 뭐해?"), ("김지우", "지우야, 김지우", "1야, 1"),
    ("王小明", "OK王小明你好, 小明", "OK1你好, 1"), ("สมชาย", "คุณสมชายครับ", "คุณ1ครับ"),
    ("Tom", "Tomさん, Tommy", "1さん, Tommy"),
    ("王", "王国の王", "王国の王"), ("王", "@王 王?", "@1 1?"),
])  # fmt: skip
def test_spellings_and_scripts(speaker: str, text: str, expected: str) -> None:
    assert asked(text, speaker) == expected


def test_small_letters() -> None:
    speakers = ("Tom Webb", "Bob Ott", "Lily", "Ken", "Will", "May Lu")
    said = "hey tom, did bob see lily? ask ken. May may, will will"
    assert asked(said, *speakers) == "hey 1, did 2 see 3? ask 4. 6 may, will will"
    assert asked("thanks Bo, bo", "bo") == "thanks 1, 1"
    small = ("will", "bo derek", "mark from work")
    assert asked("will, bo, mark, all from work", *small) == "1, 2, 3, all from 3"


def test_all_names_of_a_person_are_one_number() -> None:
    people = (("Rex",), ("bo", "Bo Derek"), ("Bo Rex", "Derek Rex"))
    said = asked("I am Bo Derek, no, derek, not Rex", "Ana", "bo", people=people)
    assert said == "I am 2, no, 2, not someone"
    assert asked("Sam", "Sam Ito", "Sam Ott", people=(("Sam Lee",),)) == "someone"  # shared
    assert asked("Sam", "Sam Ito", people=(("Sam Lee",),)) == "1"  # those who write come first


def test_no_name_of_an_export_is_left() -> None:
    for fixture, names in {
        "slack": ["nora", "Nora", "Sam", "Okoye", "Quinn", "guest", "gil@", "Gil", "U404"],
        "slack_bare": ["bo", "Bo", "Derek", "Zoë", "Weiß"],
        "telegram_odd.json": ["arta", "neil", "Ivo", "Kern", "Ivko", "Juni", "lou", "Rui"],
        "telegram": ["Marta", "marta_k", "Ivo", "Kern", "Weather"],
        "whatsapp_ios_gb.txt": ["Priya", "Tom", "Webb"],
        "whatsapp_android_us.txt": ["Anna", "Bob", "23456789"],
    }.items():
        for chat in read(fixture):
            text = dialogue_of(anonymize(chat, 1).messages)
            assert [name for name in names if name in text] == []


def test_a_mention_of_somebody_who_never_wrote(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    text = "31.12.20, 21:15 - Ana: ask @\u2068Carol Jones\u2069, or @\u2068~Ivo\u2069\n"
    path.write_text(f"{text}31.12.20, 21:16 - Bo: Carol is away, Ivo too\n", "utf-8")
    (chat,) = read(path)
    said = dialogue_of(anonymize(chat, 1).messages)
    assert not any(name in said for name in ("Carol", "Jones", "Ivo", "Ana", "Bo"))
