"""Send the scores to the trackers that the recipe turns on: TensorBoard, W&B and MLflow.

`eval.results` calls `log_scores` once its files are complete. An evaluation gets its own run and
leaves the training's run alone: W&B cannot continue an offline run (`wandb sync` of a second folder
with the same id replaces the first, github.com/wandb/wandb/issues/5865). Evaluating the same
adapter on the same dialogues again updates the same run.
"""

import html
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data_prep.prepare import check_prepared
from data_prep.recipe import Recipe
from eval.adapter import read_record, run_folder
from eval.scores import Scores

TRACKED = "trackers.json"
FILES = ("report.html", "report.md", "scores.json")


class TrainingRuns(BaseModel):
    """`trackers.json` next to an adapter: ids of the runs that its training logged to."""

    wandb: str | None = None
    mlflow: str | None = None


@dataclass(frozen=True)
class Logged:
    """What each tracker gets; every figure's name starts with `place`, which is `eval/<split>`.

    The run is called `name` and identified by `key`, which includes the adapter's hash: two
    adapters or splits must not share a run, because the second that W&B syncs replaces the first.
    """

    recipe: Recipe
    name: str
    key: str
    place: str
    figures: dict[str, float]
    texts: dict[str, str]
    folder: Path
    training: TrainingRuns

    def changed(self, known: Any) -> dict[str, float]:
        """Return the figures that a run does not have yet; others would get a second point."""
        return {name: value for name, value in self.figures.items() if known.get(name) != value}


def log_scores(recipe: Recipe, scores: Scores, folder: Path, adapter: Path) -> None:
    """Send the scores to each tracker; if one fails, only print a note that says so.

    `folder`: of the results; `adapter`: the adapter's. Only the main process calls this.
    """
    config = recipe.config
    mode = config.get("wandb_mode") or os.environ.get("WANDB_MODE")
    # As in Axolotl (axolotl.utils.wandb_, axolotl.utils.mlflow_), a project or experiment name
    # turns the tracker on, and the recipe's keys win over the environment.
    wandb = (config.get("use_wandb") or config.get("wandb_project")) and mode != "disabled"
    mlflow = config.get("use_mlflow") or config.get("mlflow_experiment_name")
    for tracker, is_on, log in (
        ("tensorboard", config.get("use_tensorboard"), _tensorboard),
        ("wandb", wandb, _wandb),
        ("mlflow", mlflow, _mlflow),
    ):
        if not is_on:
            continue
        try:
            location = log(_logged(recipe, scores, folder, adapter))
        except Exception as error:  # whatever a tracker raises, the results are written
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            if isinstance(error, ImportError):
                reason += f"; `pip install {tracker}`"
            print(
                f"note: {tracker} did not get the scores: {reason}; they are in {folder}, and the "
                "same command sends them again without generating anything",
                file=sys.stderr,
            )
        else:
            print(f"{tracker}: {location}")


def _logged(recipe: Recipe, scores: Scores, folder: Path, adapter: Path) -> Logged:
    """Return names and figures; part of a split has its own names: `eval/test-first-50`."""
    row_count = check_prepared(recipe).counts[scores.split].written
    split = scores.split + ("" if scores.examples == row_count else f"-first-{scores.examples}")
    place = f"eval/{split}"
    other_adapter = scores.adapter.folder if scores.adapter and adapter != recipe.output_dir else ""
    name = "-".join(filter(None, (recipe.name, "eval", other_adapter, split)))
    # W&B allows no other characters in the name of an artifact
    name = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)
    figures, systems = _figures(scores), scores.systems
    runs_file = run_folder(adapter) / TRACKED
    training = read_record(runs_file, TrainingRuns) if scores.adapter else None
    return Logged(
        recipe=recipe,
        name=name,
        key=f"{name}-{systems[scores.main].fields.get('adapter', 'none')}",
        place=place,
        figures={f"{place}/{key}": value for key, value in figures.items() if value is not None},
        texts={f"{place}/{key}/signature": system.signature for key, system in systems.items()}
        | {f"{place}/commit": scores.commit},
        folder=folder,
        training=training or TrainingRuns(),
    )


