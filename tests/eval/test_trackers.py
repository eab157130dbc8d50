"""Trackers get the scores offline, after the results are complete, and never damage them.

Each test reads back what the tracker itself wrote.
"""

import base64
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_prep.prepare import check_prepared
from eval.adapter import find_adapter
from eval.scores import EvaluatedAdapter, Scores
from eval.trackers import FILES, log_scores
from tests.conftest import ROOT, command
from tests.eval.test_adapter import changed
from tests.run_records import write_scores

FOLDER, OUTPUT = Path("results/tiny_run"), Path("outputs/tiny_run")
WANDB = {"wandb_project": "chats", "wandb_mode": "offline"}


@pytest.fixture
def scores(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scores]:
    """Scores of the finished run, the working directory; trackers write only below it."""
    os.environ.pop("WANDB_SERVICE", None)  # monkeypatch would restore an earlier test's
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(run))
    monkeypatch.setenv("NETRC", str(run / "netrc"))  # without a login
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    yield Scores.read(FOLDER / "scores.json")
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # wandb keeps the environment of its first run


def expected(scores: Scores, place: str = "eval/test") -> dict[str, float]:
    """Return some figures of each kind under the names that the documentation gives."""
    tuned, (pair, *_) = scores.systems["tuned"], scores.comparisons
    assert pair.systems == ("base", "tuned") and tuned.stopped is not None
    figures = {
        "examples": scores.examples,
        "tuned/rougeL": tuned.scores["rougeL"].f1,
        "tuned/rougeL_low": tuned.scores["rougeL"].low,
        "tuned/rougeL_high": tuned.scores["rougeL"].high,
        "tuned/words": tuned.style.words,
        "tuned/stopped": tuned.stopped,
        "tuned/mistakes/missing_speaker": tuned.mistakes["missing_speaker"],
        "lead-3/rouge1": scores.systems["lead-3"].scores["rouge1"].f1,
        "tuned_vs_base/rougeL": pair.metrics["rougeL"].difference,
        "tuned_vs_base/rougeL_low": pair.metrics["rougeL"].low,
        "tuned_vs_base/rougeL_p_bootstrap": pair.metrics["rougeL"].p_bootstrap,
        "tuned_vs_base/rougeL_p_randomization": pair.metrics["rougeL"].p_randomization,
    }
    return {f"{place}/{name}": value for name, value in figures.items() if value is not None}


def shows(figures: dict[str, float], scores: Scores, place: str = "eval/test") -> bool:
    """Return whether a tracker's figures include the expected ones, to TensorBoard's 32 bits."""
    wanted = expected(scores, place)
    assert len(wanted) == 12
    return {name: figures.get(name) for name in wanted} == pytest.approx(wanted, rel=1e-6)


# ---- TensorBoard ----


def board(folder: str) -> EventAccumulator:
    (events,) = (OUTPUT / "runs" / folder).iterdir()
    return EventAccumulator(str(events)).Reload()


def scalars(of: EventAccumulator) -> dict[str, float]:
    assert all(len(of.Scalars(tag)) == 1 for tag in of.Tags()["scalars"])
    return {tag: of.Scalars(tag)[0].value for tag in of.Tags()["scalars"]}


def test_tensorboard(scores: Scores) -> None:
    recipe = changed("tiny_run", use_tensorboard=True)
    for _ in range(2):  # the second replaces the first
        log_scores(recipe, scores, FOLDER, OUTPUT)
    found = board("tiny_run-eval-test")
    assert shows(scalars(found), scores)
    texts = {
        name: found.Tensors(f"eval/test/{name}/text_summary")[0].tensor_proto.string_val[0].decode()
        for name in ("report", "commit", "tuned/signature")
    }
    assert texts["report"] == (FOLDER / "report.md").read_text("utf-8")
    assert texts["commit"] == scores.commit
    assert texts["tuned/signature"] == scores.systems["tuned"].signature


