"""Long texts do not take quadratic time: each of these once took from ten seconds to hours."""

import importlib.util
import io
import random
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from chat import apps, slack, texts, whatsapp
from chat.anonymize import anonymize
from chat.chat import Chat, Message, People
from chat.read import Item, read_upload
from data_prep.errors import UserError
from eval import metrics
from eval.diagnosis import diagnose
from eval.html_report import marked
from eval.language import Scoring, without_markup
from eval.metrics import score
from eval.outputs import stem
from scripts import leaks

MOST = 5.0  # seconds of CPU time; the slowest case takes 0.5
STAMP = "12/30/20, 12:30 - "
IPHONE = "[12/30/2020, 12:30:00] "
HI = {"type": "message", "text": "hi", "user": "U"}
DAYS = "Monday Tuesdays January Fri 3 We met on Sunday. " * 600


def whatsapp_of(*lines: str) -> Callable[[], object]:
    return lambda: whatsapp.parse("\n".join(lines))


def namesakes() -> None:
    people = People()
    for person in range(10000):
        people.name(person, "Alex")


def replies() -> list[dict[str, object]]:
    return [
        {**HI, "ts": str(n), "slackdump_thread_replies": [{**HI, "ts": f"{n}.5"}]}
        for n in range(20000)
    ]


def nested_folders() -> list[Item]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a/" * 900 + "chat.txt", "Al: hi")
    return list(read_upload(packed.getvalue(), "a.zip"))


def chat_of(count: int) -> Chat:
    return Chat("", "", [Message(None, f"Al{n} Bo{n} Cy{n}", "hi") for n in range(count)])


def plain_text(text: str) -> Callable[[], object]:
    return lambda: texts.parse(text, "", "", False)


LONG: dict[str, Callable[[], object]] = {
    "a sentence of 9,000 words": lambda: score(
        ["the cat sat on a mat " * 1500], ["a cat sat on the mat " * 1500], scoring=Scoring()
    ),
    "nested think blocks": lambda: without_markup("<think>" * 30000 + "</think>" * 30000),
    "weekdays": lambda: diagnose(DAYS, DAYS, "A: " + " ".join(f"w{n}" for n in range(9000))),
    "numbers as words": lambda: diagnose("five " * 5000, "x", "A: x"),
    **{f"quotes {s}": whatsapp_of(f"{STAMP}Al: {f'{s} ' * 12000}") for s in '"\u201e\u201c\xab'},
    "colons in quotes": whatsapp_of(STAMP + "\": \" " * 9000),
    "prefixes": whatsapp_of(*(f"{STAMP}{'Al: Bo: ' * 99}{n}" for n in range(6))),
    "two stamp styles": whatsapp_of(*[f"{STAMP}A: x"] * 2, *[f"{IPHONE}A: x", f"{IPHONE}A: y",
                                                     f"{STAMP}A: x", f"{STAMP}A: y"] * 1000),
    "attachments": whatsapp_of(f"{STAMP}Al: <{'media ' * 9000}"),
    "the German word hat": whatsapp_of(f"{STAMP}{'a hat ' * 9000}: {'b ' * 9000}"),
    "spaces below a name": plain_text("a\n" + " " * 30000 + "x"),
    "spaces after a name": plain_text("a" + " " * 30000 + "x"),
    "empty lines": plain_text("12:30 From a to b: x" + "\n" * 30000 + "y"),
    "Zoom": plain_text("12:30 From a" + " to a" * 9000),
    "Webex": plain_text("from a" + " to a" * 9000),
    "KakaoTalk": lambda: texts.parse("KakaoTalk Chats\n" + "\ub2d8\uc774 " * 9000, "", "", True),
    "brackets": plain_text("Al (12:30): " + "![" * 20000),
    "a long file name": plain_text("Al (12:30): x\nattachments/" + "a" * 30000),
    "captions": lambda: texts.MARKS.sub("", "<" * 50000),
    "comments in XML": lambda: list(texts._sms("<smses>" + "<!--" * 50000 + "<!x", "")),
    "quotes in Skype": lambda: apps.SKYPE_QUOTE.sub("", "<quote " * 3000),
    "namesakes": namesakes,
    "replies in threads": lambda: slack.parse_file(replies(), ""),
    "names with one prefix each": whatsapp_of(
        *(f"{STAMP}Team{n}: {who}: {text}{m}" for n in range(2000)
          for m, (who, text) in enumerate([("An", "a"), ("Bo", "b")] * 2))
    ),
    "nested folders": nested_folders,
    "repeated words to mark": lambda: marked("a b " * 1200, "b a a " * 900),
    "names to mask": lambda: anonymize(chat_of(200), 1),
    "spaces in an id": lambda: stem(" " * 5000 + "\n"),
    **{f"secrets {s}": partial(leaks._secret, s * (30000 // len(s)) + e, ())
       for s, e in [("-pwd", ""), ("://a:", ""), ("/", ""), ("http://nas/", ""), ("pwd", ";"),
                    ("`a", ":"), ("sk-", ""), ("eyJ", ""), (" ", "pwd" + " " * 30000 + "=")]},
}  # fmt: skip


@pytest.mark.parametrize("case", LONG)
def test_long_input_is_quick(case: str) -> None:
    start = time.thread_time()
    with suppress(UserError):  # a refusal must be quick too
        LONG[case]()
    assert time.thread_time() - start < MOST


def test_our_faster_rouge_equals_rouge_score_exactly() -> None:
    spec = importlib.util.find_spec("rouge_score.rouge_scorer")
    assert spec and spec.loader
    theirs = importlib.util.module_from_spec(spec)  # an unpatched copy
    spec.loader.exec_module(theirs)
    numbers = random.Random(1)
    for _ in range(400):
        one, other = (
            numbers.choices("abcdefg"[: numbers.randint(1, 7)], k=numbers.randint(0, 30))
            for _ in range(2)
        )
        assert theirs.lcs_ind(one, other) == metrics._lcs(one, other)[::-1]
        sentences = [other[place : place + 4] for place in range(0, len(other), 4)]
        assert theirs._union_lcs(one, sentences) == metrics._union_lcs(one, sentences)
        pair = [" ".join(words).replace("g", ".\n") for words in (one, other)]
        scoring = Scoring(lsum="lines")
        found = theirs.RougeScorer(metrics.METRICS, tokenizer=scoring).score(*pair)
        assert score([pair[1]], [pair[0]], scoring=scoring)[0].tolist() == [
            list(found[metric]) for metric in metrics.METRICS
        ]
