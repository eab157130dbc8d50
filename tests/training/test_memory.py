"""Messages on the least memory, on measured memory and on memory that runs out."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from transformers import TrainerControl, TrainerState, TrainingArguments

from data_prep import console, machine
from data_prep.prepare import prepare
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import ROOT, command, derived_recipe, launch
from training.machine_checks import NF4, count_weights, least_memory, what_to_change
from training.plugin import explain, install_error_hook
from training.resume import Progress

CUDA = "CUDA out of memory. Tried to allocate 1.95 GiB. GPU 0 has a total capacity of 39.39 GiB"


def with_keys(recipe: Recipe, **keys: Any) -> Recipe:
    return replace(recipe, config={**recipe.config, **keys})


@pytest.fixture(scope="module")
def recipe(smollm2: Path) -> Recipe:
    found = load_recipe(ROOT / "recipes/smollm2_samsum.yml")
    return with_keys(found, base_model=str(smollm2), bf16=False, optimizer="adamw_torch")


def test_weights_of_the_model_and_its_adapter_are_counted(recipe: Recipe) -> None:
    weights = count_weights(recipe)
    assert (weights.parameters, weights.adapter) == (134_515_008, 4_884_480)
    assert weights.vocabulary == 49_152 and weights.head == 49_152 * 576
    assert weights.linear == 134_515_008 - weights.head - 61 * 576  # head and embedding are tied


@pytest.fixture(scope="module")
def full(recipe: Recipe) -> float:
    """The bytes of fp32 weights, AdamW and the loss function of transformers."""
    least = least_memory(recipe, 1000)
    assert least and least.total == 4 * 134_515_008 + 16 * 4_884_480 + 8 * 1000 * 49_152
    return least.total


@pytest.mark.parametrize(
    ("keys", "saved"),
    [
        ({"bf16": True}, 2 * 134_515_008),
        ({"bf16": "auto"}, 2 * 134_515_008),
        ({"optimizer": "adamw_8bit"}, 6 * 4_884_480),
        ({"optimizer": "paged_adamw_32bit"}, 8 * 4_884_480),
        ({"cut_cross_entropy": True}, 8 * 1000 * 49_152),
        ({"load_in_4bit": True}, (4 - NF4) * (134_515_008 - 49_152 * 576 - 61 * 576)),
    ],
)
def test_the_least_memory(recipe: Recipe, full: float, keys: dict[str, Any], saved: float) -> None:
    less = least_memory(with_keys(recipe, **keys), 1000)
    assert less and full - less.total == pytest.approx(saved)


def test_no_bound_is_given_for_sharded_weights(recipe: Recipe) -> None:
    assert least_memory(with_keys(recipe, deepspeed="zero3.json"), 1000) is None


def test_preflight_refuses_a_card_that_is_too_small(tiny_smollm2: Path, tmp_path: Path) -> None:
    path = derived_recipe("smollm2_samsum", tmp_path, "r", base_model=str(tiny_smollm2))
    prepare(load_recipe(path))
    line = ("python", "-m", "training.preflight", path, "--no-sample", "--gpu-memory")
    done = command(*line, 0.01)
    assert done.returncode == 2 and "memory  at least " in done.stdout
    assert re.search(r"1\. .*needs at least .* the GPU of --gpu-memory has 0.0 GB", done.stderr)
    assert "1. `micro_batch_size: 2`" in done.stderr


def test_training_ends_with_a_line_of_figures(capsys: pytest.CaptureFixture[str]) -> None:
    progress, control = Progress(), TrainerControl()
    args = TrainingArguments("out", use_cpu=True)
    state = TrainerState(max_steps=4, global_step=2, is_world_process_zero=True)
    progress.on_train_begin(args, state, control)
    for loss in ("1.81449", 1.5):
        progress.on_log(args, state, control, logs={"loss": loss})
        progress.on_step_end(args, state, control)
    progress.on_log(args, state, control, logs={"eval_loss": 1.309, "train_loss": 9})
    progress.on_train_end(args, state, control)
    (line,) = capsys.readouterr().out.splitlines()
    measured = r"0:00:0\d, loss 1\.500, validation 1\.309, peak \d+\.\d GB"
    assert re.fullmatch(rf"trained 4 steps, {measured}: out", line)


def test_the_peak_on_a_gpu_survives_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Axolotl resets PyTorch's peak at each log; the card is faked, for there is none here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")
    monkeypatch.setattr(machine, "_peak_on_gpu", 0)
    for now, peak in ((20e9, 20.0), (27e9, 27.0), (16e9, 27.0)):
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda now=now: now)
        assert machine.usage() == ("Some Card x 1", peak)


def test_out_of_memory_suggests_three_keys_in_order(recipe: Recipe) -> None:
    words = explain(recipe, torch.OutOfMemoryError(CUDA))
    assert words and words.startswith(f"{recipe.path}: memory ran out (1.95 GiB more were needed)")
    first, second, third = (words.index(f"{n}. ") for n in (1, 2, 3))
    assert "`micro_batch_size: 2` with `gradient_accumulation_steps: 2`" in words[first:second]
    assert "`gradient_checkpointing: true`" in words[second:third]
    assert "`adapter: qlora` with `load_in_4bit: true`" in words[third:] and "4. " not in words


def test_savings_already_in_the_recipe_are_not_suggested() -> None:
    saving = {"micro_batch_size": 1, "gradient_checkpointing": True, "load_in_4bit": True,
              "sequence_len": 2048, "optimizer": "adamw_8bit"}  # fmt: skip
    text = what_to_change(saving)
    assert "1. `sequence_len: 1024`" in text and "2. a smaller `lora_r`" in text
    assert "3. " not in text


def test_other_errors_keep_their_traceback(recipe: Recipe) -> None:
    for error in (RuntimeError("shape mismatch"), OSError(5, "I/O error"), KeyError("x")):
        assert explain(recipe, error) is None


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_a_full_disk_is_one_line(recipe: Recipe) -> None:
    weights = torch.zeros(1 << 20)
    rust = SafetensorError("I/O error: No space left on device (os error 28)")
    for save in (
        lambda: torch.save(weights, "/dev/full"),
        lambda: torch.save(weights, "/dev/full", _use_new_zipfile_serialization=False),
        lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"x"),
        lambda: (_ for _ in ()).throw(rust),  # as on a disk of 1 MB; it would replace /dev/full
    ):
        with pytest.raises((OSError, RuntimeError, SafetensorError)) as full:
            save()
        assert "no space is left on the disk of" in str(explain(recipe, full.value))
    shm = RuntimeError(
        "unable to write to file </torch_1>: No space left on device (28) in /dev/shm"
    )
    assert "run with `--shm-size 8g`" in str(explain(recipe, shm))


def test_a_bug_shows_muted_output_and_its_traceback(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr(console, "unmute", shown.append)
    monkeypatch.setattr(sys, "excepthook", lambda *of: shown.extend(of))
    install_error_hook(recipe)
    sys.excepthook(KeyError, error := KeyError("x"), None)
    assert shown == [30, KeyError, error, None]


STARVING = """
import resource
from axolotl.integrations.base import BasePlugin

class StarvingPlugin(BasePlugin):
    def post_trainer_create(self, cfg, trainer):
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (60 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space")
def test_a_training_that_runs_out_of_memory_ends_with_one_line(
    tmp_path: Path, tiny_smollm2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real shortage: once the trainer exists, 60 MiB are left; the logits need more."""
    (tmp_path / "starving.py").write_text(STARVING, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    monkeypatch.syspath_prepend(tmp_path)
    plugins = ["training.plugin.SummarizationPlugin", "starving.StarvingPlugin"]
    path = derived_recipe("smollm2_samsum", tmp_path, "r", base_model=str(tiny_smollm2),
                          bf16=False, plugins=plugins)  # fmt: skip
    prepare(load_recipe(path))
    done = launch(path)
    lines = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1, done.stderr[-2000:]
    assert "memory ran out" in lines[0] and "1. `micro_batch_size: 2`" in lines[0]
    assert done.returncode == 2
    assert "RuntimeError" not in done.stderr
