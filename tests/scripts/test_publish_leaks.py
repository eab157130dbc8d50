"""What may not be published is found in every kind of file, and what may is left alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from data_prep.errors import UserError
from scripts.publish import check_file


def check_staged(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        check_file(path)


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
    ],
)
def test_absolute_paths(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(f"before {text} after", "utf-8")
    with pytest.raises(UserError, match=r"README.md: would publish the path"):
        check_staged(tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / "scores.json").write_text(json.dumps({"a": [{"b": text}]}), "utf-8")
    with pytest.raises(UserError, match=r"scores.json: would publish the path"):
        check_staged(tmp_path)


@pytest.mark.parametrize("place", [Path.cwd(), Path.home()])
def test_this_folder_and_home_however_short(tmp_path: Path, place: Path) -> None:
    (tmp_path / "recipe.yml").write_text(f"# in {place}\n", "utf-8")
    with pytest.raises(UserError, match="recipe.yml: would publish the path"):
        check_staged(tmp_path)


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
def test_what_is_no_absolute_path(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text, "utf-8")
    check_staged(tmp_path)


@pytest.mark.parametrize("token", ["hf_" + "a1B2" * 9, "ghp_" + "x" * 36, "AKIA" + "A1" * 8])
def test_access_tokens(tmp_path: Path, token: str) -> None:
    (tmp_path / "recipe.yml").write_text(f"hub_token: {token}\n", "utf-8")
    with pytest.raises(UserError, match=r"recipe.yml: would publish an access token") as error:
        check_staged(tmp_path)
    assert token not in str(error.value)


def test_the_metadata_of_safetensors(tmp_path: Path) -> None:
    weights = {"w": np.zeros(2, np.float32)}
    save_file(weights, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    check_staged(tmp_path)
    save_file(weights, tmp_path / "adapter_model.safetensors", {"from": "/home/me/x"})
    with pytest.raises(UserError, match="adapter_model.safetensors: would publish the path"):
        check_staged(tmp_path)


def test_a_vocabulary_may_hold_what_looks_like_a_path(tmp_path: Path) -> None:
    model = {"type": "BPE", "vocab": {"/usr/bin/env": 1}, "merges": ["/usr /bin/env"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}), "utf-8")
    check_staged(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"from": "/usr/bin/env"}), "utf-8")
    with pytest.raises(UserError, match="tokenizer.json: would publish the path"):
        check_staged(tmp_path)


def test_a_template_in_another_encoding_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes("{# été #}".encode("latin-1"))
    with pytest.raises(UserError, match="chat_template.jinja: is not UTF-8"):
        check_staged(tmp_path)


@pytest.mark.parametrize("name", ["model.bin", "optimizer.pt", "rng_state.pth", "run.pkl", "x.py"])
def test_files_that_may_run_code(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=f"{name}: is not published"):
        check_staged(tmp_path)


def test_links_and_damaged_json(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to("elsewhere.md")
    with pytest.raises(UserError, match="README.md: is a link"):
        check_staged(tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / "scores.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="scores.json: damaged"):
        check_staged(tmp_path)
