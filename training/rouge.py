"""ROUGE at each evaluation during training, of summaries that the model being trained generates.

Our plugin adds the callback if the recipe sets `summarization.training_rouge.dialogues`. The
figures are logged with the trainer's own (`trainer_state.json`, TensorBoard, W&B, MLflow), and
`metric_for_best_model: eval_rougeL` finds them. They are measured in the precision of training with
the adapter not merged, so `eval.run` may differ by some hundredths.
"""

import random
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import GenerationConfig, TrainerCallback
from transformers.integrations import MLflowCallback, TensorBoardCallback, WandbCallback

from data_prep.console import Bar, say
from data_prep.errors import UserError
from data_prep.prompt import read_examples
from data_prep.recipe import Recipe
from data_prep.settings import Decoding
from eval.generate import Prediction, Summarizer
from eval.hf_engine import Settings, generate, run_within_memory, use_grouped_attention
from eval.language import Scoring, resolve, warnings
from eval.metrics import METRICS, mean_f1, score


class ModelInTraining:
    """An engine for `eval.generate.Summarizer`; use it inside `generation_mode`."""

    def __init__(self, trainer: Any, recipe: Recipe, decoding: Decoding, ends: list[int], pad: int):
        """`ends` and `pad` are token ids."""
        self.trainer, self.path = trainer, recipe.path
        self.settings = Settings(decoding, ends, pad, trainer.accelerator.device)
        self.pieces = 1

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """Return the new token ids of each prompt; retry in smaller batches if memory runs out."""
        model = without_peft(unwrapped_model(self.trainer))
        make = partial(generate, model, settings=self.settings)
        if not holds_whole_model(self.trainer):  # a retry would leave the others waiting
            torch.manual_seed(seed)
            return make(prompts)
        outputs, self.pieces = run_within_memory(make, prompts, seed, self.pieces, self.path)
        return outputs


TABLE_NAME = "eval/summaries"


class TrainingRougeCallback(TrainerCallback):
    """Adds ROUGE to `metrics` in place, before early stopping reads them."""

    trainer: Any = None  # set by the plugin once it exists

    def __init__(self, recipe: Recipe):
        """Raises UserError if the recipe asks for more dialogues than validation has."""
        path = recipe.data_dir / "validation.jsonl"
        self.recipe, self.decoding = recipe, decoding_of(recipe)
        self.examples = recipe.summarization.training_rouge.examples
        count, rows = recipe.summarization.training_rouge.dialogues, read_examples(path)
        if count > len(rows):
            raise UserError(
                f"{recipe.path}: summarization.training_rouge.dialogues is {count}, but {path} "
                f"has {len(rows)} rows; lower it"
            )
        self.rows = rows[:count]
        self.began, self.seconds = time.perf_counter(), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock, to report generation's share of the training time."""
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
        predictions, seconds = self._generate()
        references = [row.references or [row.summary] for row in self.rows]
        texts = [p.prediction for p in predictions]
        scores = mean_f1(score(texts, references, scoring=self._scoring))
        figures = {f"eval_{metric}": scores[metric] for metric in METRICS} | {
            "eval_summary_tokens": fmean(p.tokens for p in predictions),
            "eval_stopped": fmean(p.stopped for p in predictions),  # at an end token, 0 to 1
            "eval_summary_seconds": seconds,
        }
        if metrics is not None:
            metrics.update(figures)
        self.trainer.log(dict(figures))  # a copy: the trainer adds to it
        if state.is_world_process_zero:
            self.seconds += seconds
            share = self.seconds / (time.perf_counter() - self.began)
            rouge = "/".join(f"{figures[f'eval_{metric}']:.1f}" for metric in METRICS)
            say(
                f"step {state.global_step}: ROUGE {rouge} on {len(predictions)} validation "
                f"dialogues, {figures['eval_summary_tokens']:.1f} tokens, "
                f"{100 * figures['eval_stopped']:.0f} % stopped; {seconds:.1f} s, "
                f"{100 * share:.0f} % of training so far"
            )
            first_references = [texts[0] for texts in references]
            pairs = list(zip(predictions, first_references, strict=True))[: self.examples]
            log_examples(self.trainer.callback_handler.callbacks, state.global_step, pairs)

    def _generate(self) -> tuple[list[Prediction], float]:
        """Return a prediction for each row, and the seconds of the slowest process."""
        start = time.perf_counter()
        predictions: list[Prediction] = []
        accelerator = self.trainer.accelerator
        with generation_mode(unwrapped_model(self.trainer)), accelerator.autocast():
            summarizer = self._summarizer
            batches = summarizer.batches(self.rows)
            if holds_whole_model(self.trainer):
                batches = batches[accelerator.process_index :: accelerator.num_processes]
            hidden = not self.trainer.is_world_process_zero()
            rows = sum(len(batch.examples) for batch in batches)
            with Bar("summaries", rows, "dialogues", shown=not hidden) as bar:
                for batch in batches:
                    predictions += summarizer.summarize(batch)
                    bar.step(len(batch.examples))
        parts = gather_object([(predictions, time.perf_counter() - start)])
        by_id = {prediction.id: prediction for part, _ in parts for prediction in part}
        return [by_id[row.id] for row in self.rows], max(took for _, took in parts)

    @cached_property
    def _scoring(self) -> Scoring:
        """The scoring of `eval.run`; warns once if the tokenizer ignores much of the text."""
        block = self.recipe.summarization
        references = [row.references or [row.summary] for row in self.rows]
        scoring = resolve(block.rouge, block.language, references)
        if self.trainer.is_world_process_zero():
            texts = [text for row_references in references for text in row_references]
            for note in warnings(scoring, {"the validation summaries": texts}):
                say(f"note: {note}")
        return scoring

    @cached_property
    def _summarizer(self) -> Summarizer:
        engine = partial(ModelInTraining, self.trainer)
        return Summarizer(self.recipe, self.decoding, engine=engine)


