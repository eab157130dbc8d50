"""scripts.publish: what is staged, what no file may contain, and uploads to a local Hub."""

import base64
import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants
from safetensors.numpy import save_file

from data_prep.errors import UserError
from data_prep.recipe import load_recipe
from data_prep.sources import sha256_of
from scripts.leaks import check_file
from scripts.merge_proof import Proof, read_proved_merge
from scripts.model_card import model_card, names_of, read_records
from scripts.publish import check_access, check_repo, stage, upload
from tests import forks
from tests.conftest import ROOT
from tests.run_records import BASE, NAME
from tests.scripts.hub import Hub

RECIPE, OUTPUT = Path(f"{NAME}.yml"), Path(f"outputs/{NAME}")
PUBLISH, MERGED = OUTPUT / "publish", OUTPUT / "merged"
TOKENIZER = {"chat_template.jinja", "tokenizer.json", "tokenizer_config.json"}
RECORDS = {"README.md", "recipe.yml", "scores.json"}
OF_ADAPTER = {*RECORDS, *TOKENIZER, "adapter_config.json", "adapter_model.safetensors"}
OF_MERGED = {*RECORDS, *TOKENIZER, "config.json", "generation_config.json", "model.safetensors",
             "merge_proof.json"}  # fmt: skip


def publish(
    folder: Path, *flags: str, endpoint: str = "http://127.0.0.1:9", module: str = "scripts.publish"
) -> subprocess.CompletedProcess[str]:
    env = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    env |= {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "HF_TOKEN": "hf_test"}
    words = ["python", "-m", module, RECIPE.name, *flags]
    return forks.run(words, cwd=folder, env={**os.environ, **env})


def staged_run() -> Path:
    records = read_records(load_recipe(RECIPE))
    names = names_of(records.recipe, records.manifest.source_files)
    return stage(records, names, model_card(records, names))


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in folder.iterdir()}


# ---- the command ----


def test_without_yes_everything_is_shown_and_nothing_is_uploaded(run: Path) -> None:
    done = publish(run, "--repo", "user/name")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in PUBLISH.iterdir()} == OF_ADAPTER
    for path in PUBLISH.iterdir():
        assert f"{path.name:<28} {path.stat().st_size:>13,} bytes" in done.stdout
        assert sha256_of(path)[:16] in done.stdout
    assert f"  base_model: {BASE}" in done.stdout and "  model-index:" in done.stdout
    assert "target: user/name, public if it is new" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing was uploaded; add --yes to do so"
    assert not list(OUTPUT.glob(".publish*"))


def test_with_yes_the_hub_gets_only_the_staged_files(run: Path) -> None:
    with Hub() as hub:
        done = publish(run, "--repo", "user/name", "--yes", "--private", endpoint=hub.address)
    assert done.returncode == 0, done.stderr
    assert hub.files == {path.name: path.read_bytes() for path in PUBLISH.iterdir()}
    assert hub.created["name"] == "name" and hub.created["organization"] == "user"
    assert hub.created["visibility"] == "private"
    assert "Bearer hf_test" in hub.tokens
    assert f"uploaded: {hub.address}/user/name/commit/" in done.stdout


def test_yes_needs_a_repository(run: Path) -> None:
    done = publish(run, "--yes")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: --yes: no target; add --repo user/name"


# ---- the merged model ----


@pytest.fixture(scope="module")
def merged_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run; the command has merged its adapter and proved the merge."""
    folder = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("merged") / "run"))
    done = publish(folder, module="scripts.merge")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def merged(merged_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A test's own copy of `merged_run`, as the working directory."""
    folder = Path(shutil.copytree(merged_run, tmp_path / "run"))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_the_hub_gets_the_merged_model_its_proof_and_no_adapter(merged: Path) -> None:
    (MERGED / "notes.txt").write_text("of the user", "utf-8")
    with Hub() as hub:
        done = publish(merged, "--repo", "user/name", "--merged", "--yes", endpoint=hub.address)
    assert done.returncode == 0, done.stderr
    folder = OUTPUT / "publish-merged"
    assert set(hub.files) == OF_MERGED
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.files["model.safetensors"] == (MERGED / "model.safetensors").read_bytes()
    card: Any = ModelCard(hub.files["README.md"].decode())
    assert card.data.base_model == BASE and card.data.base_model_relation == "finetune"
    assert card.data.library_name == "transformers" and "peft" not in card.data.tags
    assert "AutoModelForCausalLM" in card.text and "Peft" not in card.text
    for check in json.loads((MERGED / "merge_proof.json").read_text("utf-8"))["checks"]:
        assert f"| {check['what']} | {check['found']} | {check['bound']} |" in card.text
    found = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)
    assert found
    made: dict[str, Any] = {}
    exec(found[1].replace("user/name", str(folder)), made)  # the code in the card
    prompt = made["inputs"]["input_ids"]
    assert "Mia: are we still on for seven?" in made["tokenizer"].decode(prompt[0])
    assert made["output"].shape[1] > prompt.shape[1]


