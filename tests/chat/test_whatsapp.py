"""WhatsApp exports: who said what and when, without the messages that WhatsApp itself writes."""

import datetime as dt
from pathlib import Path

import pytest
from babel import dates

from chat.stamps import find_order, read_start
from chat.whatsapp import clean, parse, recognise
from tests.chat.fixtures import clock, notes, read, read_items, turns

PHOTO, VIDEO, GIF, OTHER = "<file_photo>", "<file_video>", "<file_gif>", "<file_other>"


def test_guesses_are_noted() -> None:
    (note,) = notes(read_items("whatsapp_ambiguous.txt"))
    assert "no date shows which number is the day" in note and "day first" in note
    (note,) = notes(read_items("whatsapp_pasted.txt"))
    assert "dated lines in another style" in note and note.endswith(": 6")


def test_a_pasted_chat_that_is_longer_than_the_chat_around_it() -> None:
    pasted = [f"[30.12.23, 20:00:0{n}] Carl: no" for n in range(3)]
    lines = ["31.12.23, 20:00 - Ana: look", *pasted, "31.12.23, 20:05 - Bo: wow"]
    assert turns(parse("\n".join(lines))) == [
        ("Ana", "\n".join(["look", *pasted])),
        ("Bo", "wow"),
    ]


@pytest.mark.parametrize("stamp", [
    "[31.12.23, 21:15] ", "31/12/23, 21:15 - ", "31.12.2023, 21:15 - ", "2023.12.31, 21:15 - ",
    "31.12.23, 21:15:00 - ", "31.12.23, 9:15 PM - ",
])  # fmt: skip
def test_lines_with_stamps_in_another_style_start_no_message(stamp: str) -> None:
    """Also if such a line comes first, as in a part that was cut out of a chat."""
    own = [f"31.12.23, 21:1{minute} - Ana: hi" for minute in range(3)]
    chat = parse("\n".join([*own, f"{stamp}Bo: no"]))
    assert turns(chat)[2:] == [("Ana", f"hi\n{stamp}Bo: no")]
    chat = parse("\n".join([f"{stamp}Bo: no", *own]))
    assert turns(chat) == [("Ana", "hi")] * 3
    assert chat.notes == ("lines left out before the first message: 1",)


@pytest.mark.parametrize(("starts", "order", "guessed"), [
    (["2/1/21, 9:00 AM - ", "2/3/21, 9:00 AM - "], "month first", True),
    (["2/1/21, 09:00 - ", "3/1/21, 09:00 - "], "day first", True),
    (["2/13/21, 09:00 - "], "month first", False),
    (["13/2/21, 09:00 - "], "day first", False),
    (["5/5/21, 09:00 - "], "day first", False),
    (["2021/02/03, 09:00 - "], "year first", False),
    (["20/02/13, 09:00 - ", "20/13/02, 09:00 - ", "20/02/31, 9:00 - "], "day first", False),
    (["12.12.23, 09:00 - ", "13.12.23, 09:00 - ", "31.06.24, 9:00 - "], "day first", False),
    (["12.12.23, 09:00 - ", "13.12.23, 09:00 - ", "45.12.23, 9:00 - "], "day first", False),
    (["20-12-30, 09:00 - ", "20-12-31, 09:00 - ", "21-01-02, 9:00 - "], "year first", False),
])  # fmt: skip
def test_order_of_day_month_and_year(starts: list[str], order: str, guessed: bool) -> None:
    stamps = [found[0] for start in starts if (found := read_start(f"{start}Ana: hi"))]
    assert len(stamps) == len(starts)
    found_order, note = find_order(stamps)
    assert (found_order, bool(note)) == (order, guessed)


