"""Masking names that the export contains, phone numbers and e-mail addresses."""

import pytest

from chat.anonymize import anonymize
from chat.chat import Chat, Message, dialogue_of, speakers_of
from tests.chat.fixtures import read

SPEAKERS = ["Anna Kowalska", "Will", "Jo-Ann Smith", "Bob Smith", "+49 151 23456789", "Zoë 🌸"]


def masked(text: str, *speakers: str, people: tuple[tuple[str, ...], ...] = ()) -> str:
    """Return `text` as masked in a chat of these speakers, as its last message."""
    chat = Chat("p", "n", [Message(None, n, "hi") for n in speakers], people=people)
    chat.messages.append(Message(None, speakers[0], text))
    return anonymize(chat, 1).messages[-1].text


def test_speakers_and_the_chat_are_numbered() -> None:
    chat = anonymize(Chat("p", "Anna", [Message(None, n, "hi") for n in SPEAKERS]), 3)
    assert chat.name == "chat 3"
    assert speakers_of(chat.messages) == [f"Person {n}" for n in range(1, 7)]
    assert anonymize(Chat("p", "", chat.messages), 3).name == ""


@pytest.mark.parametrize(("text", "expected"), [
    ("ask Anna Kowalska", "ask Person 1"), ("anna's hat", "Person 1's hat"),
    ("@Anna look", "@Person 1 look"), ("Kowalska!", "Person 1!"), ("Annabel", "Annabel"),
    ("Will, will you?", "Person 2, will you?"), ("goodwill", "goodwill"),
    ("Jo-Ann or Bob", "Person 3 or Person 4"), ("the Smith house", "the someone house"),
    ("Carol, see @Carol Jones", "someone, see @someone"), ("ZOË!", "Person 6!"),
    ("call +49 151 23456789", "call Person 5"), ("or (030) 901820-11", "or <phone>"),
    ("mail a.b+c@mail.example.org!", "mail <email>!"), ("hi @deep_blue.9", "hi @someone"),
    ("@here: 1000 of 250000", "@here: 1000 of 250000"), ("@anna_k, hi", "@someone, hi"),
    ("@will, see @7pm", "@Person 2, see @7pm"), ("Anna 0151 2345678", "Person 1 <phone>"),
])  # fmt: skip
def test_names_numbers_and_addresses_in_text(text: str, expected: str) -> None:
    assert masked(text, *SPEAKERS, people=(("Carol Jones",),)) == expected


@pytest.mark.parametrize(("speaker", "text", "expected"), [
    ("Anna Weiß", "Frau Weiß", "Frau Person 1"), ("İpek", "İpek? ipek?", "Person 1? someone?"),
    ("Zoë", "Zoe\u0308", "Person 1"), ("Pat O'Brien", "ask O’Brien", "ask Person 1"),
    ("Jo‑Ann", "Jo-Ann", "Person 1"), ("प्रिया शर्मा", "शर्मा जी", "Person 1 जी"),
    ("محمد علي", "يا علي!", "يا Person 1!"), ("김지우", "지우야, 김지우", "Person 1야, Person 1"),
    ("王小明", "OK王小明你好, 小明", "OKPerson 1你好, Person 1"), ("王", "王国の王", "王国の王"),
    ("Tom", "Tomさん, Tommy", "Person 1さん, Tommy"), ("สมชาย", "คุณสมชายครับ", "คุณPerson 1ครับ"),
    ("Dr. Ana Ott", "the dr, Ott", "the dr, Person 1"), (".", "so . what", "so . what"),
    ("bo from work", "Bo at work", "Person 1 at Person 1"),
])  # fmt: skip
def test_other_spellings_and_scripts(speaker: str, text: str, expected: str) -> None:
    assert masked(text, speaker) == expected


def test_all_names_of_a_person_get_one_number() -> None:
    people = (("Rex",), ("bo", "Bo Derek"), ("Bo Rex", "Derek Rex"))
    said = masked("I am Bo Derek, no, derek, not Rex", "Ana", "bo", people=people)
    assert said == "I am Person 2, no, Person 2, not someone"
    assert masked("Sam", "Sam Ito", "Sam Ott", people=(("Sam Lee",),)) == "someone"  # of two
    assert masked("Sam", "Sam Ito", people=(("Sam Lee",),)) == "Person 1"  # of the speaker


@pytest.mark.parametrize(("fixture", "names"), [
    ("slack", "nora Nora Sam Okoye Quinn guest gil@ Gil U404"),
    ("slack_bare", "bo Bo Derek Zoë Weiß"),
    ("telegram_odd.json", "arta neil Ivo Kern Ivko Juni lou Rui"),
    ("telegram", "Marta marta_k Ivo Kern Weather"),
    ("whatsapp_ios_gb.txt", "Priya Tom Webb"),
    ("whatsapp_android_us.txt", "Anna Bob 23456789"),
])  # fmt: skip
def test_no_name_remains_in_an_export(fixture: str, names: str) -> None:
    for chat in read(fixture):
        text = dialogue_of(anonymize(chat, 1).messages)
        assert [name for name in names.split() if name in text] == []


def test_mentioned_people_who_never_wrote_are_masked() -> None:
    text = "31.12.20, 21:15 - Ana: ask @\u2068Carol Jones\u2069, or @\u2068~Ivo\u2069\n"
    (chat,) = read("-", stdin=f"{text}31.12.20, 21:16 - Bo: Carol is away, Ivo too\n".encode())
    said = dialogue_of(anonymize(chat, 1).messages)
    assert not any(name in said for name in ("Carol", "Jones", "Ivo", "Ana", "Bo"))


@pytest.mark.parametrize("number", [
    "0151 2345678", "0151/2345678", "00441632960001", "+49 (0)151 2345678", "(+49) 151 2345678",
    "+49\u00a0151\u202f2345678", "555‑123‑4567", "5551234", "06.12.34.56.78", "06-12 34 56 78",
    "01.12.30.45.60", "12 34 56 78", "0151 12-11-20", "0151 2345678 / 0171 9876543",
])  # fmt: skip
@pytest.mark.parametrize("around", ["call {}!", "Tel:{},", "10:30 {} at 10:30", "电话{}로"])
def test_phone_numbers_are_masked(number: str, around: str) -> None:
    assert masked(around.format(number), "Ana") == around.format("<phone>")


@pytest.mark.parametrize("text", [
    "2024-01-02 10:00", "2024-01-02T10:00:00Z", "24.12.2024 18:00-20:00", "12/31/20, 9:15 PM",
    "01.02.24-05.02.24", "01.02.2024 - 05.02.2024", "01.02.-05.02.2024", "2024. 1. 2. 10:00",
    "on 2021-05-01 and 12.11.2020 at 19:30", "season 2023/2024, 2023-2024", "room 12-14, 3.50",
    "1000 of 250000",
])  # fmt: skip
def test_dates_times_and_amounts_are_kept(text: str) -> None:
    assert masked(text, "Ana") == text
