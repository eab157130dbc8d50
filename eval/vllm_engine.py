"""The engine for GPUs where vLLM is installed: `engine: vllm`, `pip install -e ".[vllm]"`.

Written against vLLM 0.20.2; the extra takes 0.23.0, the newest that resolves with axolotl 0.19.0
(with torch 2.11). Not run yet. It gets the same token ids as the default engine, every sampling
setting by name (otherwise a model's own generation config would fill the gaps), and the adapter
from the same folder.
"""

import json
import os
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.hub import model_arguments
from data_prep.recipe import Recipe, sequence_len
from data_prep.settings import Decoding
from eval.signature import quantization

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM accepts


class VllmEngine:
    """vLLM with the base model; a request names the adapter, so that both models are available."""

    def __init__(
        self, recipe: Recipe, decoding: Decoding, ends: list[int], pad: int, adapter: Path | None
    ):
        """Start vLLM; raises UserError where it is not installed or does not start."""
        self.decoding, self.ends, self.lora = decoding, ends, None
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # on a GPU it sends usage data
        if kind := quantization(recipe.config):
            raise UserError(
                f"{recipe.path}: engine vllm runs the base model as it is saved, and this recipe "
                f"trains and evaluates it in {kind}; set `engine: hf`"
            )
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                f"{recipe.path}: summarization.decoding.engine is vllm, which is not installed "
                f'({error}); `pip install -e ".[vllm]"` on a GPU, or set `engine: hf`'
            ) from error
        settings: dict[str, Any] = {}
        if adapter:
            rank = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"]
            room = next((size for size in LORA_RANKS if size >= rank), rank)
            settings = {"enable_lora": True, "max_lora_rank": room}
        try:
            self.llm = LLM(
                model=recipe.config["base_model"],
                **model_arguments(recipe.config),
                dtype=decoding.dtype,
                seed=decoding.seed,
                generation_config="vllm",
                max_model_len=sequence_len(recipe.config) + decoding.max_new_tokens,
                **settings,
            )
        except (RuntimeError, ValueError, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{recipe.path}: vLLM does not start ({reason}); fix that or set `engine: hf`"
            ) from error

    def attach_adapter(self, folder: Path) -> None:
        """Use the adapter for every later request."""
        from vllm.lora.request import LoRARequest

        self.lora = LoRARequest("tuned", 1, str(folder))

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
        made = self.llm.generate(requests, sampling, lora_request=self.lora, use_tqdm=False)
        return [list(request.outputs[0].token_ids) for request in made]
