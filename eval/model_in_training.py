"""The model of a training as an engine of generation: no second copy, and nothing left changed."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from data_prep.recipe import Decoding, Recipe
from eval.attention import use_grouped_attention
from eval.generation import Settings, generate, within_memory


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Lend the model for generation; put back all that it changes, also where it fails.

    That is each module's `training` (dropout), the attention and the random states. Gradient
    checkpointing and `config.use_cache` are neither touched nor in the way: transformers
    checkpoints in training mode only, and our settings ask for the cache themselves.
    """
    bare = without_peft(model)
    training = [(module, module.training) for module in model.modules()]
    attention = bare.config._attn_implementation
    with _same_random_states(), _whole_root(model):
        try:
            model.eval()
            use_grouped_attention(bare)
            yield
        finally:
            bare.set_attn_implementation(attention)
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


class ModelInTraining:
    """An engine for `eval.generate.Summarizer`; to be used inside `undisturbed`."""

    def __init__(self, trainer: Any, recipe: Recipe, decoding: Decoding, end: int, pad: int):
        """`end` and `pad` are token ids."""
        self.trainer, self.path = trainer, recipe.path
        self.settings = Settings(decoding, end, pad, trainer.accelerator.device)
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


@contextmanager
def _same_random_states() -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)


@contextmanager
def _whole_root(model: torch.nn.Module) -> Iterator[None]:
    """Under FSDP2, gather what the outermost module keeps sharded: embeddings and head.

    Generation goes past it, to the model inside PEFT's; the layers gather their own weights.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