def test_a_partial_evaluation_and_another_adapter_have_their_own_runs(scores: Scores) -> None:
    recipe = changed("tiny_run", use_tensorboard=True)
    other = Path(shutil.copytree(OUTPUT, "outputs/other"))
    log_scores(recipe, scores, FOLDER, OUTPUT)
    part = scores.model_copy(update={"examples": 7})
    log_scores(recipe, part, FOLDER, OUTPUT)
    of_other = EvaluatedAdapter(folder=str(other), trained_otherwise=[], signature="")
    log_scores(recipe, scores.model_copy(update={"adapter": of_other}), FOLDER, other)
    assert sorted(path.name for path in (OUTPUT / "runs").iterdir()) == [
        "tiny_run-eval-outputs-other-test",
        "tiny_run-eval-test",
        "tiny_run-eval-test-first-7",
    ]
    names = scalars(board("tiny_run-eval-test-first-7")).keys()
    assert all(name.startswith("eval/test-first-7/") for name in names)
    assert not (other / "runs").exists()


# ---- W&B ----


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of a run's file: protobuf messages in blocks of LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, at, message = file.read_bytes(), len(":W&B123"), b""
    while at + 7 < len(data):
        if (rest := 32_768 - at % 32_768) < 7:
            at += rest
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        message += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole message, or the last part of one
            yield Record.FromString(message)
            message = b""


def wandb_run() -> tuple[dict[str, Any], Path]:
    """Return the last value of each key in the only run's file, and the run's folder."""
    import wandb

    wandb.teardown()  # as at the end of a process: until then the file may be incomplete
    (file,) = Path().glob("wandb/offline-run-*/*.wandb")
    found: dict[str, Any] = {"history": {}, "summary": {}, "config": {}, "artifacts": {}}
    for record in wandb_records(file):
        if record.HasField("run"):
            found["run"] = record.run
            found["config"] |= {
                one.key: json.loads(one.value_json) for one in record.run.config.update
            }
        for kind, items in (("history", record.history.item), ("summary", record.summary.update)):
            for item in items:
                name = item.key or ".".join(item.nested_key)
                found[kind][name] = json.loads(item.value_json)
        if record.HasField("artifact"):
            contents = record.artifact.manifest.contents
            found["artifacts"][record.artifact.name] = {one.path: one.digest for one in contents}
    return found, file.parent


def test_wandb_offline(scores: Scores) -> None:
    (OUTPUT / "trackers.json").write_text('{"wandb": "of-training"}', "utf-8")
    recipe = changed("tiny_run", wandb_run_id="of-training", wandb_name="training", **WANDB)
    log_scores(recipe, scores, FOLDER, OUTPUT)
    found, folder = wandb_run()
    assert shows(found["history"], scores) and shows(found["summary"], scores)
    adapter = scores.systems["tuned"].fields["adapter"]
    run = found["run"]
    assert (run.project, run.job_type, run.display_name) == ("chats", "eval", "tiny_run-eval-test")
    assert (
        run.run_id == f"tiny_run-eval-test-{adapter}"
    )  # not the training run's, and the same next time
    assert found["config"]["training_run"] == "of-training"
    assert found["summary"]["eval/test/commit"] == scores.commit
    signature = scores.systems["tuned"].signature
    assert found["summary"]["eval/test/tuned/signature"] == signature
    (files,) = found["artifacts"].values()
    md5 = {name: hashlib.md5((FOLDER / name).read_bytes()).digest() for name in FILES}
    assert files == {name: base64.b64encode(digest).decode() for name, digest in md5.items()}
    page = folder / "files" / found["history"]["eval/test/report.path"]
    assert "ROUGE-L" in page.read_text("utf-8")


def test_disabled_wandb_writes_nothing(scores: Scores, capsys: pytest.CaptureFixture[str]) -> None:
    log_scores(changed("tiny_run", **{**WANDB, "wandb_mode": "disabled"}), scores, FOLDER, OUTPUT)
    assert not Path("wandb").exists() and capsys.readouterr() == ("", "")


# ---- MLflow ----


