"""Bad input at the command line: exit code 2 and one line that says what to mend."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.errors import run_cli
from tests.conftest import ROOT
from tests.corpora import (
    chats,
    error_line,
    members,
    run_data_prep,
    write_archive,
    write_folder,
    write_recipe,
)

TEXT = (ROOT / "recipes/smollm2_samsum.yml").read_text("utf-8")


def damaged(folder: Path) -> Path:
    path = write_archive(folder / "corpus.7z", members(chats(train=60)))
    path.write_bytes(path.read_bytes()[:400])
    return path


def latin1(folder: Path) -> Path:
    corpus = write_folder(folder / "corpus", chats(), ".csv")
    (corpus / "train.csv").write_bytes("id,dialogue,summary\n1,Zoë: hi,ok\n".encode("latin-1"))
    return corpus


def no_test_rows(folder: Path) -> Path:
    corpus = write_folder(folder / "corpus", chats())
    (corpus / "test.json").write_text("[]")
    return corpus


def whole(folder: Path) -> Path:
    return write_folder(folder / "corpus", chats())


# How the recipe is made, and what the error line must hold.
DATA_ERRORS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "recipe missing": (lambda f: f / "none.yml", ["none.yml: ", "recipes there: none"]),
    "source not found": (
        lambda f: write_recipe(f, f / "nowhere.7z"), ["nowhere.7z: not found; give a hub id"]),
    "hub offline": (
        lambda f: write_recipe(f, "knkarthick/samsum"),
        ["knkarthick/samsum: not to be had from the hub", "set `source` to a folder"]),
    "archive damaged": (
        lambda f: write_recipe(f, damaged(f)), ["corpus.7z: is damaged", "fetch it again"]),
    "column missing": (
        lambda f: write_recipe(f, whole(f), {"dialogue_column": "chat"}),
        ["test.json row 1: has no column `chat` (found: id, dialogue, summary)"]),
    "split with no rows": (
        lambda f: write_recipe(f, no_test_rows(f)), ["corpus: split `test` has no usable row"]),
    "not UTF-8": (
        lambda f: write_recipe(f, latin1(f)), ["train.csv: is not UTF-8", "convert it to UTF-8"]),
    "train_rows too large": (
        lambda f: write_recipe(f, whole(f), {"train_rows": 7}),
        ["train_rows is 7, but the source has 6 training rows", "lower it or write `all`"]),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA_ERRORS)
def test_bad_data(tmp_path: Path, case: str) -> None:
    make, fragments = DATA_ERRORS[case]
    done = run_data_prep(make(tmp_path))
    assert done.returncode == 2, done.stderr
    line = error_line(done.stderr)
    for fragment in fragments:
        assert fragment in line
    assert not list((tmp_path / "data").glob("*")), "something half-written stays"


# A recipe's text, and what the error line must hold; read in this process, which is quicker.
LORA_R = TEXT[: TEXT.index("lora_r:")].count("\n") + 1
RECIPE_ERRORS = {
    "not YAML": ("summarization: [\n", ["is not valid YAML"]),
    "a list": ("- summarization\n", ["is not a recipe"]),
    "empty": ("", ["is not a recipe"]),
    "not UTF-8": ("# Zo\udceb\n" + TEXT, ["is not UTF-8", "save it as UTF-8"]),
    "bad date": (TEXT + "wandb_name: 2024-13-45\n", ["is not valid YAML"]),
    "key that is a list": (TEXT + "? [a, b]\n: 1\n", ["is not valid YAML"]),
    "key misspelt": (
        TEXT.replace("lora_r:", "lora_rank:"), ["unknown key `lora_rank`", f":{LORA_R}:"]),
    "key of ours misspelt": (
        TEXT.replace("train_rows", "train_row"),
        ["unknown key `summarization.train_row`; did you mean `train_rows`?"]),
    "required key of ours misspelt": (
        TEXT.replace("license", "licence"),
        ["unknown key `summarization.licence`; did you mean `license`?"]),
    "cleaning step misspelt": (
        TEXT.replace("train_rows: all", "cleaning: {drop_duplicate: false}"),
        ["unknown key `summarization.cleaning.drop_duplicate`; did you mean `drop_duplicates`?"]),
    "key twice": (TEXT + "seed: 7\n", ["`seed` stands twice; keep one"]),
    "key of ours twice": (
        TEXT.replace("  train_rows", "  train_rows: 5\n  train_rows"),
        ["`train_rows` stands twice"]),
    "no {dialogue}": (
        TEXT.replace("{dialogue}", "the dialogue"),
        ["`summarization.instruction`", "must hold {dialogue} once"]),
    "{dialogue} twice": (
        TEXT.replace("{dialogue}", "{dialogue} {dialogue}"), ["must hold {dialogue} once"]),
    "train_rows of 0": (TEXT.replace("train_rows: all", "train_rows: 0"), ["whole number above 0"]),
    "no block": ("seed: 7\n", ["has no `summarization:` block"]),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPE_ERRORS)
def test_bad_recipe(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    text, fragments = RECIPE_ERRORS[case]
    path = tmp_path / "recipe.yml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(sys, "argv", ["data_prep", str(path)])
    with pytest.raises(SystemExit) as ended:
        run_cli(main)
    assert ended.value.code == 2
    line = error_line(capsys.readouterr().err)
    for fragment in [str(path), *fragments]:
        assert fragment in line


def test_good_recipe_says_what_it_wrote(tmp_path: Path) -> None:
    done = run_data_prep(write_recipe(tmp_path, whole(tmp_path)))
    assert done.returncode == 0, done.stderr
    for split, rows in (("train", 6), ("validation", 2), ("test", 2)):
        assert f"{tmp_path}/data/{split}.jsonl: {rows} rows" in done.stdout
    assert f"{tmp_path}/data/manifest.json" in done.stdout
