"""Summarise prepared rows with the base model and with the recipe's adapter."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from data_prep.errors import UserError
from data_prep.hub import end_token_ids, max_positions
from data_prep.prompt import Example, PromptEncoder
from data_prep.recipe import Recipe
from data_prep.settings import Decoding
from eval.adapter import is_plain_lora
from eval.signature import quantization

# dialogues: vLLM loads two models, 80 s each, and saves 0.26 s a dialogue in bf16 (engines.md)
WORTH_LOADING = 700
VLLM_ROWS = 256  # prompts per call of vLLM; this many are lost if a run is killed
SHORTEN = "shorten these dialogues in the source, or use a base model with more positions"
MAX_ROWS = 128  # per batch of `hf`: a kill loses little, and several processes get batches


class Engine(Protocol):
    """Generates token ids: with the base model, and after `attach_adapter` with the tuned one."""

    def attach_adapter(self, folder: Path) -> None:
        """Switch to the adapter in `folder`."""

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """Return the new token ids of each prompt."""


class Prediction(BaseModel):
    """One model's summary of one dialogue: a line of a predictions file.

    `reference` is a list if the dialogue has several. `tokens` counts the generated tokens,
    including the end token; `stopped`: whether that end token came before `max_new_tokens`.
    """

    id: str
    dialogue: str
    reference: str | list[str]
    prediction: str
    tokens: int
    stopped: bool


@dataclass(frozen=True)
class Batch:
    """Examples that are generated together; `number` is the batch's index in the plan."""

    number: int
    examples: list[Example]
    prompts: list[list[int]]


class Summarizer:
    """Encodes prompts with training's own code, runs an engine loaded once, and decodes its ids."""

    def __init__(
        self,
        recipe: Recipe,
        decoding: Decoding,
        adapter: Path | None = None,
        engine: Callable[[Recipe, Decoding, list[int], int], Any] | None = None,
    ):
        """Load tokenizer and base model; raises UserError if either cannot be loaded.

        `adapter`: its folder, if `use("tuned")` will follow. `engine`: makes an engine to use
        instead of `decoding.engine`; it also gets the ids of the end tokens and of padding.
        """
        self.recipe, self.decoding, self.adapter = recipe, decoding, adapter
        self.encoder = PromptEncoder(recipe)
        self.ends, pad_id = self._end_and_pad_ids(recipe)
        vocabulary = len(self.encoder.tokenizer)
        self.engine: Engine
        if engine:
            self.engine = engine(recipe, decoding, self.ends, pad_id)
        elif decoding.engine == "vllm":
            from eval.vllm_engine import VllmEngine

            self.engine = VllmEngine(recipe, decoding, self.ends, pad_id, vocabulary, adapter)
        else:
            from eval.hf_engine import HfEngine

            self.engine = HfEngine(recipe, decoding, self.ends, pad_id, vocabulary)

    def use(self, model: str) -> None:
        """Choose `base` or `tuned`; after `tuned` the base model is no longer available."""
        if model == "tuned" and self.adapter:
            self.engine.attach_adapter(self.adapter)

    def summaries(self, examples: Sequence[Example]) -> Iterator[Prediction]:
        """Yield a prediction for each example, batch by batch, the longest prompts first."""
        for batch in self.batches(examples):
            yield from self.summarize(batch)

    def batches(self, examples: Sequence[Example]) -> list[Batch]:
        """Encode the examples and plan their batches with `plan_batches`.

        Raises UserError if an example contains a control string as text, or is too long.
        """
        self.encoder.check_no_control_strings(list(examples))
        prompts = [self.encoder.prompt_ids(example) for example in examples]
        lengths, new = [len(prompt) for prompt in prompts], self.decoding.max_new_tokens
        for problem in beyond_positions(self.recipe, examples, lengths, new):
            raise UserError(problem)
        plan = plan_batches(lengths, self.decoding)
        return [
            Batch(number, [examples[row] for row in rows], [prompts[row] for row in rows])
            for number, rows in enumerate(plan)
        ]

    def summarize(self, batch: Batch) -> list[Prediction]:
        """Return the prediction for each example of a batch, in order."""
        outputs = self.engine.generate(batch.prompts, self.decoding.seed + batch.number)
        return [
            self.read_output(example, output)
            for example, output in zip(batch.examples, outputs, strict=True)
        ]

    def read_output(self, example: Example, output: list[int]) -> Prediction:
        """Decode new token ids into a prediction, up to the first end token."""
        end = next((n for n, token in enumerate(output) if token in self.ends), None)
        text = self.encoder.tokenizer.decode(output[:end], skip_special_tokens=True)
        return Prediction(
            id=example.id,
            dialogue=example.dialogue,
            reference=example.references if example.references[1:] else example.summary,
            prediction=text.strip(),
            tokens=len(output) if end is None else end + 1,
            stopped=end is not None,
        )

    def _end_and_pad_ids(self, recipe: Recipe) -> tuple[list[int], int]:
        """Return the ids of the tokens that end a summary, and of padding.

        The first end token is the one that training teaches; the others are the model's own, any
        of which the base model may write.
        """
        system = recipe.summarization.system
        example = Example.build("", "Ana: hi", "Ana says hi.", "{dialogue}", system=system)
        _, labels = self.encoder.training_ids(example)
        end_id = [label for label in labels if label != -100][-1]
        end_ids = [end_id, *(token for token in end_token_ids(recipe.config) if token != end_id)]
        pad_id = self.encoder.tokenizer.pad_token_id
        return end_ids, end_id if pad_id is None else pad_id


