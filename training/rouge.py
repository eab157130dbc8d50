"""Generated ROUGE at each evaluation of a training, by the model that is being trained.

Our plugin adds the callback where the recipe says `summarization.training_rouge.dialogues`. The
figures go where the trainer's own go (`trainer_state.json`, TensorBoard, W&B, MLflow), and
`metric_for_best_model: eval_rougeL` finds them. They are those of the weights in the precision of
training, the adapter not merged: `eval.run` may differ by some hundredths.
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
from eval.hf_engine import Settings, generate, use_grouped_attention, within_memory
from eval.language import Scoring, resolve, warnings
from eval.metrics import METRICS, mean_f1, score


class ModelInTraining:
    """An engine for `eval.generate.Summarizer`; to be used inside `undisturbed`."""

    def __init__(self, trainer: Any, recipe: Recipe, decoding: Decoding, ends: list[int], pad: int):
        """`ends` and `pad` are token ids."""
        self.trainer, self.path = trainer, recipe.path
        self.settings = Settings(decoding, ends, pad, trainer.accelerator.device)
        self.pieces = 1

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """New token ids of each prompt; smaller batches where memory runs out."""
        model = without_peft(unwrapped(self.trainer))
        make = partial(generate, model, settings=self.settings)
        if not holds_whole_model(self.trainer):  # the others would wait for whoever tries again
            torch.manual_seed(seed)
            return make(prompts)
        outputs, self.pieces = within_memory(make, prompts, seed, self.pieces, self.path)
        return outputs


NAME = "eval/summaries"


class TrainingRougeCallback(TrainerCallback):
    """Adds the figures to `metrics` in place, before early stopping reads them there."""

    trainer: Any = None  # set by the plugin once there is one

    def __init__(self, recipe: Recipe):
        """Raises UserError where the recipe asks for more dialogues than validation has."""
        path = recipe.data_dir / "validation.jsonl"
        self.recipe, self.decoding = recipe, decoding_of(recipe)
        self.examples = recipe.summarization.training_rouge.examples
        wanted, rows = recipe.summarization.training_rouge.dialogues, read_examples(path)
        if wanted > len(rows):
            raise UserError(
                f"{recipe.path}: summarization.training_rouge.dialogues is {wanted}, but {path} "
                f"has {len(rows)} rows; lower it"
            )
        self.rows = rows[:wanted]
        self.began, self.seconds = time.perf_counter(), 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock that the cost of generation is compared with."""
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
        texts = [one.prediction for one in predictions]
        scores = mean_f1(score(texts, references, scoring=self._scoring))
        figures = {f"eval_{metric}": scores[metric] for metric in METRICS} | {
            "eval_summary_tokens": fmean(one.tokens for one in predictions),
            "eval_stopped": fmean(one.stopped for one in predictions),  # by itself: 0 to 1
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
            first = [texts[0] for texts in references]
            shown = list(zip(predictions, first, strict=True))[: self.examples]
            log_examples(self.trainer.callback_handler.callbacks, state.global_step, shown)

    def _generate(self) -> tuple[list[Prediction], float]:
        """A prediction for each row, and the seconds that the slowest process took."""
        start = time.perf_counter()
        predictions: list[Prediction] = []
        accelerator = self.trainer.accelerator
        with undisturbed(unwrapped(self.trainer)), accelerator.autocast():
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
        """As `eval.run` scores; says once where most of the text does not count."""
        block = self.recipe.summarization
        references = [row.references or [row.summary] for row in self.rows]
        scoring = resolve(block.rouge, block.language, references)
        if self.trainer.is_world_process_zero():
            texts = [text for some in references for text in some]
            for note in warnings(scoring, {"the validation summaries": texts}):
                say(f"note: {note}")
        return scoring

    @cached_property
    def _summarizer(self) -> Summarizer:
        engine = partial(ModelInTraining, self.trainer)
        return Summarizer(self.recipe, self.decoding, engine=engine)


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


def log_examples(
    callbacks: Iterable[TrainerCallback], step: int, examples: list[tuple[Prediction, str]]
) -> None:
    """Send results and their references to each tracker among the trainer's callbacks."""
    if not examples:
        return
    markdown = "\n\n".join(
        f"### {one.id}\n\nreference: {reference}\n\nprediction: {one.prediction}"
        for one, reference in examples
    )
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer:
            callback.tb_writer.add_text(NAME, markdown, step)
        elif isinstance(callback, WandbCallback):
            import wandb

            rows = [[one.id, reference, one.prediction] for one, reference in examples]
            table = wandb.Table(["id", "reference", "prediction"], rows)
            wandb.log({NAME: table, "train/global_step": step})
        elif isinstance(callback, MLflowCallback):
            import mlflow

            mlflow.log_text(markdown, f"summaries/step-{step:06}.md")


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Lend the model for generation; put back all that it changes, also where it fails.

    That is each module's `training` (dropout), the attention and the random states. Gradient
    checkpointing and `config.use_cache` are neither touched nor in the way: transformers
    checkpoints in training mode only, and our settings ask for the cache themselves. Under FSDP2
    the outermost module's embeddings and head are gathered, for generation goes past it, to the
    model inside PEFT's; the layers gather their own weights.
    """
    bare = without_peft(model)
    training = [(module, module.training) for module in model.modules()]
    attention, own = bare.config._attn_implementation, bare.generation_config
    python, numpy = random.getstate(), np.random.get_state()
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
            bare.generation_config = own
            if sharded:
                sharded.reshard()
            random.setstate(python)
            np.random.set_state(numpy)
            for module, flag in training:
                module.training = flag
            if torch.cuda.is_available():  # what generation held is of no use to training
                torch.cuda.empty_cache()


def unwrapped(trainer: Any) -> Any:
    """The trainer's model without what DDP, DeepSpeed or `torch.compile` put around it."""
    return trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_torch_compile=False)


def without_peft(model: Any) -> Any:
    """The transformers model, the adapter's layers still in it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def holds_whole_model(trainer: Any) -> bool:
    """Whether this process has all weights, so that it can generate by itself.

    Else, under FSDP or ZeRO-3, every process has to do all of the work: only while they are in step
    does each have the weights that another one keeps.
    """
    alone = trainer.accelerator.num_processes == 1
    return alone or isinstance(trainer.model_wrapped, DistributedDataParallel)
