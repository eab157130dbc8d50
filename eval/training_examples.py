"""Summaries made in training, as text, for the trackers that a recipe turns on."""

from collections.abc import Iterable

from transformers import TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from eval.generate import Row

NAME = "eval/summaries"


def log_examples(
    callbacks: Iterable[TrainerCallback], step: int, examples: list[tuple[Row, str]]
) -> None:
    """Send results and their references to each tracker among the trainer's callbacks."""
    if not examples:
        return
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer:
            callback.tb_writer.add_text(NAME, as_markdown(examples), step)
        elif isinstance(callback, WandbCallback):
            import wandb

            rows = [[row["id"], reference, row["prediction"]] for row, reference in examples]
            table = wandb.Table(["id", "reference", "prediction"], rows)
            wandb.log({NAME: table, "train/global_step": step})
        elif isinstance(callback, MLflowCallback):
            import mlflow

            mlflow.log_text(as_markdown(examples), f"summaries/step-{step:06}.md")


def as_markdown(examples: list[tuple[Row, str]]) -> str:
    """A heading for each dialogue, its reference and its summary."""
    return "\n\n".join(
        f"### {row['id']}\n\nreference: {reference}\n\nprediction: {row['prediction']}"
        for row, reference in examples
    )