def decoding_of(recipe: Recipe) -> Decoding:
    """Return the decoding used in training: engine `hf`, and `training_rouge`'s length if set."""
    decoding, training_rouge = recipe.summarization.decoding, recipe.summarization.training_rouge
    length = training_rouge.max_new_tokens or decoding.max_new_tokens
    if length < decoding.min_new_tokens:
        raise UserError(
            f"{recipe.path}: summarization.training_rouge.max_new_tokens is {length}, below "
            f"decoding.min_new_tokens, {decoding.min_new_tokens}; raise it"
        )
    return decoding.model_copy(update={"engine": "hf", "max_new_tokens": length})


def log_examples(
    callbacks: Iterable[TrainerCallback], step: int, examples: list[tuple[Prediction, str]]
) -> None:
    """Send predictions and their references to each tracker among the trainer's callbacks."""
    if not examples:
        return
    markdown = "\n\n".join(
        f"### {p.id}\n\nreference: {reference}\n\nprediction: {p.prediction}"
        for p, reference in examples
    )
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer:
            callback.tb_writer.add_text(TABLE_NAME, markdown, step)
        elif isinstance(callback, WandbCallback):
            import wandb

            rows = [[p.id, reference, p.prediction] for p, reference in examples]
            table = wandb.Table(["id", "reference", "prediction"], rows)
            wandb.log({TABLE_NAME: table, "train/global_step": step})
        elif isinstance(callback, MLflowCallback):
            import mlflow

            mlflow.log_text(markdown, f"summaries/step-{step:06}.md")


@contextmanager
def generation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Prepare the model for generation and restore it afterwards, also on errors.

    Restores each module's `training` flag (dropout), the attention and the random states. Gradient
    checkpointing and `config.use_cache` stay as they are and do no harm: transformers checkpoints
    only in training mode, and our settings request the cache. Under FSDP2 the outermost module's
    embeddings and head are gathered here, because generation bypasses that module and calls the
    model inside PEFT's; the layers gather their own weights.
    """
    bare = without_peft(model)
    training_flags = [(module, module.training) for module in model.modules()]
    attention, generation_config = bare.config._attn_implementation, bare.generation_config
    python_state, numpy_state = random.getstate(), np.random.get_state()
    sharded = model if isinstance(model, FSDPModule) else None
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            if sharded:
                sharded.unshard()
            model.eval()
            use_grouped_attention(bare)
            bare.generation_config = GenerationConfig()
            yield
        finally:
            bare.set_attn_implementation(attention)
            bare.generation_config = generation_config
            if sharded:
                sharded.reshard()
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            for module, flag in training_flags:
                module.training = flag
            if torch.cuda.is_available():  # training cannot use the memory that generation cached
                torch.cuda.empty_cache()


def unwrapped_model(trainer: Any) -> Any:
    """Return the trainer's model without the wrappers of DDP, DeepSpeed or `torch.compile`."""
    return trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_torch_compile=False)


def without_peft(model: Any) -> Any:
    """Return the transformers model, with the adapter's layers still in it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def holds_whole_model(trainer: Any) -> bool:
    """Return whether this process has all weights and can generate without the others.

    If not (FSDP or ZeRO-3), every process must generate everything: they get the weights that the
    others hold only while all run in step.
    """
    wrapped = trainer.model_wrapped
    if hasattr(wrapped, "zero_optimization_stage"):  # DeepSpeed's engine
        return wrapped.zero_optimization_stage() < 3
    return trainer.accelerator.num_processes == 1 or isinstance(wrapped, DistributedDataParallel)
