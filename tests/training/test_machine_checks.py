"""Requirements of a recipe that the machine does not meet, reported before anything is loaded."""

import json
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from axolotl.utils.config import validate_config
from axolotl.utils.dict import DictDefault
from transformers.utils import is_flash_attn_2_available

from data_prep.recipe import find_problems
from tests.conftest import ROOT, launch
from training.machine_checks import (
    LORA_KERNELS,
    cpu_overrides,
    lone_process_problems,
    machine_problems,
    old_card_overrides,
)

PATH = Path("recipes/mistral_samsum.yml")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def config(name: str = "mistral_samsum", **changed: Any) -> dict[str, Any]:
    return {**yaml.safe_load((ROOT / f"recipes/{name}.yml").read_text("utf-8")), **changed}


@no_gpu
def test_a_gpu_recipe_without_a_gpu_lists_keys_cause_and_flags() -> None:
    (problem,) = machine_problems(PATH, config())
    assert problem.startswith(f"{PATH}: `tf32: true`, `liger_rms_norm: true`")
    assert "need a GPU, and " in problem
    if torch.version.cuda is None:
        assert "is built without CUDA: install its CUDA build" in problem
    assert "--tf32 false --liger_rms_norm false --lora_mlp_kernel false" in problem
    (problem,) = machine_problems(PATH, config(attn_implementation="flash_attention_2"))
    assert problem.startswith(f"{PATH}: `attn_implementation: flash_attention_2`, `tf32: true`")
    assert "--attn_implementation sdpa --tf32 false" in problem


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
def test_errors_of_the_driver_are_quoted(
    monkeypatch: pytest.MonkeyPatch, words: str | None, said: str
) -> None:
    """With the messages of PyTorch's CUDA builds, none of which is installed here."""

    def init() -> None:
        if words:
            raise RuntimeError(words)

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", init)
    (problem,) = machine_problems(PATH, config())
    assert said in problem and "\n" not in problem


@no_gpu
def test_the_suggested_flags_are_enough() -> None:
    for name in ("mistral_samsum", "mistral_samsum_qlora", "mistral_samsum_notebook"):
        before = config(name)
        assert machine_problems(PATH, before)
        assert not machine_problems(PATH, {**before, **cpu_overrides(before)})
    assert cpu_overrides(config("mistral_samsum_notebook")) == {
        "fp16": False, "optimizer": "adamw_torch",
    }  # fmt: skip


@no_gpu
def test_recipes_for_a_cpu_have_no_problem_there() -> None:
    for path in (ROOT / "recipes").glob("*.yml"):
        for_gpu = not path.stem.startswith("smollm2") or path.stem.endswith("_gpu")
        assert bool(machine_problems(path, config(path.stem))) is for_gpu, path


@no_gpu
def test_deepspeed_is_refused_on_a_cpu() -> None:
    smollm2 = config("smollm2_samsum", deepspeed="recipes/distributed/zero2.json")
    (problem,) = machine_problems(PATH, smollm2)
    assert "deepspeed needs GPUs" in problem and "leave `--deepspeed` out" in problem


def on_a_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], *built: str) -> None:
    """Fake a card: the checks call only these functions of PyTorch, and there is no card here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(built))


def test_flash_attention_is_found_as_a_package_or_the_hubs_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Axolotl's own check, which finds the Hub's kernel in the folder given by LOCAL_KERNELS."""
    if is_flash_attn_2_available():
        pytest.skip("the package flash-attn is installed here")
    wanted = config(attn_implementation="flash_attention_2")
    assert not find_problems(PATH, wanted)  # no GPU: the recipe may be for another machine
    on_a_card(monkeypatch, (8, 0), "sm_80", "sm_90")
    (problem,) = find_problems(PATH, wanted)  # HF_HUB_OFFLINE: there is no kernel
    assert "no flash-attn build is available" in problem
    assert "set `attn_implementation: sdpa`" in problem
    assert not find_problems(PATH, config()) and not machine_problems(PATH, config())
    about = {"id": "it", "name": "flash-attn2", "version": 2, "license": "BSD-3-Clause",
             "python-depends": [], "backend": {"type": "cuda"}}  # fmt: skip
    (tmp_path / "metadata.json").write_text(json.dumps(about), "utf-8")
    (tmp_path / "__init__.py").write_text("def flash_attn_varlen_func(): ...\n", "utf-8")
    monkeypatch.setenv("LOCAL_KERNELS", f"kernels-community/flash-attn2={tmp_path}")
    assert not find_problems(PATH, wanted) and not machine_problems(PATH, wanted)