@pytest.mark.parametrize(("start", "hour"), [
    ("1/2/21, 12:07 AM - ", 0), ("1/2/21, 12:07 PM - ", 12), ("1/2/21, 1:07 p.m. - ", 13),
    ("1/2/21, 1:07 am - ", 1), ("01.02.21, 13:07 - ", 13), ("1/2/21 13.07 - ", 13),
    ("01/02/2021 à 13:07 - ", 13), ("2021. 2. 1. 오후 1:07, ", 13), ("2021/2/1 上午1:07 - ", 1),
    ("[1:07 PM, 2/1/2021] ", 13), ("[13:07, 1.2.2021] ", 13),
    ("[1.2.21, 13:07:59] ", 13), ("[2021-02-01, 1:07:59 PM] ", 13),
])  # fmt: skip
def test_time_of_day(start: str, hour: int) -> None:
    found = read_start(f"{start}Ana: hi")
    assert found and (found[0].time.hour, found[0].time.minute, found[1]) == (hour, 7, "Ana: hi")


@pytest.mark.parametrize(("start", "time"), [
    ("\u200f٣١\u200f/١٢\u200f/٢٠٢٠، ٩:١٥ م - ", "2020-12-31 21:15"),
    ("31/12/20, 9:15 μ.μ. - ", "2020-12-31 21:15"),
    ("31/12/20, 12:15 π.μ. - ", "2020-12-31 00:15"),
    ("31.12.20\u202fг., 21:15 ч. - ", "2020-12-31 21:15"),
    ("31.12.20 klo 21.15 - ", "2020-12-31 21:15"),
    ("2020-12-31 21 h 15 - ", "2020-12-31 21:15"),
    ("[2020-12-31 21 h 15 min 03 s] ", "2020-12-31 21:15"),
    ("[2020/12/31 晚上9:15:03] ", "2020-12-31 21:15"),
    ("[2020/12/31 凌晨1:10:00] ", "2020-12-31 01:10"),
    ("[2020/12/31 中午12:05:00] ", "2020-12-31 12:05"),
    ("2020年12月31日 下午9:15 - ", "2020-12-31 21:15"),
    ("31.12.2020 ÖS 9:15 - ", "2020-12-31 21:15"), ("31.12.2020 9:15 ÖÖ - ", "2020-12-31 09:15"),
    ("31/12/2020, 9:15 CH - ", "2020-12-31 21:15"), ("21:15 31/12/2020 - ", "2020-12-31 21:15"),
    ("31/12/20, 24:05 - ", "2020-12-31 00:05"), ("31/12/2563 21:15 - ", "2020-12-31 21:15"),
    ("31/12/63 21:15 - ", "2020-12-31 21:15"), ("२०२०-१२-३१, ९:१५ pm - ", "2020-12-31 21:15"),
    ("31/12/2020 21:15:03: ", "2020-12-31 21:15"), ("31-12-20 21:15:03 ", "2020-12-31 21:15"),
    ("31.12.2020 - 21:15:03; ", "2020-12-31 21:15"),
    ("12/31/2020, 9:15:03 PM - ", "2020-12-31 21:15"),
    ("[ 31-12-2020 ] 21:15:03\t", "2020-12-31 21:15"),
    ("2020/12/31 (21:15) - ", "2020-12-31 21:15"),
    ("20. 12. 31. 오후 9:15, ", "2020-12-31 21:15"),
])  # fmt: skip
def test_stamps_in_many_languages(start: str, time: str) -> None:
    """Also those of WhatsApp Viewer, old iPhones, Viber and Matrix."""
    chat = parse(f"{start}Ida Berg: hi: you")
    assert turns(chat) == [("Ida Berg", "hi: you")] and clock(chat) == [time]
    assert recognise(f"{start}Ida Berg: hi: you")


@pytest.mark.parametrize("locale", [
    "de", "fr", "es", "pt", "it", "nl", "pl", "tr", "id", "ar", "fa", "el", "hu", "ja", "ko", "zh",
    "zh_Hant", "vi", "sv", "sq", "af",
])  # fmt: skip
def test_words_for_the_parts_of_a_day(locale: str) -> None:
    for hour in (0, 5, 9, 11, 12, 13, 17, 21, 23):
        time = dt.time(hour, 7)
        for pattern in ("h:mm a", "a h:mm"):
            found = read_start(
                f"1/2/21, {dates.format_time(time, pattern, locale=locale)} - Ana: hi"
            )
            assert found and found[0].time == time