def _figures(scores: Scores) -> dict[str, float | None]:
    """Return `tuned/rougeL`, `tuned/rougeL_low` ...; differences as `tuned_vs_base/rougeL`."""
    figures: dict[str, float | None] = {"examples": scores.examples}
    for name, system in scores.systems.items():
        for metric, score in system.scores.items():
            figures[f"{name}/{metric}"] = score.f1
            figures[f"{name}/{metric}_low"] = score.low
            figures[f"{name}/{metric}_high"] = score.high
        figures[f"{name}/words"] = system.style.words
        figures[f"{name}/stopped"] = system.stopped
        figures |= {f"{name}/mistakes/{mistake}": n for mistake, n in system.mistakes.items()}
    for comparison in scores.comparisons:
        first, second = comparison.systems
        for metric, test in comparison.metrics.items():
            prefix = f"{second}_vs_{first}/{metric}"
            figures[prefix] = test.difference
            figures[f"{prefix}_low"], figures[f"{prefix}_high"] = test.low, test.high
            figures[f"{prefix}_p_bootstrap"] = test.p_bootstrap
            figures[f"{prefix}_p_randomization"] = test.p_randomization
    return figures


# ---- the trackers: each returns where the scores are now ----


def _tensorboard(logged: Logged) -> str:
    from torch.utils.tensorboard import SummaryWriter

    # where transformers' TensorBoardCallback writes the training's events
    runs = Path(os.environ.get("TENSORBOARD_LOGGING_DIR") or logged.recipe.output_dir / "runs")
    folder = runs / logged.name
    for event_file in folder.glob("events.out.tfevents.*"):  # TensorBoard would show these too
        event_file.unlink()
    with SummaryWriter(str(folder)) as writer:
        for name, value in logged.figures.items():
            writer.add_scalar(name, value, 0)
        report = (logged.folder / "report.md").read_text("utf-8")
        for name, text in {**logged.texts, f"{logged.place}/report": report}.items():
            writer.add_text(name, text, 0)
    return str(folder)


def _wandb(logged: Logged) -> str:
    import wandb

    # without a key W&B prompts for one, in a terminal forever; it reads this once, before `init`
    os.environ.setdefault("WANDB_LOGIN_TIMEOUT", "60")
    config = logged.recipe.config
    with wandb.init(
        project=config.get("wandb_project") or os.environ.get("WANDB_PROJECT", "huggingface"),
        entity=config.get("wandb_entity"),
        mode=config.get("wandb_mode"),
        id=logged.key,
        name=logged.name,
        job_type="eval",
        resume="allow",
        reinit="create_new",  # leaves a run that is open in this process alone
        config={"base_model": config["base_model"], "training_run": logged.training.wandb},
        settings=wandb.Settings(silent=True, console="off", init_timeout=60),
    ) as run:
        if run.disabled:
            raise RuntimeError("no login was found; use `wandb login` or `wandb_mode: offline`")
        if changed := logged.changed(run.summary):
            report = html.escape((logged.folder / "report.md").read_text("utf-8"))
            page = {f"{logged.place}/report": wandb.Html(f"<pre>{report}</pre>")}
            run.log({**changed, **page})
        run.summary.update(logged.texts)
        artifact = wandb.Artifact(logged.key, "evaluation")
        for name in FILES:
            artifact.add_file(str(logged.folder / name))
        run.log_artifact(artifact)
        folder = os.path.relpath(Path(run.dir).parent)
        return f"offline, `wandb sync {folder}` uploads it" if run.offline else str(run.url)


def _mlflow(logged: Logged) -> str:
    # with the default of 7, a server that does not answer takes four minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow import MlflowClient
    from mlflow.entities import Metric, RunTag

    config, now = logged.recipe.config, int(1000 * time.time())
    client = MlflowClient(config.get("mlflow_tracking_uri"))  # None: from the environment
    name = config.get("mlflow_experiment_name") or os.environ.get("MLFLOW_EXPERIMENT_NAME")
    experiment = client.get_experiment_by_name(name or "Default")
    exp_id = experiment.experiment_id if experiment else client.create_experiment(name)
    tags = {"evaluation": logged.key, **logged.texts}
    if logged.training.mlflow:
        tags["mlflow.parentRunId"] = logged.training.mlflow  # shown below the training's run
    earlier = client.search_runs([exp_id], f"tags.evaluation = '{logged.key}'", max_results=1)
    run = earlier[0] if earlier else client.create_run(exp_id, run_name=logged.name)
    client.log_batch(
        run.info.run_id,
        [Metric(key, value, now, 0) for key, value in logged.changed(run.data.metrics).items()],
        tags=[RunTag(key, text) for key, text in tags.items()],
    )
    for file in FILES:
        client.log_artifact(run.info.run_id, str(logged.folder / file), logged.place)
    client.set_terminated(run.info.run_id)
    return f"{logged.name}, run {run.info.run_id}"