def test_mlflow(scores: Scores) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    uri = f"sqlite:///{Path().resolve()}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    place = (Path().resolve() / "mlruns").as_uri()
    experiment = client.create_experiment("chats", artifact_location=place)
    training = client.create_run(experiment, run_name="training").info.run_id
    client.set_terminated(training)
    (OUTPUT / "trackers.json").write_text(json.dumps({"mlflow": training}), "utf-8")
    recipe = changed(
        "tiny_run", mlflow_experiment_name="chats", mlflow_tracking_uri=uri, mlflow_run_name="a"
    )
    log_scores(recipe, scores, FOLDER, OUTPUT)
    better = scores.model_copy(deep=True)
    better.systems["tuned"].scores["rougeL"].f1 += 1
    log_scores(recipe, better, FOLDER, OUTPUT)
    (run, before) = client.search_runs([experiment])
    assert (run.info.run_name, run.info.status) == ("tiny_run-eval-test", "FINISHED")
    assert before.info.run_id == training and not before.data.metrics
    assert shows(run.data.metrics, better)
    history = {
        name: len(client.get_metric_history(run.info.run_id, f"eval/test/tuned/{name}"))
        for name in ("rougeL", "rougeL_low")
    }
    assert history == {"rougeL": 2, "rougeL_low": 1}  # a second point if a figure changed
    assert run.data.tags["mlflow.parentRunId"] == training
    assert run.data.tags["eval/test/commit"] == scores.commit
    assert run.data.tags["eval/test/tuned/signature"] == scores.systems["tuned"].signature
    for name in FILES:
        text = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/eval/test/{name}")
        assert text == (FOLDER / name).read_text("utf-8")


# ---- eval.run ----


def test_trackers_turned_on_after_training_get_the_written_scores(
    scores: Scores, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all tracker keys at once the recipe is valid, and the adapter still matches it."""
    recipe = changed(
        "tiny_run", use_tensorboard=True, use_wandb=True, wandb_entity="us", wandb_name="n",
        wandb_run_id="i", wandb_log_model="false", use_mlflow=False, mlflow_run_name="n",
        mlflow_tracking_uri="http://127.0.0.1:9", hf_mlflow_log_artifacts=True, use_trackio=False,
        trackio_run_name="n", **WANDB,
    )  # fmt: skip
    assert find_adapter(recipe) == OUTPUT
    write_scores(recipe, check_prepared(recipe).files)
    found = scalars(board("tiny_run-eval-test"))
    assert shows(found, Scores.read(FOLDER / "scores.json"))
    of_wandb = wandb_run()[0]["summary"]
    assert found == pytest.approx({name: of_wandb[name] for name in found}, rel=1e-6)
    said = capsys.readouterr()
    last = said.out.splitlines()[-4:]  # then a blank line and the page to open
    assert last[0] == f"tensorboard: {OUTPUT}/runs/tiny_run-eval-test"
    assert "`wandb sync wandb/offline-run-" in last[1] and "note: " not in said.err


@pytest.mark.slow
def test_each_failing_tracker_prints_one_line_and_breaks_nothing(scores: Scores) -> None:
    """Without a W&B key, the MLflow package and a TensorBoard folder, eval.run exits with 0."""
    changed("tiny_run", use_tensorboard=True, use_wandb=True, use_mlflow=True)
    (OUTPUT / "runs").write_text("in the way", "utf-8")
    code = (
        "import sys; sys.modules['mlflow'] = None; from data_prep.errors import run_cli; "
        "from eval.run import main; run_cli(main)"
    )
    flags = ["tiny_run.yml", "--limit", "2"]
    done = command("python", "-c", code, *flags, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    folder = FOLDER / "test-first-2"
    assert Scores.read(folder / "scores.json").examples == 2 and (folder / "report.html").is_file()
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert len(notes) == 3 and all(f"they are in {folder}, " in note for note in notes)
    assert "tensorboard" in notes[0] and "runs" in notes[0]
    assert "wandb" in notes[1] and "wandb login" in notes[1]
    assert "mlflow" in notes[2] and "`pip install mlflow`" in notes[2]
    assert "Traceback" not in done.stderr and str(folder / "report.html") in done.stdout


def test_git_ignores_the_files_of_trackers() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    places = ["wandb/latest-run", "mlruns/1", "mlflow.db", "runs/x", "outputs/x/runs/y"]
    done = subprocess.run(
        ["git", "check-ignore", *places], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == places
