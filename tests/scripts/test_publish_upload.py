"""Uploads that fail: each reason is one clear line; huggingface_hub's own client throughout."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from data_prep.errors import UserError
from scripts.publish import check_access, check_repo, upload
from tests.scripts.hub import Hub


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n", "utf-8")
    (tmp_path / "optimizer.pt").write_bytes(b"not to be uploaded")
    return tmp_path


def test_only_what_may_be_published(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        address = upload(folder, "user/name", private=False)
    assert list(hub.files) == ["README.md"]
    assert address.endswith("0" * 40)
    assert hub.created.get("visibility", "public") == "public"


def test_a_public_repository_is_not_taken_for_a_private_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub(private=False) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        with pytest.raises(UserError, match="user/name: is there already, and public"):
            upload(folder, "user/name", private=True)
        assert not hub.files
        upload(folder, "user/name", private=False)
    assert list(hub.files) == ["README.md"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refused the token"),
        (403, "no right to write there"),
        (404, "not found"),
        (500, "the hub answered 500"),
    ],
)
def test_a_hub_that_refuses(
    folder: Path, monkeypatch: pytest.MonkeyPatch, status: int, message: str
) -> None:
    with Hub(refuse=status) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        with pytest.raises(UserError, match=message) as raised:
            upload(folder, "user/name", private=False)
    assert "You may not." in str(raised.value) and not hub.files


def test_no_network(folder: Path) -> None:
    with pytest.raises(UserError, match="the hub cannot be reached"):
        upload(folder, "user/name", private=False)


def test_offline_by_setting_and_no_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "none"))
    with pytest.raises(UserError, match="no token of the hub here; run `hf auth login`"):
        check_access("user/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        check_access("user/name")


@pytest.mark.parametrize("repo", ["alone", "a/b/c", "user/na me", "/name", "user/a--b", "user/"])
def test_names_that_the_hub_has_not(repo: str) -> None:
    with pytest.raises(UserError, match="is no name of the hub; give user/name"):
        check_repo(repo)
    check_repo("user/name_1.0-b")
