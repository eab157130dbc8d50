"""Names that the export knows, phone numbers and e-mail addresses are masked."""

import pytest

from eval.chats.anonymize import anonymize
from eval.chats.chat import Chat, Message, dialogue_of, speakers_of
from tests.chats import read

SPEAKERS = ["Anna Kowalska", "Will", "Jo-Ann Smith", "Bob Smith", "+49 151 23456789", "Zoë 🌸"]


def masked(text: str) -> str:
    """The text as one more message of a chat with all speakers and two others."""
    chat = [Message(None, name, "hi") for name in SPEAKERS] + [Message(None, "Will", text)]
    people = frozenset({"Carol Jones"})
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
    ("on 2021-05-01 and 12.11.2020 at 19:30", "on 2021-05-01 and 12.11.2020 at 19:30"),
    ("@here: 1000 of 250000", "@here: 1000 of 250000"), ("room 12-14, 3.50", "room 12-14, 3.50"),
])  # fmt: skip
def test_text(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_no_name_of_an_export_is_left() -> None:
    for fixture, names in {
        "slack": ["nora", "Sam", "Okoye", "Quinn", "guest", "gil@", "U404"],
        "telegram": ["Marta", "marta_k", "Ivo", "Kern", "Weather"],
        "whatsapp_ios_gb.txt": ["Priya", "Tom", "Webb"],
        "whatsapp_android_us.txt": ["Anna", "Bob", "23456789"],
    }.items():
        for chat in read(fixture):
            text = dialogue_of(anonymize(chat, 1).messages)
            assert [name for name in names if name in text] == []
