"""Mistakes in summaries, rule by rule; their rates on references; groups of dialogues."""

import json
import re
from itertools import product

import pytest

from eval.diagnosis import (
    MISTAKES,
    diagnose,
    groups,
    loops,
    missing_speakers,
    speakers,
    turns,
    unknown_dates,
    unknown_names,
    unknown_numbers,
)
from eval.html_report import chat
from tests.conftest import SHARED
from tests.eval.report_data import sample

CHAT = "Ola: did Marek's bus come?\nMr. Piet Berg: no, mon 10:30\nOla: <file_photo>\nolek: k"


def test_turns_are_non_empty_lines() -> None:
    assert turns(" Ola: hi\r\n\r\n \nPiet: yo \rOla: ok") == ["Ola: hi", "Piet: yo", "Ola: ok"]


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (CHAT, ["Ola", "Mr. Piet Berg", "olek"]),
        ("Ola : hi\nPiet:\nOla: ok", ["Ola", "Piet"]),
        ("#Person1#: hi\n#Person2#: hello\n2pac: yo", ["#Person1#", "#Person2#", "2pac"]),
        ("Zoë: ça va?\nŁukasz: tak\nO'Neil-Smith: hi", ["Zoë", "Łukasz", "O'Neil-Smith"]),
        ("Ola: see\nhttps://x.org/a: b\n10:30 or 11:00\n<file_photo>\nso sad :(", ["Ola"]),
        ("Ola: list\nwhat we need today: milk\nAnd here is one more thing: eggs", ["Ola"]),
        ("no speaker here\n: nor here\n\n(: nor here", []),
    ],
)
def test_speakers(dialogue: str, expected: list[str]) -> None:
    assert speakers(dialogue) == expected


def test_chinese_chats_have_speakers_and_words() -> None:
    dialogue = "小玛：能借你的水壶吗？16:30见\n托比：可以。"
    assert speakers(dialogue) == ["小玛", "托比"]
    assert missing_speakers("小玛借了水壶。", "小玛向托比借水壶。", dialogue) == ["托比"]
    assert chat(dialogue).startswith("<b>小玛：</b>能借") and "<b>托比：</b>" in chat(dialogue)
    assert groups([dialogue * 5])["words"][0][0] == "51-100"


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The bus is late.", "Ola's bus is late, says Piet Berg.", ["Ola", "Mr. Piet Berg"]),
        ("OLA’s bus, says Berg.", "Ola's bus is late, says Piet.", []),
        ("Olaf waits.", "Ola waits.", ["Ola"]),
        ("Nobody waits.", "Olaf and a Mr. Nobody wait.", []),
        ("Ola waits.", "Ola waits for olek.", ["olek"]),
        ("Anna waits.", "Anna ola waits.", []),  # a word that is also a name needs its capital
    ],
)
def test_missing_speakers(prediction: str, reference: str, expected: list[str]) -> None:
    assert missing_speakers(prediction, reference, CHAT) == expected


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Ola and Marek wait with Sarah.", ["Sarah"]),
        ("Sarah is late. Sarah's bus too.", ["Sarah", "Sarah"]),
        ("Ola waits. Sarah and Ola meet.", ["Sarah"]),
        ("Sarah doesn’t come, says Mr Novak.", ["Sarah", "Novak"]),
        ("Yesterday Ola waited. Buses run late. Trams are fine. Everyone is sad.", []),
        ("On Monday Ola goes to New York, in Poland, by the Thames, at Easter.", []),
        ("MAREK called Olek, Bergs and Ola-Marek at BBC. I'm Ok.", []),
        ("He met Bergman.", []),  # he may be the "Berg" of the chat
        ("She told Bob she'd be late", ["Bob"]),
        ("", []),
    ],
)
def test_unknown_names(prediction: str, expected: list[str]) -> None:
    assert unknown_names(prediction, CHAT) == expected