@pytest.mark.parametrize("line", [
    "Ana: hi", "1/2/21 was fun", "12:30 - lunch", "99/99/21, 25:61 - Ana: hi", "[ok] Ana: hi", "",
])  # fmt: skip
def test_other_lines_start_no_message(line: str) -> None:
    assert read_start(line) is None
    assert not recognise(line)


@pytest.mark.parametrize(("text", "expected"), [
    ("<Medien ausgeschlossen>", OTHER), ("<Multimedia omitido>", OTHER), ("<Médias omis>", OTHER),
    ("<Media omessi>", OTHER), ("<Arquivo de mídia oculto>", OTHER),
    ("<Media weggelaten>", OTHER),
    ("<pominięto multimedia>", OTHER), ("<Без медиафайлов>", OTHER),
    ("<Medya dahil edilmedi>", OTHER), ("Bild weggelassen", PHOTO), ("vídeo omitido", VIDEO),
    ("\u200eimmagine omessa", PHOTO), ("afbeelding weggelaten", PHOTO),
    ("sticker omitted", OTHER),
    ("\u200e<Anhang: 0001-GIF-2021.gif>", GIF), ("<adjunto: a b.mp4>", VIDEO),
    ("a.jpg (bestand bijgevoegd)", PHOTO), ("notes (file attached)", "notes (file attached)"),
    ("\u200eизображение отсутствует", PHOTO),
    ("\u200epominięto kartę kontaktu", OTHER), ("so \u200eimages omises", f"so {OTHER}"),
    ("the page omitted", "the page omitted"),
    ("Mensagem apagada", None), ("You deleted this message", None), ("null", "null"),
    ("Сообщение изменено", "Сообщение изменено"), ("hi <Mensagem editada>", "hi"),
    ("‹attached: a.jpg›", PHOTO), ("<\u200e添付: a b.jpg>", PHOTO),
    ("\u200e<1-a.mp4 eklendi>", VIDEO),
    ("\u200eReport (1).pdf (súbor priložený)\nhere", f"{OTHER}\nhere"),
    ("hi\na.pdf (page)", "hi\na.pdf (page)"), ("a.pdf (page 2)", "a.pdf (page 2)"),
    ("see a.com (nice)", "see a.com (nice)"), ("<Media tidak disertakan>", OTHER),
    ("<תוכן המדיה לא נכלל>", OTHER), ("<媒体文件已忽略>", OTHER), ("<grin>", "<grin>"),
    ("Pesan ini dihapus", None), ("この写真", "この写真"),
    ("hi \u200e<Redigerat meddelande>", "hi"),
    ("I <3 you: a lot>", "I <3 you: a lot>"), ("<see: page 3.>", "<see: page 3.>"),
])  # fmt: skip
def test_placeholders_and_words_that_whatsapp_adds(text: str, expected: str | None) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize("line", [
    "Ana hat den Gruppennamen in „Foo: bar“ geändert", "Ana added Team: Bob",
    "Lou 🚲 removed Team: Bob", "Ana hat Team: Bob entfernt", "Jan heeft Team: Bob toegevoegd",
    "Ana a ajouté Team: Bob", "Ana, Team: Bob kişisini ekledi",
    "Anna nadała grupie nazwę „Foo: bar”", "Ana bytte gruppens namn till “Foo: bar”",
])  # fmt: skip
def test_system_messages_with_a_colon(line: str) -> None:
    """On Android, and on iPhones after the mark (U+200E) that WhatsApp puts before its own text."""
    assert parse(f"31.12.20, 21:15 - {line}").messages == []
    if "Team" not in line:
        assert parse(f"[31.12.20, 21:15:00] Ana: \u200e{line}").messages == []


