"""Compare ways to generate: our engines, CTranslate2, and one dialogue at a time.

All summarise the same test dialogues, spread evenly over the split, in one run. `plain` is the
notebook's way: one dialogue at a time with transformers' `generate`, unsorted, the adapter beside
the weights. In float32 the summaries that differ are due to batching and merging alone. Each speed
is also printed as a share of the machine's limit, see `Limit`. `scripts/bench_cpu.py` calls
`compare_generation`; `scripts/bench_gpu.py` starts this module as a process of its own.
"""

import gc
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, GenerationConfig

from data_prep.errors import UserError, run_cli, whole_file
from data_prep.hub import empty_model
from data_prep.options import Options
from data_prep.prepare import check_prepared
from data_prep.prompt import Example, PromptEncoder, read_examples
from data_prep.recipe import Recipe, load_recipe
from data_prep.settings import Decoding
from eval.adapter import find_adapter
from eval.generate import Prediction, Summarizer, resolve
from eval.hf_engine import HfEngine
from scripts.bench_check import DEVICE, copy_speed, product_speed

Outputs = dict[str, Prediction]  # by id, of the dialogues that a way got to
WARM_UP = 8  # untimed dialogues, or tokens of the plain way: a GPU loads its kernels in them
ENGINES = ("hf", "vllm", "ctranslate2")


class Way(BaseModel):
    """The speed of one way; `peak_gb` is a GPU's memory, 0 on a CPU; `share` is of the limit."""

    way: str
    model: str
    dtype: str
    dialogues: int
    seconds: float
    tokens: int
    dialogues_per_second: float
    tokens_per_second: float
    peak_gb: float
    share: float


@dataclass(frozen=True)
class Limit:
    """The seconds that no way can beat which generates token by token, from measured rates.

    Prompts cost operations: two for each weight and token, all in one product. A new token costs
    them too, or the reading of keys and values, whichever is longer, and each of the steps reads
    all weights. Attention's own operations are left out.
    """

    weights: int  # of the layers
    head: int  # weights of the output embeddings
    cache_bytes: int  # keys and values of a token
    item: int  # bytes of a number
    operations: float  # a second, of a matrix product
    bandwidth: float  # bytes a second, read and written by a copy

    @classmethod
    def measure(cls, model: Any, dtype: torch.dtype) -> "Limit":
        """Count a transformers model's weights; time a product and a copy on this machine."""
        config, head = model.config.get_text_config(), model.get_output_embeddings().weight
        embeddings = {id(head), id(model.get_input_embeddings().weight)}
        weights = sum(p.numel() for p in model.parameters() if id(p) not in embeddings)
        width = getattr(config, "head_dim", None)
        width = width or config.hidden_size // config.num_attention_heads
        numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * width
        return cls(
            weights, head.numel(), numbers * dtype.itemsize, dtype.itemsize, product_speed(dtype),
            copy_speed(),
        )  # fmt: skip

    def seconds(self, prompts: list[int], new: list[int]) -> float:
        """The least seconds for prompts of these lengths, in tokens, and as many new ones."""
        every = 2 * (self.weights + self.head)
        read: float = (self.weights + self.head) * self.item * max(new)
        read += self.cache_bytes * sum(n * (p + n / 2) for p, n in zip(prompts, new, strict=True))
        reading = 2 * self.weights * sum(prompts) / self.operations
        return reading + max(every * sum(new) / self.operations, read / self.bandwidth)


class CTranslate2Engine:
    """CTranslate2, greedy search alone; the tuned model is merged first and converted too."""

    def __init__(
        self, recipe: Recipe, decoding: Decoding, ends: list[int], pad: int, tokenizer: Any
    ):
        """As `HfEngine`; raises UserError where the package is not installed."""
        self.tokenizer, self.decoding, self.ends = tokenizer, decoding, ends
        self.source = HfEngine(recipe, decoding, ends, pad, len(tokenizer))
        self._convert()

    def attach_adapter(self, folder: Path) -> None:
        """Merge the adapter and convert again."""
        self.source.attach_adapter(folder)
        self._convert()

    def _convert(self) -> None:
        try:
            import ctranslate2
            from ctranslate2.converters import TransformersConverter
        except ImportError as error:
            raise UserError("run `python -m pip install ctranslate2`") from error
        with tempfile.TemporaryDirectory() as folder:
            self.source.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            TransformersConverter(folder).convert(f"{folder}/converted")
            if self.decoding.dtype not in ctranslate2.get_supported_compute_types(DEVICE):
                raise UserError("this processor is not quick in this precision")
            self.generator = ctranslate2.Generator(
                f"{folder}/converted", DEVICE, compute_type=self.decoding.dtype,
                intra_threads=torch.get_num_threads(),
            )  # fmt: skip

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """New token ids of each prompt, in their order, the end token included."""
        words = self.tokenizer.convert_ids_to_tokens
        results = self.generator.generate_batch(
            [words(prompt) for prompt in prompts],
            max_length=self.decoding.max_new_tokens,
            sampling_topk=1,
            end_token=words(self.ends),
            return_end_token=True,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]


