"""Bad input to `python -m eval.run`: one line, exit code 2, earlier results untouched."""

from pathlib import Path

import pytest

from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests.conftest import ROOT, derived_recipe, run_module


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Path:
    path = derived_recipe("smollm2_samsum", tmp_path_factory.mktemp("eval"), "untrained")
    prepare(load_recipe(path))
    return path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "no trained adapter there; train one with `accelerate launch -m axolotl.cli.train"),
        (["--models", "base,tunned"], "--models: unknown tunned"),
        (["--limit", "0"], "--limit: 0 is not a number of dialogues"),
    ],
)
def test_refusals(prepared: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    done = run_module("eval.run", prepared, "--output", tmp_path / "out", *flags)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and message in last and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_data_changed_after_preparation_are_refused(prepared: Path) -> None:
    test = load_recipe(prepared).data_dir / "test.jsonl"
    before = test.read_bytes()
    test.write_bytes(before[:-50])
    try:
        done = run_module("eval.run", prepared, "--models", "base")
    finally:
        test.write_bytes(before)
    assert done.returncode == 2
    assert "test.jsonl: missing or changed since it was prepared; run" in done.stderr


def test_missing_base_model(tmp_path: Path, prepared: Path) -> None:
    text = prepared.read_text("utf-8")
    path = tmp_path / "nomodel.yml"
    path.write_text(text.replace("models/smollm2-135m-instruct", "models/smollm2-gone"), "utf-8")
    done = run_module("eval.run", path, "--models", "base", "--output", tmp_path / "o")
    assert done.returncode == 2
    assert "run scripts/get_smollm2.py" in done.stderr.splitlines()[-1]


def test_a_folder_with_results_of_another_recipe_is_left_alone(
    tmp_path: Path, prepared: Path
) -> None:
    scores = tmp_path / "scores.json"
    recorded = ROOT / "results/smollm2_samsum_corpus/scores.json"
    for content, message in (
        (recorded.read_text("utf-8"), "holds the results of recipe smollm2_samsum_corpus, not of"),
        ('{"recipe": "mist', "scores.json: cannot be read"),
    ):
        scores.write_text(content, "utf-8")
        flags = ("--models", "base", "--output", tmp_path)
        done = run_module("eval.run", prepared, *flags)
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1]
        assert scores.read_text("utf-8") == content
        assert [path.name for path in tmp_path.iterdir()] == ["scores.json"]


def test_an_output_folder_that_cannot_be_written(tmp_path: Path, prepared: Path) -> None:
    (tmp_path / "file").write_text("in the way", "utf-8")
    flags = ("--models", "base", "--output", tmp_path / "file" / "results")
    done = run_module("eval.run", prepared, *flags)
    assert done.returncode == 2
    assert "cannot be written (Not a directory)" in done.stderr.splitlines()[-1]