@pytest.mark.parametrize(("name", "text"), [
    ("Value Added Ltd", "hi"), ("Left Bank Choir", "hi"), ("Red Hat Ben", "Salz: hinzugefügt"),
    ('Ana "Nana" Ott', 'he said "no: never"'), ("Frau „Zoë“ Ott", "“ah: so”"),
    ("Yılmaz, Ali", "süt ekledi"), ("Ana", "I added Team: Bob"),
])  # fmt: skip
def test_names_that_look_like_system_messages(name: str, text: str) -> None:
    assert turns(parse(f"31.12.20, 21:15 - {name}: {text}")) == [(name, text)]


def test_attachments_of_unknown_kinds_on_iphones() -> None:
    lines = ["áudio ocultado", "figurinha omitida", "Kontaktkarte ausgelassen", "Ana saiu"]
    text = "\n".join(f"\u200e[31.12.20, 21:15:0{n}] Ana: \u200e{s}" for n, s in enumerate(lines))
    assert turns(parse(text)) == [("Ana", OTHER)] * 3


def test_carriage_returns_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "WhatsApp Chat with Ana.txt"
    lines = ["31.12.20, 21:15 - Ana: hi", "second line", "31.12.20, 21:16 - Bo: yes", ""]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    (chat,) = read(path)
    assert chat.name == "Ana"
    assert turns(chat) == [("Ana", "hi\nsecond line"), ("Bo", "yes")]
    path.write_text("\n".join(lines), "utf-16")
    assert turns(read(path)[0]) == turns(chat)


ANDROID, IPHONE = "14.02.21, 17:35 - ", "[14.02.21, 17:35:00] "


@pytest.mark.parametrize(("start", "line", "turn"), [
    (ANDROID, "Ida: \u200eok, Bo left", ("Ida", "ok, Bo left")),
    (ANDROID, "Ida: \u200eIda is here", ("Ida", "Ida is here")),
    (IPHONE, "Ida: \u200e(050) 123", ("Ida", "(050) 123")),
    (IPHONE, "Ida: \u200eok, Bo left", ("Ida", "ok, Bo left")),
    (IPHONE, "Ida: \u200eBo added you\nor not?", ("Ida", "Bo added you\nor not?")),
    (IPHONE, "Ida: \u200eValue added.pdf • \u200e3 pages \u200edocument omitted",
     ("Ida", f"Value added.pdf • 3 pages {OTHER}")),
    (IPHONE, "Ida: \u200eLocation: here", ("Ida", "Location: here")),
    (IPHONE, "Ida: \u200eVoice call. \u200e2 min", None),
    (IPHONE, "Ida: \u200eMissed video call", None),
    (IPHONE, "Ida: \u200eIda bu grubun simgesini değiştirdi", None),
    (IPHONE, "~\u00a0Ida: \u200e~\u00a0Ida byttade bild", None),
    (IPHONE, "\u202a+1 777\u202c: \u200e\u202a+1 777\u202c kom med", None),
    (IPHONE, "Ida: Messages and calls are end-to-end encrypted. Only people here read them.", None),
    (IPHONE, "Ida: Is it end-to-end encrypted?", ("Ida", "Is it end-to-end encrypted?")),
    (ANDROID, "Ida joined.\nand: then\n\nthis", ("", "and: then\n\nthis")),
    (ANDROID, "Ida: ok:\nlist", ("Ida", "ok:\nlist")), (ANDROID, "Ida: ", None),
    (ANDROID, "Ida: a\u2028b\x0cc\x85d", ("Ida", "a\u2028b\x0cc\x85d")),
    (ANDROID, "Turned On Studio: hi", ("Turned On Studio", "hi")),
    (ANDROID, "Security Code: hi", ("Security Code", "hi")),
    (ANDROID, "Ida - Work: at 12:30 - ok", ("Ida - Work", "at 12:30 - ok")),
    (ANDROID, 'Ida "The: Boss" Ott: hi', ('Ida "The: Boss" Ott', "hi")),
    (ANDROID, "Ida 5\": 7\" too", ('Ida 5"', '7" too')),
    (IPHONE, "Ole:hi there", ("Ole", "hi there")), (ANDROID, "Ole joined at https://a.b", None),
])  # fmt: skip
def test_who_said_a_line(start: str, line: str, turn: tuple[str, str] | None) -> None:
    """Unless WhatsApp surely wrote it, a person did; lines after the first are never dropped."""
    assert turns(parse(start + line)) == ([turn] if turn else [])


