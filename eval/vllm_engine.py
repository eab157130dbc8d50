"""The vLLM engine, for GPUs with vLLM installed: `engine: vllm`, see docs/engines.md.

It gets the same token ids as the default engine, and every sampling setting is passed explicitly
(otherwise the model's own generation config would fill the gaps). On a GPU in 16 bits, a plain LoRA
stays beside the weights. Otherwise the adapter is merged first, because vLLM's LoRA is slow on a
CPU, its kernels do not support fp32, and it supports no other adapters.
"""

import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from data_prep.errors import UserError
from data_prep.hub import model_arguments
from data_prep.machine import free_memory
from data_prep.recipe import Recipe, sequence_len
from data_prep.settings import Decoding
from eval.adapter import is_plain_lora
from eval.hf_engine import HfEngine
from eval.signature import quantization

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM accepts
# On a CPU, vLLM would take 92 % of all memory for its cache, and fail if that is not free.
CPU_CACHE = 2 << 30  # bytes: 46,000 tokens of SmolLM2-135M's keys and values in fp32


class VllmEngine:
    """vLLM with the base model; the tuned one is a request's adapter or a separate model."""

    def __init__(
        self,
        recipe: Recipe,
        decoding: Decoding,
        ends: list[int],
        pad: int,
        vocabulary: int,
        adapter: Path | None,
    ):
        """Raise UserError if vLLM is not installed; it starts with the first `generate`.

        `adapter`: the adapter's folder, if one is used; the other arguments are as for `HfEngine`.
        """
        self.recipe, self.decoding, self.ends = recipe, decoding, ends
        self.pad, self.vocabulary, self.lora = pad, vocabulary, None
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # on a GPU it sends usage data
        if kind := quantization(recipe.config):
            raise UserError(
                f"{recipe.path}: engine vllm runs the base model as it was saved, but this recipe "
                f"trains and evaluates it in {kind}; set `engine: hf`"
            )
        if not find_spec("vllm"):
            raise UserError(
                f"{recipe.path}: summarization.decoding.engine is vllm, which is not installed; "
                "install it as in docs/engines.md, or set `engine: hf`"
            )
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(
                f"{recipe.path}: engine vllm would start on the same card in every process; start "
                "one process, or set `engine: hf`"
            )
        plain = adapter is not None and is_plain_lora(adapter)
        on_gpu = torch.cuda.is_available() and decoding.dtype != "float32"
        self.beside = adapter if plain and on_gpu else None
        self.merged = tempfile.TemporaryDirectory()
        self.llm: Any = None
        self.model, self.settings = recipe.config["base_model"], model_arguments(recipe.config)

    def attach_adapter(self, folder: Path) -> None:
        """Use the adapter for every later request; raises UserError if it does not fit."""
        if self.beside:
            from vllm.lora.request import LoRARequest

            self.lora = LoRARequest("tuned", 1, str(folder))
            return
        self.llm = None
        free_memory()  # ends vLLM's own process, which holds the base model
        engine = HfEngine(self.recipe, self.decoding, self.ends, self.pad, self.vocabulary)
        engine.attach_adapter(folder)
        if not engine.merged:
            raise UserError(
                f"{folder}: this adapter changes tied embeddings, so it cannot be merged for "
                "vLLM; set `engine: hf`"
            )
        engine.model.save_pretrained(self.merged.name)
        del engine
        free_memory()  # vLLM asks for nine tenths of the card
        self.model = self.merged.name
        remote_code = bool(self.recipe.config.get("trust_remote_code"))
        self.settings = {"trust_remote_code": remote_code}

    def _start(self, longest: int) -> Any:
        """Start vLLM with the model, for prompts of at most `longest` tokens."""
        settings = dict(self.settings)
        if self.beside:
            rank = json.loads((self.beside / "adapter_config.json").read_text("utf-8"))["r"]
            max_rank = next((size for size in LORA_RANKS if size >= rank), rank)
            settings |= {"enable_lora": True, "max_lora_rank": max_rank}
        if not torch.cuda.is_available():
            if hasattr(os, "sched_getaffinity"):  # by default vLLM leaves one core idle
                cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
                os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", cores)
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
                settings["kv_cache_memory_bytes"] = CPU_CACHE
        try:
            from vllm import LLM

            return LLM(
                model=self.model,
                dtype=self.decoding.dtype,
                seed=self.decoding.seed,
                generation_config="vllm",
                max_model_len=longest + self.decoding.max_new_tokens,
                skip_tokenizer_init=True,
                **settings,
            )
        except (ImportError, RuntimeError, ValueError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.recipe.path}: vLLM does not start ({reason}); the first error in its log "
                "above says why: fix that, or set `engine: hf`"
            ) from error

    def generate(self, prompts: list[list[int]], seed: int) -> list[list[int]]:
        """Return the new token ids of each prompt, in order, including the end token."""
        from vllm import SamplingParams

        decoding = self.decoding
        if self.llm is None:  # the longest prompts come first, except in a chat
            self.llm = self._start(max(sequence_len(self.recipe.config), *map(len, prompts)))
        sampling = SamplingParams(
            n=1,
            temperature=decoding.temperature if decoding.do_sample else 0.0,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            min_p=0.0,
            repetition_penalty=decoding.repetition_penalty,
            presence_penalty=0.0,
            frequency_penalty=0.0,
            max_tokens=decoding.max_new_tokens,
            min_tokens=decoding.min_new_tokens,
            stop_token_ids=self.ends,
            ignore_eos=True,  # the model's own end token may differ from training's
            seed=seed if decoding.do_sample else None,
        )
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = self.llm.generate(requests, sampling, lora_request=self.lora, use_tqdm=False)
        return [list(request.outputs[0].token_ids) for request in outputs]