@pytest.mark.parametrize("attention", ["sdpa", "flash_attention_2"])
def test_a_card_that_is_too_old(monkeypatch: pytest.MonkeyPatch, attention: str) -> None:
    on_a_card(monkeypatch, (7, 5), "sm_75", "sm_80")
    wanted = config("mistral_samsum_qlora", attn_implementation=attention)
    (problem,) = machine_problems(PATH, wanted)
    assert "Some Card (sm_75) is older than Ampere" in problem
    assert "--bf16 false --fp16 true --tf32 false " in problem
    assert ("--attn_implementation sdpa" in problem) == (attention != "sdpa")
    assert "--sdpa_varlen false`" in problem  # Axolotl's varlen attention does not check the card
    assert not machine_problems(PATH, {**wanted, **old_card_overrides(wanted)})
    assert not machine_problems(PATH, config("mistral_samsum_notebook"))  # fp16, no packing


def test_the_flags_for_an_old_card_pass_axolotls_checks_for_a_t4() -> None:
    wanted = config("mistral_samsum_qlora")
    del wanted["summarization"], wanted["plugins"]  # ours checks this machine, and Liger's none
    done = validate_config(
        DictDefault({**wanted, **old_card_overrides(wanted)}),
        capabilities={"bf16": False, "tf32": False, "fp8": False, "n_gpu": 1, "n_node": 1,
                      "compute_capability": "sm_75"},
        env_capabilities={"torch_version": "2.13.0"},
    )  # fmt: skip
    assert done.fp16 and not done.bf16 and not done.tf32 and done.sdpa_varlen is False
    assert done.attn_decontaminates_packing  # by a mask


def test_a_card_that_is_too_new_or_too_old_for_this_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_card(monkeypatch, (12, 0), "sm_80", "sm_90")
    (problem,) = machine_problems(PATH, config(attn_implementation="sdpa"))
    assert "Some Card is sm_120, and this PyTorch is built for sm_80, sm_90" in problem
    on_a_card(monkeypatch, (7, 0), "sm_75", "sm_80")
    plain = config(attn_implementation="sdpa", bf16=False, tf32=False, sample_packing=False)
    (problem,) = machine_problems(PATH, plain)
    assert "Some Card is sm_70" in problem and "install a build for an older CUDA" in problem
    on_a_card(monkeypatch, (12, 0), "sm_80", "compute_90")  # PTX, compiled for the card if needed
    assert not machine_problems(PATH, config(attn_implementation="sdpa"))


def test_one_process_that_sees_several_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert not lone_process_problems(PATH, {})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    (problem,) = lone_process_problems(PATH, {})
    assert "sees 8 GPUs" in problem and "`export CUDA_VISIBLE_DEVICES=0`" in problem
    assert not lone_process_problems(PATH, {"use_ray": True})
    monkeypatch.setenv("LOCAL_RANK", "7")
    assert not lone_process_problems(PATH, {})


def test_no_c_compiler_or_no_headers_for_triton(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_a_card(monkeypatch, (8, 0), "sm_80")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        patch.delenv("CC", raising=False)
        (problem,) = machine_problems(PATH, config(attn_implementation="sdpa"))
        assert "Triton" in problem and "lacks a C compiler" in problem
        on_its_own = config("smollm2_samsum", bf16=False)  # Axolotl switches the kernels on
        assert "lora_mlp_kernel: Triton" in machine_problems(PATH, on_its_own)[0]
        off = dict.fromkeys(LORA_KERNELS, False)
        assert not machine_problems(PATH, {**on_its_own, **off})
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    (problem,) = machine_problems(PATH, config(attn_implementation="sdpa"))
    assert f"lacks Python.h in {tmp_path}; install gcc and Python's headers" in problem


@no_gpu
@pytest.mark.slow
def test_the_launch_line_of_a_gpu_recipe_without_a_gpu() -> None:
    done = launch(ROOT / PATH)
    assert "error: " in done.stderr and "need a GPU, and " in done.stderr
    assert done.returncode == 2 and "Traceback" not in done.stderr