def unknown(stated: str, said: str) -> list[str]:
    """Return the unknown numbers and dates if a summary has `stated` and the chat has `said`."""
    summary, chat = f"Ola says it is {stated} for Piet.", f"Ola: so?\nPiet: ok, {said} then"
    return unknown_numbers(summary, chat) + unknown_dates(summary, chat)


@pytest.mark.parametrize(
    "same",
    [
        "3|three|3rd|third|３|٣|३",
        "3 pm|15:00|3:00|3 o'clock|three o’clock|3pm|3.00 PM|15.00|3 p.m.|1500|15h00|15：00",
        "half past 7|7:30|19:30|7.30|half past seven|half seven|seven thirty|730|7h30",
        "quarter to 8|7:45|a quarter to eight|19:45|quarter of 8",
        "quarter past 8|8:15|a quarter after eight",
        "noon|12:00|12 pm|midday|twelve o'clock",
        "midnight|00:00|12 am",
        "1,000|1000|1k|a thousand|one thousand|1 000|1.000|1'000",
        "10,000 words|10k words|ten thousand words|10.000 words",
        "$1.5 million|1,500,000 dollars|1.5 million",
        "20%|20 percent|twenty per cent|20 %",
        "twenty-five|25|twenty five|25th|twenty-fifth",
        "$5|5 dollars|5 bucks|five bucks|$5.00",
        "2.5|2,5|two and a half",
        "an hour and a half|1.5 hours|90 minutes|1,5h",
        "half an hour|30 minutes|30 min",
        "an hour|60 minutes|1 hour",
        "a dozen eggs|12 eggs|twelve eggs",
        "a couple of weeks|two weeks|2 weeks",
        "twice a day|two times a day|2 times a day",
        "seven or so|7ish|sevenish",
        "1984|84",
        "Monday|mon|Mon.|Mondays",
        "Tuesday|Tue.|tues|Tues",
        "Wednesday|wed|Weds",
        "Thursday|thurs|Thu",
        "September|Sept.|sep",
        "May 12th|12/05|12 May|the 12th of May|May 12|12.05|12-5",
        "3 August|Aug 3rd|03/08|August the 3rd",
    ],
)
def test_forms_of_the_same_number_or_date_match(same: str) -> None:
    forms = same.split("|")
    assert [pair for pair in product(forms, forms) if unknown(*pair)] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3 pm", "4 pm"),
        ("3 pm", "3:30"),
        ("15:00", "16:00"),
        ("7:30", "7:45"),
        ("5:30", "3:00"),
        ("half past 7", "half past 8"),
        ("quarter to 8", "quarter past 8"),
        ("noon", "1 pm"),
        ("1000", "100"),
        ("a thousand", "two thousand"),
        ("20%", "25%"),
        ("twenty-five", "thirty-five"),
        ("5 dollars", "15 dollars"),
        ("six people", "five people"),
        ("two weeks", "three weeks"),
        ("2.5", "2.6"),
        ("1984", "1985"),
        ("Monday", "Tuesday"),
        ("Tuesday", "Thursday"),  # similar, but not a typo
        ("Mon.", "Fri."),
        ("weekend", "Monday"),
        ("12 May", "12 June"),
        ("May 12", "May 14"),
        ("25/11", "May 12"),
        ("٣٠", "٤٠"),
    ],
)
def test_different_numbers_or_dates_do_not_match(one: str, other: str) -> None:
    assert unknown(one, other) and unknown(other, one)
    assert unknown(one, "later") and unknown(other, "later")


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ("two friends, three of them, both, twice, the first and one of four", "ok"),
        ("1 year and 1 day", "a year and a day"),
        ("the weekend", "saturday"),
        ("the weekend", "the wknd"),
        ("Saturday", "saturady"),
        ("quarter past 7", "7:15"),
        ("7", "half past 7"),
        ("15", "a quarter of an hour"),
        ("at #5 with Person12, covid19 and <file_photo>", "ok"),
        ("such that he may march in the sun, sat down", "ok"),
        ("3点", "三点"),
        ("0.5", "½"),
        ("2", "2nite at 8"),
    ],
)
def test_numbers_and_dates_that_are_not_mistakes(stated: str, said: str) -> None:
    assert unknown(stated, said) == []


