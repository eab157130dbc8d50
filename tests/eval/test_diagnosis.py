"""The mistakes of summaries, rule by rule; their rates on references; the groups of dialogues."""

import json

import pytest

from eval.diagnosis import (
    diagnose,
    groups,
    loops,
    missing_speakers,
    speakers,
    turns,
    unknown_names,
)
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


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The bus is late.", "Ola's bus is late, says Piet Berg.", ["Ola", "Mr. Piet Berg"]),
        ("OLA’s bus, says Berg.", "Ola's bus is late, says Piet.", []),
        ("Olaf waits.", "Ola waits.", ["Ola"]),
        ("Nobody waits.", "Olaf and a Mr. Nobody wait.", []),
        ("Ola waits.", "Ola waits for olek.", ["olek"]),
        ("Anna waits.", "Anna ola waits.", []),  # a word that is a name too needs its capital
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
        ("He met Bergman.", []),  # "Berg" may well be he
        ("She told Bob she'd be late", ["Bob"]),
        ("", []),
    ],
)
def test_unknown_names(prediction: str, expected: list[str]) -> None:
    assert unknown_names(prediction, CHAT) == expected


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
        ("人工智能很好，人工智能很贵，人工智能很新。", False),  # one word of four signs
        ("田中は出席しました。佐藤は用意しました。鈴木は注文しました。", False),
        ("राम कल आएगा। राम कल आएगा।", True),
        ("कि की के का कि की के का कि की", False),  # each sign is one word with its mark
        ("☺️ ☺️ ☺️ ☺️ ☺️ ☺️", False),
    ],
)
def test_loops(text: str, expected: bool) -> None:
    assert loops(text) is expected


def test_diagnose_names_all_mistakes_in_their_order() -> None:
    reference = "Ola asks Piet Berg about a bus."
    assert diagnose(reference, reference, CHAT, stopped=True) == []
    bad = "Sarah is here. Sarah is here. Ola"
    assert diagnose(bad, reference, CHAT, stopped=False) == [
        "token_limit", "loop", "missing_speaker", "unknown_name",
    ]  # fmt: skip
    assert diagnose(bad, reference) == ["loop"]
    for empty in ("", " \n", "...", "😀"):
        assert diagnose(empty, reference, CHAT, stopped=True) == ["empty"]


def test_references_have_next_to_no_mistakes() -> None:
    rows = [row for split in ("train", "validation", "test") for row in sample(split)]
    found = [diagnose(row["summary"], row["summary"], row["dialogue"]) for row in rows]
    assert len(found) == 220 and not any("loop" in mistakes for mistakes in found)
    assert sum("unknown_name" in mistakes for mistakes in found) <= 2


def test_rates_on_samsums_references() -> None:
    path = SHARED / "samsum/test.json"
    if not path.is_file():
        pytest.skip("../shared/data/samsum is absent: corpus text is not in this repository")
    rows = json.loads(path.read_text("utf-8"))
    found = [diagnose(row["summary"], row["summary"], row["dialogue"]) for row in rows]
    assert len(found) == 819
    assert sum("unknown_name" in mistakes for mistakes in found) == 13
    assert not any(set(mistakes) - {"unknown_name"} for mistakes in found)

    renamed = []
    for row in rows:
        summary = row["summary"]
        if first := next((name for name in speakers(row["dialogue"]) if f"{name} " in summary), ""):
            changed = summary.replace(first, "Guadalupe")
            renamed.append(diagnose(changed, summary, row["dialogue"]))
    assert len(renamed) > 700
    assert sum("missing_speaker" in mistakes for mistakes in renamed) > 0.98 * len(renamed)
    assert sum("unknown_name" in mistakes for mistakes in renamed) > 0.75 * len(renamed)


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
def test_edges_of_the_bins(kind: str, dialogues: list[str], expected: list[str]) -> None:
    assert [label for label, _ in groups(dialogues)[kind]] == expected
