"""What a machine lacks for a recipe, said before anything is loaded."""

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data_prep.training import machine
from data_prep.training.machine import cpu_overrides, machine_problems
from tests.conftest import ROOT, launch

PATH = Path("recipes/mistral_samsum.yml")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def config(name: str = "mistral_samsum", **changed: Any) -> dict[str, Any]:
    return {**yaml.safe_load((ROOT / f"recipes/{name}.yml").read_text("utf-8")), **changed}


@no_gpu
def test_a_gpu_recipe_without_a_gpu_names_keys_cause_and_flags() -> None:
    (problem,) = machine_problems(PATH, config())
    assert problem.startswith(f"{PATH}: `attn_implementation: flash_attention_2`, `tf32: true`")
    assert "need a GPU, and " in problem
    if torch.version.cuda is None:
        assert "is built without CUDA: install its CUDA build" in problem
    assert "--attn_implementation sdpa --tf32 false --liger_rms_norm false" in problem


@no_gpu
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040). Please update your "
         "GPU driver by downloading", "The NVIDIA driver on your system is too old (found version "
         "11040); `nvidia-smi` shows driver and cards"),
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU",
         "Found no NVIDIA driver on your system; `nvidia-smi`"),
        (None, "none is visible; see `nvidia-smi` and CUDA_VISIBLE_DEVICES"),
    ],
)  # fmt: skip
def test_what_pytorch_says_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, words: str | None, said: str
) -> None:
    """In the words of PyTorch's CUDA builds, of which none is here."""

    def init() -> None:
        if words:
            raise RuntimeError(words)

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", init)
    (problem,) = machine_problems(PATH, config())
    assert said in problem and "\n" not in problem


@no_gpu
def test_the_flags_that_it_names_are_enough() -> None:
    for name in ("mistral_samsum", "mistral_samsum_qlora", "mistral_samsum_notebook"):
        before = config(name)
        assert machine_problems(PATH, before)
        assert not machine_problems(PATH, {**before, **cpu_overrides(before)})
    assert cpu_overrides(config("mistral_samsum_notebook")) == {
        "fp16": False, "optimizer": "adamw_torch",
    }  # fmt: skip


@no_gpu
def test_recipes_for_a_cpu_lack_nothing_there() -> None:
    for path in {*(ROOT / "recipes").glob("smollm2_*.yml")} - {
        ROOT / "recipes/smollm2_samsum_gpu.yml"
    }:
        assert machine_problems(path, config(path.stem)) == []


@no_gpu
def test_deepspeed_is_refused_on_a_cpu() -> None:
    smollm2 = config("smollm2_samsum", deepspeed="recipes/distributed/zero2.json")
    (problem,) = machine_problems(PATH, smollm2)
    assert "deepspeed needs GPUs" in problem and "leave `--deepspeed` out" in problem


def on_a_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *built: str) -> None:
    """What PyTorch says of a card; there is none here, and this is all that is asked of one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))


def test_flash_attention_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(monkeypatch, (8, 0), "sm_80", "sm_90")
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    (problem,) = machine_problems(PATH, config())
    assert "needs the package flash-attn; set `attn_implementation: sdpa`" in problem
    assert not machine_problems(PATH, config(attn_implementation="sdpa"))


def test_a_card_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(monkeypatch, (7, 5), "sm_75", "sm_80")
    monkeypatch.setattr(machine, "find_spec", lambda name: builtins)
    problems = machine_problems(PATH, config())
    assert [problem.split(": ", 1)[1] for problem in problems] == [
        "bf16: Some Card has none; set `bf16: false` and `fp16: true`",
        "flash_attention_2: Some Card is too old; set `attn_implementation: sdpa`",
    ]


def test_a_card_that_is_too_new_for_this_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(monkeypatch, (12, 0), "sm_80", "sm_90")
    (problem,) = machine_problems(PATH, config(attn_implementation="sdpa"))
    assert "Some Card is sm_120, and this PyTorch is built for sm_80, sm_90" in problem
    on_a_card(monkeypatch, (12, 0), "sm_80", "compute_90")  # its code can be compiled for the card
    assert not machine_problems(PATH, config(attn_implementation="sdpa"))


def test_no_c_compiler_for_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_card(monkeypatch, (8, 0), "sm_80")
    monkeypatch.setenv("PATH", "")
    (problem,) = machine_problems(PATH, config(attn_implementation="sdpa"))
    assert "lora_mlp_kernel: Triton compiles it with a C compiler, and none is here" in problem


@no_gpu
@pytest.mark.slow
def test_the_launch_line_of_a_gpu_recipe_without_a_gpu() -> None:
    done = launch(ROOT / PATH)
    assert "error: " in done.stderr and "need a GPU, and " in done.stderr
    assert "returned non-zero exit status 2" in done.stderr
    assert "axolotl/cli/train.py" not in done.stderr  # the one traceback is accelerate's own
