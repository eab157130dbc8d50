"""The engine for GPUs where vLLM is installed: `engine: vllm`, see docs/engines.md.

It gets the same token ids as the default engine and every sampling setting by name (otherwise a
model's own generation config would fill the gaps). On a GPU in 16 bits the adapter stays beside the
weights; else it is merged first, since vLLM's LoRA is slow on a CPU and its kernels refuse fp32.
"""

import gc
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import UserError
from data_prep.hub import model_arguments
from data_prep.recipe import Recipe, sequence_len
from data_prep.settings import Decoding
from eval.hf_engine import HfEngine
from eval.signature import quantization

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM accepts
# On a CPU vLLM would take 92 % of all memory for its cache, and stop where that is not free.
CPU_CACHE = 2 << 30  # bytes: of SmolLM2-135M's keys and values in fp32, 46,000 tokens


class VllmEngine:
    """vLLM with the base model; the tuned one is a request's adapter, or a model of its own."""

    def __init__(
        self,
        recipe: Recipe,
        decoding: Decoding,
        ends: list[int],
        pad: int,
        vocabulary: int,
        adapter: Path | None,
    ):
        """Start vLLM; raises UserError where it is not installed or does not start.

        The other arguments are those of `HfEngine`; `adapter` is its folder, where one is used.
        """
        self.recipe, self.decoding, self.ends = recipe, decoding, ends
        self.pad, self.vocabulary, self.lora = pad, vocabulary, None
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # on a GPU it sends usage data
        if kind := quantization(recipe.config):
            raise UserError(
                f"{recipe.path}: engine vllm runs the base model as it is saved, and this recipe "
                f"trains and evaluates it in {kind}; set `engine: hf`"
            )
        self.merges = not torch.cuda.is_available() or decoding.dtype == "float32"
        beside = None if self.merges else adapter
        self.llm = self._start(recipe.config["base_model"], model_arguments(recipe.config), beside)

    def attach_adapter(self, folder: Path) -> None:
        """Use the adapter for every later request; raises UserError where it does not fit."""
        if not self.merges:
            from vllm.lora.request import LoRARequest

            self.lora = LoRARequest("tuned", 1, str(folder))
            return
        self.llm = None
        gc.collect()  # ends vLLM's own process, which holds the base model
        engine = HfEngine(self.recipe, self.decoding, self.ends, self.pad, self.vocabulary)
        engine.attach_adapter(folder)
        if not engine.merged:
            raise UserError(
                f"{folder}: changes embeddings that are one matrix, and cannot be merged for "
                "vLLM; set `engine: hf`"
            )
        with tempfile.TemporaryDirectory() as merged:
            engine.model.save_pretrained(merged)
            del engine
            more = {"trust_remote_code": bool(self.recipe.config.get("trust_remote_code"))}
            self.llm = self._start(merged, more, None)

    def _start(self, model: str, more: dict[str, Any], adapter: Path | None) -> Any:
        path, settings = self.recipe.path, dict(more)
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"{path}: summarization.decoding.engine is vllm, which is not installed "
                f"({error}); docs/engines.md says how, or set `engine: hf`"
            ) from error
        if adapter:
            rank = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"]
            room = next((size for size in LORA_RANKS if size >= rank), rank)
            settings |= {"enable_lora": True, "max_lora_rank": room}
        if not torch.cuda.is_available():
            if hasattr(os, "sched_getaffinity"):  # by itself vLLM leaves one core idle
                cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
                os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                settings["kv_cache_memory_bytes"] = CPU_CACHE
        try:
            return LLM(
                model=model,
                dtype=self.decoding.dtype,
                seed=self.decoding.seed,
                generation_config="vllm",
                max_model_len=sequence_len(self.recipe.config) + self.decoding.max_new_tokens,
                skip_tokenizer_init=True,
                **settings,
            )
        except (RuntimeError, ValueError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{path}: vLLM does not start ({reason}); the first error in its log above says "
                "why: fix that, or set `engine: hf`"
            ) from error

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """New token ids of each prompt, in their order, the end token included."""
        from vllm import SamplingParams

        chosen = self.decoding
        sampling = SamplingParams(
            n=1,
            temperature=chosen.temperature if chosen.do_sample else 0.0,
            top_p=chosen.top_p,
            top_k=chosen.top_k,
            min_p=0.0,
            repetition_penalty=chosen.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=chosen.max_new_tokens,
            min_tokens=chosen.min_new_tokens,
            stop_token_ids=self.ends,
            ignore_eos=True,  # the model's own end token may differ from training's
            seed=seed if chosen.do_sample else None,
        )
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self.llm.generate(requests, sampling, lora_request=self.lora, use_tqdm=False)
        return [list(request.outputs[0].token_ids) for request in outputs]