def test_a_name_that_looks_like_a_system_message_but_speaks_twice() -> None:
    lines = [f"{ANDROID}who turned on: {text}" for text in ("hi", "ho")]
    assert turns(parse("\n".join(lines))) == [("who turned on", "hi"), ("who turned on", "ho")]


@pytest.mark.parametrize(("lines", "expected"), [
    (["Dr: Ida: a", "Ole: b", "Dr: Ida: c"], ["Dr: Ida", "Ole", "Dr: Ida"]),
    (["A: B: C: a", "Ole: b", "A: B: C: c"], ["A: B: C", "Ole", "A: B: C"]),
    (["Dr: Ida: a", "Ole: b", "Bo: c", "Dr: Ida: \u200ea.jpg (file attached)"],
     ["Dr: Ida", "Ole", "Bo", "Dr: Ida"]),
    (["Dr: note: a", "Ole: b", "Dr: note: c"], ["Dr", "Ole", "Dr"]),
    (["Dr: Ida: a", "Ole: b", "Dr: no"], ["Dr", "Ole", "Dr"]),
    (["Dr: Ida: a", "Ole: b", "Bo: c", "Dr: Ida: d"], ["Dr", "Ole", "Bo", "Dr"]),
    (["Bo: see: \u200e<attached: a.jpg>", "Bo: see: \u200e<attached: b.jpg>"], ["Bo", "Bo"]),
])  # fmt: skip
def test_names_with_colons(lines: list[str], expected: list[str]) -> None:
    chat = parse("\n".join(ANDROID + line for line in lines))
    assert [message.speaker for message in chat.messages] == expected


@pytest.mark.parametrize(("lines", "count"), [
    (["[15.03.21, 08:00:00] Ole: c", "[15.03.21, 08:01:00] Ida: d"], 4),
    (["[13.02.21, 08:00:00] Ole: c", "[13.02.21, 08:01:00] Ida: d"], 3),  # pasted
    (["[15.03.21, 08:01:00] Ole: c", "[15.03.21, 08:00:00] Ida: d"], 3),
    (["[15.03.21, 08:00:00] Bo: c", "[15.03.21, 08:01:00] Al: d"], 3),
    (["2021-03-05, 10:00 - dentist", "2021-03-06, 10:00 - dentist: teeth"], 3),
    (["[15.03.21, 08:00:00] Ole: c", "[15.03.21, 08:01:00] Ida: d", "16.03.21, 09:00 - Ole: e"], 5),
])  # fmt: skip
def test_an_export_that_follows_one_from_another_phone(lines: list[str], count: int) -> None:
    own = ["14.02.21, 17:35 - Ida: a", "14.02.21, 17:36 - Ole: b", "14.02.21, 17:36 - Ole: "]
    assert len(parse("\n".join([*own, *lines])).messages) == count


def test_iphone_system_messages_after_an_android_export() -> None:
    own = ["14.02.21, 17:35 - Ida: \u200eIda is here", "14.02.21, 17:36 - Ole: b"] * 2
    more = [f"[15.03.21, 08:00:00] Ole: {text}" for text in ("\u200eOle kom med", "hi", "ho")]
    expected = [("Ida", "Ida is here"), ("Ole", "b")] * 2 + [("Ole", "hi"), ("Ole", "ho")]
    assert turns(parse("\n".join([*own, *more]))) == expected


def test_a_message_older_than_the_one_before_is_noted() -> None:
    lines = [
        "14.02.21, 17:35 - Ida: look",
        "12.02.21, 09:00 - Bo: no",
        "14.02.21, 17:36 - Ole: wow",
    ]
    (note,) = parse("\n".join(lines)).notes
    assert "a day or more older" in note and note.endswith(": 1")
