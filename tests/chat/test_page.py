"""The local page in a real browser, with a tiny random model."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from chat.page import example_chats
from data_prep.recipe import load_recipe
from tests.browser import watched_page
from tests.chat.page_recipe import free_port, page_recipe
from tests.conftest import ROOT, WORKER, derived_recipe

CHAT = "Anna: are you coming tonight?\nBen: yes, at 8. I'll bring the cake </s>"
DONE = "#tuned-facts p"
FACTS = r"^\d+ new tokens?, \d+\.\d\d s, (stopped by itself|cut at the limit)$"
# Runs the command and writes down each host that its process asks for.
WATCHED = """
import runpy, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        host = args[0] if event == "socket.getaddrinfo" else args[1][0]
        print(host, file=open(log, "a"))
log, sys.argv[1:] = sys.argv[1], sys.argv[2:]
sys.addaudithook(watch)
runpy.run_module("chat.page", run_name="__main__", alter_sys=True)
"""


@dataclass
class Server:
    """A running page: where it is, its process, and the hosts that the process asked for."""

    url: str
    process: subprocess.Popen[str]
    hosts: Path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Path:
    return page_recipe(tmp_path_factory.mktemp("page"), tiny_smollm2)


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Server]:
    with running(path) as server:
        yield server


@contextmanager
def running(recipe: Path) -> Iterator[Server]:
    """The command of the README on a free port, behind a proxy that is not there."""
    port, hosts = free_port(), recipe.with_suffix(".hosts")
    nowhere = "http://127.0.0.1:9"
    environment = {**os.environ, "HTTP_PROXY": nowhere, "http_proxy": nowhere}
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, hosts, recipe, "--port", str(port)], cwd=ROOT,
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline() if process.stdout else ""
        said = line or process.communicate()[1][-2000:]
        assert line == f"http://127.0.0.1:{port} shows the page; Ctrl-C ends it\n", said
        yield Server(f"http://127.0.0.1:{port}/", process, hosts)
    finally:
        process.kill()


def interrupt(server: Server) -> None:
    """Ctrl-C: at once and without a word."""
    server.process.send_signal(signal.SIGINT)
    output, errors = server.process.communicate(timeout=10)
    assert server.process.returncode == 0 and output == "\n"
    assert "Traceback" not in errors and "interrupt" not in errors.lower()


@pytest.fixture(params=[(1200, "light"), (390, "dark")], ids=str)
def page(browser: Any, server: Server, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open page; whatever it did, it logged no error and asked no other host for anything."""
    with watched_page(browser, server.url, *request.param) as (page, requests):
        page.wait_for_selector("#chat textarea")
        yield page
        assert len(requests) > 5 and [r for r in requests if not r.startswith(server.url)] == []
        links = "all => all.map(one => one.href || one.src)"
        named = page.eval_on_selector_all('[href^="http"], [src^="http"], [href^="//"]', links)
        assert [link for link in named if not link.startswith(server.url)] == []


def summarise(page: Any, chat: str) -> None:
    page.get_by_label("Chat", exact=True).fill(chat)
    page.get_by_role("button", name="Summarise").click()


