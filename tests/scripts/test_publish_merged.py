"""Publishing a merged model: with its proof, and only where that is good."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.run_records import BASE, NAME
from tests.scripts.hub import Hub
from tests.scripts.test_publish import publish, refused

MERGED = Path(f"outputs/{NAME}/merged")
FILES = {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json",
    "merge_proof.json", "model.safetensors", "recipe.yml", "scores.json", "tokenizer.json",
    "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def merged_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, its adapter merged and proved by the command."""
    folder = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("merged") / "run"))
    done = publish(folder, module="scripts.merge")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def merged(merged_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a test's own, which is the working directory."""
    folder = Path(shutil.copytree(merged_run, tmp_path / "run"))
    monkeypatch.chdir(folder)
    return folder


def test_the_hub_gets_the_merged_model_its_proof_and_no_adapter(merged: Path) -> None:
    (MERGED / "notes.txt").write_text("of the user", "utf-8")
    with Hub() as hub:
        done = publish(merged, "--repo", "user/name", "--merged", "--yes", endpoint=hub.address)
    assert done.returncode == 0, done.stderr
    folder = MERGED.with_name("publish-merged")
    assert set(hub.files) == FILES
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.files["model.safetensors"] == (MERGED / "model.safetensors").read_bytes()
    card: Any = ModelCard(hub.files["README.md"].decode())
    assert card.data.base_model == BASE and card.data.base_model_relation == "finetune"
    assert card.data.library_name == "transformers" and "peft" not in card.data.tags
    assert "AutoModelForCausalLM" in card.text and "Peft" not in card.text
    proof = json.loads((MERGED / "merge_proof.json").read_text("utf-8"))
    for check in proof["checks"]:
        assert f"| {check['what']} | {check['found']} | {check['bound']} |" in card.text


def test_the_code_of_the_card_runs_on_the_staged_folder(merged: Path) -> None:
    assert publish(merged, "--merged").returncode == 0
    folder = MERGED.with_name("publish-merged")
    text = ModelCard.load(folder / "README.md").text
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    made: dict[str, Any] = {}
    exec(found[1].replace(f"user/{NAME}", str(folder)), made)
    prompt = made["inputs"]["input_ids"]
    assert "Mia: are we still on for seven?" in made["tokenizer"].decode(prompt[0])
    assert made["output"].shape[1] > prompt.shape[1]


def nothing_merged() -> None:
    shutil.rmtree(MERGED)


def another_adapter() -> None:
    record = json.loads((MERGED / "merge.json").read_text("utf-8"))
    record["made_of"]["adapter"] = "0" * 64
    (MERGED / "merge.json").write_text(json.dumps(record), "utf-8")


def changed_weights() -> None:
    path = MERGED / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def another_file() -> None:
    shutil.copyfile(MERGED / "model.safetensors", MERGED / "model-2.safetensors")


def no_proof() -> None:
    (MERGED / "merge_proof.json").unlink()


def not_good() -> None:
    path = MERGED / "merge_proof.json"
    proof = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**proof, "good": False, "exceeded": ["logits"]}), "utf-8")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (nothing_merged, "holds no merge of this adapter; run `python -m scripts.merge"),
        (another_adapter, "holds no merge of this adapter"),
        (changed_weights, "model.safetensors changed since the merge; remove the folder"),
        (another_file, "model-2.safetensors changed since the merge"),
        (no_proof, "merge_proof.json: missing or damaged"),
        (not_good, "the merge is not good (logits); publish the adapter, without --merged"),
    ],
)
def test_no_other_merge_is_published(merged: Path, damage: Callable[[], None], words: str) -> None:
    damage()
    refused(publish(merged, "--merged"), words)
    assert not MERGED.with_name("publish-merged").exists()