class Bench:
    """The ways so far, each timed, printed and compared."""

    def __init__(self, output: Path | None):
        """`output`: JSON of all figures so far, written after each way."""
        self.output = output
        self.found: list[Way] = []
        self.outputs: dict[tuple[str, str, str], Outputs] = {}  # by way, model, dtype
        self.limits: dict[str, Limit] = {}  # by dtype
        self.prompts: dict[str, int] = {}  # tokens, by id

    def measure(
        self, way: str, model: str, dtype: str, generate: Callable[[], Iterator[Prediction]]
    ) -> Way:
        """Time a way, print its speed, and write all figures so far."""
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        outputs = {prediction.id: prediction for prediction in generate()}
        seconds = time.perf_counter() - start
        new = [prediction.tokens for prediction in outputs.values()]
        least = self.limits[dtype].seconds([self.prompts[id] for id in outputs], new)
        now = Way(
            way=way, model=model, dtype=dtype, dialogues=len(outputs), seconds=seconds,
            tokens=sum(new), dialogues_per_second=len(outputs) / seconds,
            tokens_per_second=sum(new) / seconds, share=least / seconds,
            peak_gb=torch.cuda.max_memory_reserved() / 1e9 if DEVICE == "cuda" else 0.0,
        )  # fmt: skip
        self.found.append(now)
        self.outputs[way, model, dtype] = outputs
        print(
            f"{model}, {way}, {dtype}: {len(outputs)} dialogues in {seconds:.1f} s, "
            f"{now.dialogues_per_second:.2f} dialogues/s, {now.tokens_per_second:.0f} tokens/s, "
            f"{100 * now.share:.0f} % of the limit",
            flush=True,
        )
        if self.output:
            with whole_file(self.output) as file:
                json.dump([one.model_dump() for one in self.found], file, indent=1)
        return now

    def compare(self, now: Way) -> None:
        """Print how much quicker each other way of the same model is, and what is the same."""
        outputs = self.outputs[now.way, now.model, now.dtype]
        for other in self.found:
            if other.model == now.model and other.way != now.way:
                quick = self.outputs[other.way, other.model, other.dtype]
                same = sum(one.prediction == quick[id].prediction for id, one in outputs.items())
                ratio = other.dialogues_per_second / now.dialogues_per_second
                print(
                    f"  {other.way}, {other.dtype}: ratio {ratio:.1f}; "
                    f"{same} of {len(outputs)} the same"
                )


