"""Bad input to `python -m chat.page`, and whose chats it shows as examples."""

import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from chat.page import example_chats, main
from data_prep.errors import run_cli
from data_prep.recipe import load_recipe
from tests.chat.page_recipe import free_port, page_recipe
from tests.conftest import derived_recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Path:
    return page_recipe(tmp_path_factory.mktemp("page"), tiny_smollm2)


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
    monkeypatch.setattr(sys, "argv", ["chat.page", *map(str, arguments)])
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