def beyond_positions(
    recipe: Recipe, examples: Sequence[Example], prompts: list[int], new: int
) -> Iterator[str]:
    """Yield an error if a prompt's tokens and `new` ones exceed the model's positions."""
    limit = max_positions(recipe.config)
    long = [row for row, tokens in enumerate(prompts) if limit and tokens + new > limit]
    if long:
        longest = max(long, key=lambda row: prompts[row])
        yield (
            f"{recipe.path}: {len(long):,} of {len(prompts):,} prompts exceed the {limit} positions"
            f" of {recipe.config['base_model']} (row {examples[longest].id}: {prompts[longest]:,} "
            f"tokens, and max_new_tokens {new}); {SHORTEN}"
        )


def plan_batches(lengths: list[int], decoding: Decoding) -> list[list[int]]:
    """Return the row numbers of each batch, longest prompts first.

    A batch stays within `batch_tokens`, but one dialogue is always allowed. The plan depends only
    on the rows and the settings, so a resumed run, or one with more processes, makes the same
    batches and the same bytes. vLLM gets many prompts at once, because it makes its own batches
    from them.
    """
    by_length = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    if decoding.engine == "vllm":
        return [by_length[start : start + VLLM_ROWS] for start in range(0, len(lengths), VLLM_ROWS)]
    batches: list[list[int]] = []
    start = 0
    while start < len(by_length):
        row_tokens = (lengths[by_length[start]] + decoding.max_new_tokens) * decoding.num_beams
        end = start + min(MAX_ROWS, max(1, decoding.batch_tokens // row_tokens))
        batches.append(by_length[start:end])
        start = end
    return batches


def resolve(
    decoding: Decoding,
    recipe: Recipe | None = None,
    dialogues: int = 0,
    adapter: Path | None = None,
) -> Decoding:
    """Replace `auto`: the precision depends on the machine, the engine on the work as well.

    `dtype`: bf16 on a GPU that has it, else fp16; on a CPU, bf16 or fp32, whichever is faster.
    PyTorch also reports bf16 support on GPUs before Ampere, but emulates it there, slowly.
    `engine`: vLLM if it is installed, supports `recipe`, `adapter` and `decoding`, is worth loading
    for so many dialogues, and only one process runs.
    """
    import torch

    from data_prep.machine import bf16_is_faster

    dtype, engine = decoding.dtype, decoding.engine
    if dtype == "auto" and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        dtype = "bfloat16" if native else "float16"
    elif dtype == "auto":
        dtype = "bfloat16" if bf16_is_faster() else "float32"
    if engine == "auto":
        supported = recipe and not quantization(recipe.config) and dtype != "float32"
        supported = supported and decoding.num_beams == 1 and not decoding.no_repeat_ngram_size
        supported = supported and os.environ.get("WORLD_SIZE", "1") == "1"
        supported = supported and (adapter is None or is_plain_lora(adapter))
        use_vllm = supported and dialogues >= WORTH_LOADING and find_spec("vllm")
        engine = "vllm" if use_vllm else "hf"
    return decoding.model_copy(update={"dtype": dtype, "engine": engine})
