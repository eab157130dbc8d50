"""The local page in a real browser, with a tiny random model; bad input to its command."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from data_prep.errors import run_cli
from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from eval.page import example_chats, main
from tests.conftest import ROOT, derived_recipe
from tests.tiny_adapter import save_adapter

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
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
runpy.run_module("eval.page", run_name="__main__", alter_sys=True)
"""


@dataclass
class Server:
    """A running page: where it is, its process, and the hosts that the process asked for."""

    url: str
    process: subprocess.Popen[str]
    hosts: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("page")
    path = derived_recipe(
        "smollm2_samsum", folder, "page", base_model=str(tiny_smollm2), sequence_len=300,
        summarization__decoding={"max_new_tokens": 24, "dtype": "float32"},
    )  # fmt: skip
    prepare(load_recipe(path))
    save_adapter(tiny_smollm2, folder / "output")
    return path


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Server]:
    with running(path) as server:
        yield server
        interrupt(server)


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
    output, errors = server.process.communicate(timeout=3)
    assert server.process.returncode == 0 and output == "\n"
    assert "Traceback" not in errors and "interrupt" not in errors.lower()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[(1200, "light"), (390, "dark")], ids=str)
def page(browser: Any, server: Server, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The open page; whatever it did, it logged no error and asked no other host for anything."""
    width, look = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=look)
    page = context.new_page()
    trouble: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#chat textarea")
    yield page
    assert trouble == []
    assert len(requests) > 5 and [r for r in requests if not r.startswith(server.url)] == []
    links = "all => all.map(one => one.href || one.src)"
    named = page.eval_on_selector_all('[href^="http"], [src^="http"], [href^="//"]', links)
    assert [link for link in named if not link.startswith(server.url)] == []
    context.close()


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


def test_ctrl_c_does_not_wait_for_a_summary(browser: Any, path: Path) -> None:
    """Nor for a second model that is still to come: nothing of either is to be saved."""
    slow = {"max_new_tokens": 250, "min_new_tokens": 250, "dtype": "float32"}
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


def test_examples_are_shown_only_where_everybody_may_show_them(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(path)
    assert len(example_chats(recipe)) == 4 and capsys.readouterr().err == ""
    test = recipe.data_dir / "test.jsonl"
    whole = test.read_bytes()
    test.write_bytes(whole[:-50])
    try:
        assert example_chats(recipe) == []
    finally:
        test.write_bytes(whole)
    note = capsys.readouterr().err
    assert note.startswith("note: the page has no example chats: ") and "test.jsonl" in note
    recipe.summarization.license = "CC-BY-NC-ND-4.0"
    assert example_chats(recipe) == [] and capsys.readouterr().err == ""


def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> str:
    """The line with which the command refuses; nothing is loaded by then, so it is quick."""
    monkeypatch.setattr(sys, "argv", ["eval.page", *map(str, arguments)])
    start = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 2 and time.monotonic() - start < 30
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and "Traceback" not in "".join(lines)
    return lines[-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "0"], "--port: 0 is no port; use one of 1 to 65535"),
        (["--port", "70000"], "--port: 70000 is no port"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1 --port 7860: not an address of this machine"),
        (["--host", "no such host"], "not an address of this machine; leave --host at 127.0.0.1"),
        (["--host", "::1"], "not an address of this machine; leave --host at 127.0.0.1"),
    ],
)
def test_an_address_that_cannot_be_served(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, flags: list[str], message: str
) -> None:
    assert message in refusal(monkeypatch, capsys, path, *flags)


def test_a_port_that_is_taken(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = refusal(monkeypatch, capsys, path, "--port", port)
    message = "the port is taken; end what uses it or choose another --port"
    assert f"--host 127.0.0.1 --port {port}: {message}" in line


def test_no_adapter(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    untrained = derived_recipe("smollm2_samsum", tmp_path, "untrained")
    port = free_port()
    line = refusal(monkeypatch, capsys, untrained, "--port", port)
    assert "output: no trained adapter there; train one with `accelerate launch" in line


def test_a_damaged_adapter(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    weights = path.parent / "output/adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    try:
        line = refusal(monkeypatch, capsys, path, "--port", free_port())
    finally:
        weights.write_bytes(whole)
    assert "output: this adapter does not fit" in line and "train it anew" in line


def test_no_gradio(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert "gradio is not installed; run `pip install" in refusal(monkeypatch, capsys, path)


def test_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert "none.yml: " in refusal(monkeypatch, capsys, tmp_path / "none.yml")
