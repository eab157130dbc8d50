"""Generated ROUGE at each evaluation of a training, by the model that is being trained.

Our plugin adds the callback where the recipe says `summarization.training_rouge.dialogues`. The
figures go where the trainer's own go (`trainer_state.json`, TensorBoard, W&B, MLflow), and
`metric_for_best_model: eval_rougeL` finds them. They are those of the weights in the precision of
training, the adapter not merged: `eval.run` may differ by some hundredths.
"""

import time
from functools import cached_property, partial
from statistics import fmean
from typing import Any

from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import TrainerCallback

from data_prep.errors import UserError
from data_prep.prompt import read_rows
from data_prep.recipe import Decoding, Recipe
from eval.generate import Row, Summarizer
from eval.model_in_training import ModelInTraining, holds_whole_model, undisturbed, unwrapped
from eval.rouge import METRICS, mean_f1, score
from eval.training_examples import log_examples


def bound(recipe: Recipe) -> int:
    """The most new tokens that one evaluation generates: dialogues x max_new_tokens."""
    return recipe.summarization.training_rouge.dialogues * decoding_of(recipe).max_new_tokens


def decoding_of(recipe: Recipe) -> Decoding:
    """The recipe's decoding as training uses it: transformers' engine, a length of its own."""
    decoding, most = recipe.summarization.decoding, recipe.summarization.training_rouge
    length = most.max_new_tokens or decoding.max_new_tokens
    if length < decoding.min_new_tokens:
        raise UserError(
            f"{recipe.path}: summarization.training_rouge.max_new_tokens is {length}, below "
            f"decoding.min_new_tokens, {decoding.min_new_tokens}; raise it"
        )
    return decoding.model_copy(update={"engine": "hf", "max_new_tokens": length})


class TrainingRougeCallback(TrainerCallback):
    """Adds the figures to `metrics` in place, before early stopping reads them there."""

    trainer: Any = None  # set by the plugin once there is one

    def __init__(self, recipe: Recipe):
        """Raises UserError where the recipe asks for more dialogues than validation has."""
        path = recipe.data_dir / "validation.jsonl"
        self.recipe, self.decoding = recipe, decoding_of(recipe)
        self.examples = recipe.summarization.training_rouge.examples
        wanted, rows = recipe.summarization.training_rouge.dialogues, read_rows(path)
        if wanted > len(rows):
            raise UserError(
                f"{recipe.path}: summarization.training_rouge.dialogues is {wanted}, but {path} "
                f"has {len(rows)} rows; lower it"
            )
        self.rows = rows[:wanted]
        self.began, self.seconds = time.perf_counter(), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock against which generation's cost is told."""
        self.began = time.perf_counter()

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Generate, score and log; the figures are the same on every process."""
        made, seconds = self._generate()
        references = [row["messages"][1]["content"] for row in self.rows]
        figures = figures_of(made, references) | {"eval_summary_seconds": seconds}
        if metrics is not None:
            metrics.update(figures)
        self.trainer.log(dict(figures))  # a copy: the trainer adds to it
        if state.is_world_process_zero:
            self.seconds += seconds
            share = self.seconds / (time.perf_counter() - self.began)
            tqdm.write(f"step {state.global_step}: {_line(figures, len(made), share)}")
            shown = list(zip(made, references, strict=True))[: self.examples]
            log_examples(self.trainer.callback_handler.callbacks, state.global_step, shown)

    def _generate(self) -> tuple[list[Row], float]:
        """A result of each row, and the seconds that the slowest process took."""
        start = time.perf_counter()
        made: dict[int, Row] = {}
        accelerator = self.trainer.accelerator
        with undisturbed(unwrapped(self.trainer)), accelerator.autocast():
            summarizer = self._summarizer
            numbers = range(len(summarizer.batches))
            if holds_whole_model(self.trainer):
                numbers = numbers[accelerator.process_index :: accelerator.num_processes]
            hidden = not self.trainer.is_world_process_zero()
            for number in tqdm(numbers, "summaries", leave=False, delay=5, disable=hidden):
                rows = summarizer.batches[number]
                made |= dict(zip(rows, summarizer.summarize(number), strict=True))
        parts = gather_object([(made, time.perf_counter() - start)])
        together = {row: result for part, _ in parts for row, result in part.items()}
        return [together[row] for row in range(len(self.rows))], max(took for _, took in parts)

    @cached_property
    def _summarizer(self) -> Summarizer:
        engine = partial(ModelInTraining, self.trainer)
        return Summarizer(self.recipe, self.decoding, self.rows, None, engine)


def figures_of(made: list[Row], references: list[str]) -> dict[str, float]:
    """What is logged: mean F1 in percent, tokens, and the share (0 to 1) that stopped by itself."""
    scores = mean_f1(score([row["prediction"] for row in made], references))
    return {f"eval_{metric}": scores[metric] for metric in METRICS} | {
        "eval_summary_tokens": fmean(row["tokens"] for row in made),
        "eval_stopped": fmean(row["stopped"] for row in made),
    }


def _line(figures: dict[str, float], dialogues: int, share: float) -> str:
    rouge = "/".join(f"{figures[f'eval_{metric}']:.1f}" for metric in METRICS)
    return (
        f"ROUGE {rouge} on {dialogues} validation dialogues, "
        f"{figures['eval_summary_tokens']:.1f} tokens, {100 * figures['eval_stopped']:.0f} % "
        f"stopped; {figures['eval_summary_seconds']:.1f} s, {100 * share:.0f} % of training so far"
    )