def test_unknown_numbers_and_dates_are_listed() -> None:
    chat = "Agent 47: mon 10:30?\nOla: May 12th, twenty people"
    text = "Agent 47 meets 21 people on Tuesday at 6 pm, or on 13 May. May be. Sun was out at ten."
    assert unknown_numbers(text, chat) == ["21", "6 pm", "10"]
    assert unknown_dates(text, chat) == ["Tuesday", "13 May"]
    assert unknown_numbers("", chat) == unknown_dates("", "") == []


@pytest.mark.parametrize(
    "text",
    [
        "9" * 5000 + " pm",
        "half past " + "1" * 400,
        "99/99 30 Feb 12.05.2019 ½² ㊿ 𝟗 ٣:٣٠ ๑๒:๓๐ 1,2,3 .5 5. 1: ::",
        "\ud800\x00\u202e٪ 十五 twenty- ſix sİx ﬁve 5K 5 thouſand weekſ",
    ],
)
def test_odd_text_is_handled(text: str) -> None:
    assert not {"unknown_number", "unknown_date"} & set(diagnose(text, text, f"Ola: {text}"))
    diagnose(text, text, "Ola: 5 pm")


@pytest.mark.parametrize(
    ("dialogue", "whole", "without"),
    [
        ("小明: 三点看电影？\nOla: 好", "小明和Ola去看电影。", "小华和Olaf去看电影。"),
        ("美咲: 明日ね\nマリー: うん", "美咲さんとマリーさんが会う。", "二人が会う。"),
        ("민수: 내일 봐\n지영: 응", "민수는 지영이와 만난다.", "둘이 만난다."),
        ("สมชาย: เจอกัน\nมานี: ตกลง", "สมชายกับมานีจะเจอกัน", "ทั้งสองจะเจอกัน"),
        ("राम: कल\nसीता: ठीक", "राम और सीता मिलेंगे।", "रामा और सीताराम मिलेंगे।"),
        ("Ola: 😍\nPiet: ok", "❤️Ola, Piet❤️", "Olaf, Pieta"),
    ],
)
def test_names_in_other_scripts(dialogue: str, whole: str, without: str) -> None:
    assert missing_speakers(whole, whole, dialogue) == []
    assert missing_speakers(without, whole, dialogue) == speakers(dialogue)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ola is late. Piet waits. Ola, is LATE!", True),
        ("Ola is late and Piet is late and Ola is late and Piet is late", False),
        ("he said that she is here " * 3, True),
        ("no no no no no no", True),
        ("Yes. Yes. Ola left. Ola left.", False),
        ("a b c d, a b c d", False),
        ("", False),
        ("小明去看电影。小明去看电影！", True),
        ("小明去看电影" * 4, True),
        ("小明和王丽明天下午三点去看电影，王丽带票，小明买爆米花。", False),
        ("人工智能很好，人工智能很贵，人工智能很新。", False),  # one word of four characters
        ("田中は出席しました。佐藤は用意しました。鈴木は注文しました。", False),
        ("राम कल आएगा। राम कल आएगा।", True),
        ("कि की के का कि की के का कि की", False),  # a character and its vowel mark are one word
        ("☺️ ☺️ ☺️ ☺️ ☺️ ☺️", False),
    ],
)
def test_loops(text: str, expected: bool) -> None:
    assert loops(text) is expected


def test_diagnose_lists_all_mistakes_in_order() -> None:
    reference = "Ola asks Piet Berg about a bus."
    assert diagnose(reference, reference, CHAT, stopped=True) == []
    bad = "Sarah is here. Sarah is here. Ola on Friday at 7"
    assert diagnose(bad, reference, CHAT, stopped=False) == list(MISTAKES)[1:]
    assert diagnose(bad, reference) == ["loop"]
    for empty in ("", " \n", "...", "😀"):
        assert diagnose(empty, reference, CHAT, stopped=True) == ["empty"]


