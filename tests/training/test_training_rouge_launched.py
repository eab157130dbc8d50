"""ROUGE in training with two processes, and under FSDP2."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.recipe import Recipe
from tests.conftest import ROOT, command
from tests.training.rouge_trainer import rouge_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, shallow_smollm2: Path) -> Recipe:
    return rouge_recipe(tmp_path_factory.mktemp("rouge"), shallow_smollm2)


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
from data_prep.recipe import load_recipe
from eval.generate import Summarizer
from tests.training.rouge_trainer import trainer_of

made, plain = [], Summarizer.summarize
Summarizer.summarize = lambda self, batch: made.append(batch.number) or plain(self, batch)
recipe, folder = load_recipe(sys.argv[1]), Path(sys.argv[2])
extra = {"ddp_backend": "gloo"} if "RANK" in os.environ else {}
trainer = trainer_of(recipe, folder, max_steps=1, eval_steps=1, learning_rate=0.0, **extra)
trainer.train()
figures = [entry for entry in trainer.state.log_history if "eval_rougeL" in entry]
found = {"figures": figures[0], "made": made, "in": type(trainer.model_wrapped).__name__}
(folder / (os.environ.get("RANK", "alone") + ".json")).write_text(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.longest
def test_two_processes_share_the_work_and_get_the_same_figures(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With DDP and a learning rate of 0, the figures must be those of one process."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (script := tmp_path / "two.py").write_text(TWO_PROCESSES, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for launcher in (["python"], ["torchrun", "--nproc-per-node", 2]):
        done = command(*launcher, script, recipe.path, tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, first, second = (
        json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("alone", "0", "1")
    )
    assert first["in"] == "DistributedDataParallel"
    assert first["figures"] == second["figures"]
    assert alone["made"] == sorted(first["made"] + second["made"]) and second["made"]
    for name, value in alone["figures"].items():
        if name.startswith("eval_") and name != "eval_summary_seconds":
            assert first["figures"][name] == value


FSDP2 = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM
from data_prep.settings import Decoding
from eval.hf_engine import Settings, generate
from training.rouge import generation_mode, without_peft

torch.distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
adapter = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(base, adapter)
settings = Settings(Decoding(max_new_tokens=12), [2], 2, "cpu")
prompts = [[1, 733, 16289, 28793], [1, 733]]
with generation_mode(model):
    whole = generate(base, prompts, settings)
for part in (*base.model.layers, model):  # like Accelerate
    fully_shard(part, mesh=mesh, reshard_after_forward=True)
ids = torch.tensor([[1, 733, 16289]])
with torch.no_grad():
    model(input_ids=ids)  # like the loss evaluation, which comes first
with generation_mode(model):
    assert generate(without_peft(model), prompts, settings) == whole
model.train()(input_ids=ids, labels=ids).loss.backward()
"""


@pytest.mark.slow
def test_generation_under_fsdp2(tiny_mistral: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Two processes with sharded weights generate the same ids, and training can continue."""
    (script := tmp_path / "fsdp2.py").write_text(FSDP2, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = command("torchrun", "--nproc-per-node", 2, script, tiny_mistral)
    assert done.returncode == 0, done.stderr[-3000:]
