"""scripts.publish from records to the hub: real client, a hub on the loopback."""

import os
import subprocess
import sys
from pathlib import Path

from data_prep.sources import sha256_of
from tests.conftest import ROOT
from tests.run_records import BASE, NAME
from tests.scripts.hub import Hub

FILES = {
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja",
    "recipe.yml", "scores.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


def publish(
    folder: Path,
    *flags: str,
    endpoint: str = "http://127.0.0.1:9",
    token: str = "hf_test",
    module: str = "scripts.publish",
    **more: str,
) -> subprocess.CompletedProcess[str]:
    env = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(folder / "hf")}
    env |= {"PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "HF_TOKEN": token, **more}
    command = [sys.executable, "-m", module, f"{NAME}.yml", *flags]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith("error: ") and "Traceback" not in done.stderr
    for word in words:
        assert word in last, last


def test_without_yes_it_shows_all_and_uploads_nothing(run: Path) -> None:
    done = publish(run, "--repo", "user/name")
    assert done.returncode == 0, done.stderr
    folder = run / f"outputs/{NAME}/publish"
    assert {path.name for path in folder.iterdir()} == FILES
    for path in folder.iterdir():
        assert f"{path.name:<28} {path.stat().st_size:>13,} bytes" in done.stdout
        assert sha256_of(path)[:16] in done.stdout
    assert f"  base_model: {BASE}" in done.stdout and "  model-index:" in done.stdout
    assert "target: user/name, public where it is new" in done.stdout
    assert done.stdout.splitlines()[-1] == "nothing was uploaded; add --yes to do so"
    assert not list((run / f"outputs/{NAME}").glob(".publish*"))


def test_with_yes_the_hub_gets_what_was_staged_and_nothing_else(run: Path) -> None:
    with Hub() as hub:
        done = publish(run, "--repo", "user/name", "--yes", "--private", endpoint=hub.address)
    assert done.returncode == 0, done.stderr
    folder = run / f"outputs/{NAME}/publish"
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.created["name"] == "name" and hub.created["organization"] == "user"
    assert hub.created["visibility"] == "private"
    assert "Bearer hf_test" in hub.tokens
    assert f"uploaded: {hub.address}/user/name/commit/" in done.stdout


def test_bad_input_is_one_clear_line(run: Path) -> None:
    refused(
        publish(run, "--repo", "user/na me", "--yes"), "--repo: user/na me is no name of the hub"
    )
    refused(publish(run, "--yes"), "--yes: where to? add --repo user/name")
    with Hub(refuse=403) as hub:
        done = publish(run, "--repo", "user/name", "--yes", endpoint=hub.address)
    refused(done, "user/name: the token has no right to write there", "You may not.")
    assert not hub.files