def another_adapter() -> None:
    record = json.loads((MERGED / "merge.json").read_text("utf-8"))
    record["made_of"]["adapter"] = "0" * 64
    (MERGED / "merge.json").write_text(json.dumps(record), "utf-8")


def changed_weights() -> None:
    path = MERGED / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def change_proof(**changed: Any) -> Proof:
    path = MERGED / "merge_proof.json"
    proof = Proof.model_validate_json(path.read_bytes()).model_copy(update=changed)
    path.write_text(proof.model_dump_json(), "utf-8")
    return proof


def not_good() -> None:
    change_proof(digest=change_proof(good=False, exceeded=["weights"]).sealed().digest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda: shutil.rmtree(MERGED), "holds no merge of this adapter; run `python -m scripts"),
        (another_adapter, "holds no merge of this adapter"),
        (changed_weights, "model.safetensors changed since the merge"),
        (lambda: (MERGED / "model-2.safetensors").touch(), "model-2.safetensors changed since"),
        (lambda: (MERGED / "merge_proof.json").unlink(), "merge_proof.json: is missing; run"),
        (lambda: change_proof(compared="nothing"), "merge_proof.json: was changed since it was"),
        (lambda: change_proof(digest="", made_of={}), "is the proof of another merge; run"),
        (not_good, "checks failed (weights); publish the adapter, without --merged"),
    ],
)
def test_a_wrong_merge_is_refused(merged: Path, damage: Callable[[], Any], words: str) -> None:
    damage()
    with pytest.raises(UserError, match=re.escape(words)):
        read_proved_merge(load_recipe(RECIPE), OUTPUT)


# ---- staging ----


def test_no_path_of_this_machine_is_staged(run: Path) -> None:
    assert staged_run() == PUBLISH
    config = json.loads((PUBLISH / "adapter_config.json").read_text("utf-8"))
    assert config["base_model_name_or_path"] == BASE
    assert "local_files_only" not in (PUBLISH / "tokenizer_config.json").read_text("utf-8")
    recipe = (PUBLISH / "recipe.yml").read_text("utf-8")
    assert "source: data/sample" in recipe and f"base_model: {BASE}" in recipe
    assert "#" not in recipe and load_recipe(PUBLISH / "recipe.yml").config["lora_r"] == 16
    scores = json.loads((PUBLISH / "scores.json").read_text("utf-8"))
    assert (scores["source"], scores["base_model"]) == ("data/sample", BASE)
    for path in PUBLISH.iterdir():
        content = path.read_bytes()
        assert str(ROOT).encode() not in content and str(run).encode() not in content, path.name


def test_staging_is_repeatable_and_a_refusal_keeps_the_staged_files(run: Path) -> None:
    before = hashes(staged_run())
    assert hashes(staged_run()) == before
    RECIPE.write_text(RECIPE.read_text("utf-8").replace("from a Q4_1", "in /home/me/x"), "utf-8")
    with pytest.raises(UserError, match="README.md: would publish the path `/home/me/x`"):
        staged_run()
    assert hashes(PUBLISH) == before
    assert [path.name for path in OUTPUT.glob("*publish*")] == ["publish"]


def test_a_staging_folder_that_cannot_be_written(run: Path) -> None:
    PUBLISH.write_text("in the way", "utf-8")
    with pytest.raises(UserError, match="publish: something else with this name"):
        staged_run()
    assert PUBLISH.read_text("utf-8") == "in the way"


# ---- what no file may contain ----


@pytest.mark.parametrize(
    "text",
    [
        "output_dir: /home/me/outputs",
        "see /mnt/data/x.jsonl.",
        '"/srv/models/a b"',
        "(/var/tmp/x)",
        "file:///etc/x",
        "~/models/mistral",
        "C:\\models\\mistral",
        "</home/me/x>",
        "~me/x",
        "d:/models/x",
        "\\\\server\\share\\x",
        str(Path.cwd()),
        str(Path.home()),
    ],
)
def test_absolute_paths_are_refused(tmp_path: Path, text: str) -> None:
    for name, content in (
        ("README.md", f"before {text} after"),
        ("scores.json", json.dumps({"a": [{"b": text}]})),
        ("tokenizer.json", json.dumps({"from": text})),
    ):
        (tmp_path / name).write_text(content, "utf-8")
        with pytest.raises(UserError, match=f"{name}: would publish the path"):
            check_file(tmp_path / name)
    weights = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(2, np.float32)}, weights, {"from": text})
    with pytest.raises(UserError, match="model.safetensors: would publish the path"):
        check_file(weights)