def compare_generation(
    recipe: Recipe,
    models: list[str],
    dialogues: int,
    dtypes: list[str],
    plain_dtypes: list[str],
    plain_seconds: float | None = None,
    output: Path | None = None,
    engines: list[str] | None = None,
) -> None:
    """Time the engines (ours) in each of `dtypes`, then the plain way in each of its own.

    `dialogues`: how many of the test split, 0 for all; `plain_seconds` ends the plain way, which
    would take most of an hour for a 7B model; `output`: see `Bench`. Raises UserError where the
    recipe is not prepared or an engine is unknown.
    """
    check_prepared(recipe)
    examples = read_examples(recipe.data_dir / "test.jsonl")
    count = dialogues or len(examples)
    if not 1 <= count <= len(examples):
        raise UserError(f"--dialogues: {count}; choose 1 to {len(examples)}, or 0 for all")
    if wrong := set(engines := engines or ["hf"]) - set(ENGINES):
        raise UserError(f"--engines: {', '.join(wrong)}; choose from {', '.join(ENGINES)}")
    examples = [examples[n * len(examples) // count] for n in range(count)]
    adapter = find_adapter(recipe) if "tuned" in models else None
    bench = Bench(output)
    chosen = [
        resolve(recipe.summarization.decoding.model_copy(update={"dtype": dtype}))
        for dtype in dtypes
    ]
    for dtype in dict.fromkeys([*(one.dtype for one in chosen), *plain_dtypes]):
        limit = bench.limits[dtype] = Limit.measure(empty_model(recipe), getattr(torch, dtype))
        rates = f"{limit.operations / 1e9:.0f} GFLOP/s, copy {limit.bandwidth / 1e9:.1f} GB/s"
        print(f"{dtype}: a matrix product at {rates}")
    ours: Summarizer | None = None
    for decoding in chosen:
        for engine in engines:
            try:
                ours = summarizer(recipe, decoding, adapter, engine)
            except UserError as error:  # not installed, or not in this precision
                print(f"{engine}, {decoding.dtype}: {error}")
                continue
            ids = ours.encoder.prompt_ids
            bench.prompts = {example.id: len(ids(example)) for example in examples}
            for model in models:
                ours.use(model)
                if DEVICE == "cuda" or engine == "vllm":  # which loads with its first prompts
                    list(ours.summaries(examples[:WARM_UP]))
                bench.measure(engine, model, decoding.dtype, partial(ours.summaries, examples))
            ours.engine = None  # type: ignore[assignment]  # its memory goes to what follows
            gc.collect()
    if ours is None:
        raise UserError(f"--engines: none of {', '.join(engines)} is installed here; add hf")
    for dtype in plain_dtypes:
        plain: Any = AutoModelForCausalLM.from_pretrained(
            recipe.config["base_model"], dtype=getattr(torch, dtype), device_map=DEVICE
        ).eval()
        for model in models:
            if model == "tuned":
                plain = PeftModel.from_pretrained(plain, str(adapter)).eval()
            if DEVICE == "cuda":
                list(one_by_one(plain, examples[:1], ours, WARM_UP, None))
            most = chosen[0].max_new_tokens
            way = partial(one_by_one, plain, examples, ours, most, plain_seconds)
            bench.compare(bench.measure("plain", model, dtype, way))
        del plain
        gc.collect()


def summarizer(recipe: Recipe, decoding: Decoding, adapter: Path | None, name: str) -> Summarizer:
    """What generates by the engine of this name."""
    if name != "ctranslate2":
        return Summarizer(recipe, decoding.model_copy(update={"engine": name}), adapter)
    engine = partial(CTranslate2Engine, tokenizer=PromptEncoder(recipe).tokenizer)
    return Summarizer(recipe, decoding, adapter, engine)


def one_by_one(
    model: Any, examples: list[Example], ours: Summarizer, limit: int, seconds: float | None
) -> Iterator[Prediction]:
    """The plain way: a call of `generate` for each dialogue, in random order, until time is up."""
    config = GenerationConfig(
        do_sample=False, max_new_tokens=limit, eos_token_id=ours.ends, pad_token_id=ours.ends[0]
    )
    start = time.perf_counter()
    for example in random.Random(0).sample(examples, len(examples)):
        ids = torch.tensor([ours.encoder.prompt_ids(example)], device=model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
            )
        yield ours.read_output(example, output[0, ids.shape[1] :].tolist())  # waits for the GPU
        if seconds is not None and time.perf_counter() - start > seconds:
            break


def main() -> None:
    """The process that scripts/bench_gpu.py starts: the base model, bf16, all test dialogues."""
    parser = Options(
        "scripts.bench_generate", __doc__.splitlines()[0],
        "recipes/mistral_samsum.yml --plain-seconds 60 --output outputs/generation.json",
    )  # fmt: skip
    parser.add_argument("recipe", type=Path, help="its file")
    seconds = "then the plain way ends (default: with the last dialogue)"
    parser.add_argument("--plain-seconds", type=float, help=seconds)
    parser.add_argument("--output", type=Path, help="a JSON file of the figures (default: none)")
    args = parser.parse_args()
    compare_generation(
        load_recipe(args.recipe), ["base"], 0, ["bfloat16"], ["float32", "bfloat16"],
        args.plain_seconds, args.output,
    )  # fmt: skip


if __name__ == "__main__":
    run_cli(main)