def test_references_have_almost_no_mistakes() -> None:
    rows = [row for split in ("train", "validation", "test") for row in sample(split)]
    found = [diagnose(row["summary"], row["summary"], row["dialogue"]) for row in rows]
    assert len(found) == 220 and not any("loop" in mistakes for mistakes in found)
    assert sum("unknown_name" in mistakes for mistakes in found) <= 2
    assert not any({"unknown_number", "unknown_date"} & set(mistakes) for mistakes in found)


def test_rates_on_the_references_of_samsum() -> None:
    path = SHARED / "samsum/test.json"
    if not path.is_file():
        pytest.skip("../shared/data/samsum is absent: corpus text is not in this repository")
    rows = json.loads(path.read_text("utf-8"))
    found = [diagnose(row["summary"], row["summary"], row["dialogue"]) for row in rows]
    assert len(found) == 819
    assert sum("unknown_name" in mistakes for mistakes in found) == 13
    assert sum("unknown_number" in mistakes for mistakes in found) == 2
    assert not any(set(mistakes) - {"unknown_name", "unknown_number"} for mistakes in found)

    renamed = []
    for row in rows:
        summary = row["summary"]
        if first := next((name for name in speakers(row["dialogue"]) if f"{name} " in summary), ""):
            changed = summary.replace(first, "Guadalupe")
            renamed.append(diagnose(changed, summary, row["dialogue"]))
    assert len(renamed) > 700
    assert sum("missing_speaker" in mistakes for mistakes in renamed) > 0.98 * len(renamed)
    assert sum("unknown_name" in mistakes for mistakes in renamed) > 0.75 * len(renamed)

    numbers, dates = [], []
    days = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January February March April"
    days += " June July August September October November December"
    for row in rows:
        summary, chat = row["summary"], row["dialogue"]
        if number := re.search(r"\d+", summary):
            more = next(n for n in range(int(number[0]) + 1, 10**9) if str(n) not in chat)
            changed = f"{summary[: number.start()]}{more}{summary[number.end() :]}"
            numbers.append(unknown_numbers(changed, chat) or unknown_dates(changed, chat))
        if day := re.search(rf"\b({days.replace(' ', '|')})\b", summary):
            other = next(day for day in days.split() if day[:3].lower() not in chat.lower())
            dates.append(unknown_dates(summary.replace(day[0], other), chat))
    assert (len(numbers), sum(map(bool, numbers))) == (202, 196)
    assert len(dates) == sum(map(bool, dates)) == 65


def test_groups_put_every_dialogue_in_one_bin_of_each_kind() -> None:
    dialogues = [CHAT, "Ola: " + "so " * 50, "Ola: hi\n" * 6 + "Piet: yo", ""]
    assert groups(dialogues) == {
        "words": [("1-50", [0, 2, 3]), ("51-100", [1])],
        "turns": [("1-5", [0, 1, 3]), ("6-10", [2])],
        "speakers": [("0-1", [1, 3]), ("2", [2]), ("3", [0])],
    }
    assert groups([]) == {"words": [], "turns": [], "speakers": []}


@pytest.mark.parametrize(
    ("kind", "dialogues", "expected"),
    [
        (
            "words",
            ["w " * size for size in (50, 51, 200, 400, 401)],
            ["1-50", "51-100", "101-200", "201-400", "over 400"],
        ),
        (
            "turns",
            ["hi\n" * size for size in (5, 15, 16, 21)],
            ["1-5", "11-15", "16-20", "over 20"],
        ),
        ("speakers", ["a: hi", "a:\nb:\nc:\nd:"], ["0-1", "4 and more"]),
    ],
)
def test_bin_edges(kind: str, dialogues: list[str], expected: list[str]) -> None:
    assert [label for label, _ in groups(dialogues)[kind]] == expected