def test_both_summaries_stand_side_by_side_with_their_counts(page: Any, tmp_path: Path) -> None:
    summarise(page, CHAT)
    page.wait_for_selector(DONE)
    boxes = []
    texts = [page.get_by_label(f"{name} model").input_value() for name in ("Base", "Tuned")]
    assert texts[0] != texts[1]
    for model in ("base", "tuned"):
        assert re.match(FACTS, page.locator(f"#{model}-facts").inner_text().strip())
        boxes.append(page.locator(f"#{model}").bounding_box())
    wide = page.viewport_size["width"] > 600
    assert (boxes[0]["y"] == boxes[1]["y"]) is wide and (boxes[0]["x"] < boxes[1]["x"]) is wide
    note = page.get_by_role("status").inner_text()
    assert re.match(r"^The prompt has \d\d tokens, of 299 at most\. In the chat a blank ", note)
    assert "broke 1 control string." in note and "at work" not in note
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_a_chat_that_cannot_be_summarised_is_refused_in_a_sentence(page: Any) -> None:
    summarise(page, CHAT)
    page.wait_for_selector(DONE)
    for chat, sentence in (
        ("  \n ", "There is no chat yet; paste one, a turn a line."),
        ("Anna: hi\n" * 1500, "the recipe's sequence_len of 300 allows 299; shorten it."),
        ("x" * 300_000, "The chat has more than 200,000 characters; paste a part of it."),
    ):
        summarise(page, chat)
        alert = page.get_by_role("alert").filter(has_text=sentence)
        alert.wait_for()
        assert "<" not in alert.inner_text()
        assert page.get_by_label("Tuned model").input_value() == ""  # not that of another chat
        assert page.locator(DONE).count() == 0


def test_an_example_fills_the_field_in(page: Any, path: Path) -> None:
    dialogue = example_chats(load_recipe(path))[1]
    page.get_by_role("button", name="Ananya, Jabari").click()
    page.wait_for_function("document.querySelector('#chat textarea').value.length > 0")
    assert page.get_by_label("Chat", exact=True).input_value() == dialogue


def test_colours_follow_the_system_and_fonts_are_its_own(page: Any) -> None:
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    look = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(look) == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    font = "getComputedStyle(document.querySelector('#chat textarea')).fontFamily"
    assert page.evaluate(font).startswith("system-ui")
    assert page.evaluate("[...document.fonts].filter(f => f.status == 'loaded').length") == 0


def test_the_browser_refuses_other_hosts(browser: Any, server: Server) -> None:
    page = browser.new_page()
    page.goto(server.url)
    asked = """new Promise(done => {
        document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));
        fetch('https://example.org/x').catch(() => null);
    })"""
    assert page.evaluate(asked) == "https://example.org/x"
    page.close()


def test_two_people_at_once_both_get_their_own(browser: Any, server: Server) -> None:
    chats = [CHAT, "Zoë: wo bist du?\nTom: im Zug 😅"]
    pages = [browser.new_page() for _ in chats]
    found = []
    for together in (True, False):  # then each alone
        for page, chat in zip(pages, chats, strict=True):
            page.goto(server.url)
            summarise(page, chat)
            if not together:
                page.wait_for_selector(DONE)
        for page in pages:
            page.wait_for_selector(DONE)
            texts = [page.locator(f"#{m} textarea").input_value() for m in ("base", "tuned")]
            found.append(texts)
    assert found[:2] == found[2:] and found[0] != found[1]
    for page in pages:
        page.close()


def test_it_listens_to_this_machine_alone_and_asks_for_nothing(server: Server) -> None:
    connections = psutil.Process(server.process.pid).net_connections(kind="inet")
    listening = [c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    hosts = set(server.hosts.read_text("utf-8").split())
    assert "127.0.0.1" in hosts and hosts <= {"127.0.0.1", "localhost"}


@pytest.mark.skipif(bool(WORKER), reason="a browser and a summary on one core: run it by itself")
def test_ctrl_c_does_not_wait_for_a_summary(browser: Any, path: Path) -> None:
    """Nor for a second model that is still to come: nothing of either is to be saved."""
    slow = {"max_new_tokens": 4000, "min_new_tokens": 4000, "dtype": "float32"}
    recipe = derived_recipe(
        "smollm2_samsum", path.parent, "slow", summarization__decoding=slow,
        base_model=str(load_recipe(path).config["base_model"]), sequence_len=4000,
    )  # fmt: skip
    with running(recipe) as server:
        page = browser.new_page()
        page.goto(server.url)
        summarise(page, "Anna: hi\n" * 900)
        page.get_by_text("Base model at work").wait_for()
        interrupt(server)
        page.close()