@pytest.mark.parametrize(
    "text",
    [
        "and/or, R1/R2/RL, 1/2/3",
        "data/samsum/train.jsonl and ./data/x and ../data/x/y",
        "[INST] {dialogue} [/INST] </s>",
        "https://example.org/a/b/c.html",
        "12:30/45, at 7:/ or D: no",
        "`mistralai/Mistral-7B-Instruct-v0.2`",
        "{{ message['role'] + '\\n' }}",
    ],
)
def test_text_that_is_not_an_absolute_path_is_accepted(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text, "utf-8")
    check_file(tmp_path / "README.md")


def test_a_vocabulary_may_contain_text_that_looks_like_a_path(tmp_path: Path) -> None:
    words = ("/home", " ~/.", "Ġ/usr", "\\_\\_", "://", "C:\\", "/data/", "</s>", "</x></y>", "(/")
    model = {"type": "BPE", "vocab": dict.fromkeys(words, 1), "merges": ["/ usr", ["/u", "sr"]]}
    drawn = {"precompiled_charsmap": base64.b64encode(random.Random(1).randbytes(999)).decode()}
    whole = {"model": model, "normalizer": {"normalizers": [drawn]}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole), "utf-8")
    check_file(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("token", ["hf_" + "a1B2" * 9, "ghp_" + "x" * 36, "AKIA" + "A1" * 8])
def test_access_tokens_are_refused(tmp_path: Path, token: str) -> None:
    (tmp_path / "recipe.yml").write_text(f"hub_token: {token}\n", "utf-8")
    with pytest.raises(UserError, match=r"recipe.yml: would publish an access token") as error:
        check_file(tmp_path / "recipe.yml")
    assert token not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chat_template.jinja", "{# été #}".encode("latin-1"), "is not UTF-8"),
        ("scores.json", b"{", "damaged"),
        ("adapter_model.safetensors", b"\x08\0\0\0\0\0\0\0{", "damaged"),
        *((f"x.{kind}", b"x", "is not published") for kind in ("bin", "pt", "pth", "pkl", "py")),
    ],
)
def test_damaged_files_and_files_that_may_run_code_are_refused(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: {words}"):
        check_file(tmp_path / name)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to("elsewhere.md")
    with pytest.raises(UserError, match="README.md: is a link; put the file itself there"):
        check_file(tmp_path / "README.md")


# ---- uploads that fail, with the Hub's own client ----


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "publish"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", "utf-8")
    (folder / "optimizer.pt").write_bytes(b"not to be uploaded")
    digest = sha256_of(folder / "README.md")
    (tmp_path / ".staged.sha256").write_text(f"{digest}  README.md\n", "utf-8")
    return folder


def test_a_file_that_was_not_staged_is_not_uploaded(folder: Path) -> None:
    for name in ("README.md", "scores.json"):
        (folder / name).write_text("another", "utf-8")
        with pytest.raises(UserError, match=f"{name}: changed since it was staged"):
            upload(folder, "user/name", private=False)
        (folder / name).unlink()


def test_a_public_repository_is_not_taken_for_a_private_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub(private=False) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        with pytest.raises(UserError, match="user/name: already exists and is public"):
            upload(folder, "user/name", private=True)
        assert not hub.files
        address = upload(folder, "user/name", private=False)
    assert list(hub.files) == ["README.md"] and address.endswith("0" * 40)
    assert hub.created.get("visibility", "public") == "public"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refused the token"),
        (403, "may not write there"),
        (404, "not found"),
        (500, "the Hub answered 500"),
    ],
)
def test_a_refusal_by_the_hub_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    with Hub(refuse=status) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        with pytest.raises(UserError, match=message) as raised:
            upload(folder, "user/name", private=False)
    assert "You may not." in str(raised.value) and not hub.files


def test_no_network_no_token_and_offline_mode_are_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="the Hub cannot be reached"):
        upload(folder, "user/name", private=False)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "none"))
    with pytest.raises(UserError, match="no Hugging Face token found; run `hf auth login`"):
        check_access("user/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_access("user/name")


@pytest.mark.parametrize("repo", ["alone", "a/b/c", "user/na me", "/name", "user/a--b", "user/"])
def test_invalid_repository_names_are_refused(repo: str) -> None:
    with pytest.raises(UserError, match="is not a valid Hub id; give user/name"):
        check_repo(repo)
    check_repo("user/name_1.0-b")
