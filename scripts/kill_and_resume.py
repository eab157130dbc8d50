"""Kill a training with kill -9 at random moments, run the same command again, compare the end.

    python scripts/kill_and_resume.py --rounds 20

Trains smollm2_samsum.yml in fp32 on 8 of its rows once undisturbed. Then each round starts the
launch line and kills it: at any moment, while it trains, or while it saves a checkpoint. After
a few kills a training is left alone to finish; its adapter and its losses must be the undisturbed
ones, bit for bit, and no whole checkpoint may be passed over. Exits with 1 where that fails.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from training.checkpoints import checkpoints, newest_whole, number_of, what_is_broken

RECIPE = Path("recipes/smollm2_samsum.yml")
SMALL: dict[str, Any] = {
    "bf16": False,
    "num_epochs": 2,  # so that a restart in the second epoch is among the kills
    "micro_batch_size": 1,
    "lora_dropout": 0.1,  # so that the random state matters
    "logging_steps": 3,  # not a divisor of save_steps, so that the loss between two logs matters
    "save_steps": 2,
    "eval_steps": 8,
    "save_total_limit": 2,
}
KILLS_A_TRAINING = 4


def main() -> None:
    """Run the rounds and print one line for each."""
    args = _arguments()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.tiny:
            SMALL["base_model"] = _tiny_model(folder / "tiny")
        whole, seconds = _undisturbed(folder)
        print(f"undisturbed: {len(whole['losses'])} losses logged, {seconds:.0f} s", flush=True)
        failures = rounds = kills = trainings = 0
        while rounds < args.rounds:
            trainings += 1
            recipe = _write_recipe(folder, f"training-{trainings}")
            for _ in range(min(KILLS_A_TRAINING, args.rounds - rounds)):
                rounds += 1
                good, killed = _round(rounds, recipe, rng, seconds)
                failures, kills = failures + (not good), kills + killed
            failures += not _finish(trainings, recipe, whole)
    print(f"{rounds} rounds: {kills} kills, {rounds - kills} came after the end; "
          f"{trainings} trainings finished, {failures} failures")  # fmt: skip
    sys.exit(1 if failures else 0)


def _tiny_model(folder: Path) -> str:
    """SmolLM2's tokenizer with a random model, whose steps take no time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    name = yaml.safe_load(RECIPE.read_text("utf-8"))["base_model"]
    config = AutoConfig.from_pretrained(name)
    config.hidden_size, config.num_attention_heads, config.num_key_value_heads = 64, 4, 2
    config.head_dim, config.num_hidden_layers, config.layer_types = 16, 2, None
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(name).save_pretrained(folder)
    return str(folder)


def _undisturbed(folder: Path) -> tuple[dict[str, Any], float]:
    recipe = _write_recipe(folder, "undisturbed")
    subprocess.run([sys.executable, "-m", "data_prep", recipe], check=True, capture_output=True)
    start = time.monotonic()
    process = _launch(recipe)
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"the undisturbed training failed:\n{errors[-3000:]}")
    return _result(_output(recipe)), time.monotonic() - start


def _write_recipe(folder: Path, name: str) -> Path:
    """A recipe with an output folder of its own; all of them share the prepared rows."""
    config = yaml.safe_load(RECIPE.read_text("utf-8"))
    config.pop("eval_strategy")
    for key, split in (("datasets", "train"), ("test_datasets", "validation")):
        config[key][0]["path"] = str(folder / f"data/{split}.jsonl")
    config["summarization"]["train_rows"] = 8
    config |= {**SMALL, "output_dir": str(folder / name / "output")}
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


def _output(recipe: Path) -> Path:
    return Path(yaml.safe_load(recipe.read_text("utf-8"))["output_dir"])


def _launch(recipe: Path) -> subprocess.Popen[str]:
    """Start the README's launch line in a process group of its own."""
    accelerate = Path(sys.executable).with_name("accelerate")
    return subprocess.Popen(
        [accelerate, "launch", "-m", "axolotl.cli.train", recipe],
        env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def _round(number: int, recipe: Path, rng: random.Random, seconds: float) -> tuple[bool, bool]:
    """Start, kill, and say what was left.

    Whether no whole checkpoint was passed over, and whether the kill came before the end.
    """
    output = _output(recipe)
    before = newest_whole(output)
    process = _launch(recipe)
    moment = rng.choice(["any moment", "training", "saving", "saving"])
    _wait_for(moment, process, output, rng, seconds)
    ended = process.poll() is not None
    if not ended:
        os.killpg(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    went_on = [line for line in errors.splitlines() if line.startswith("going on from ")]
    asked = f"going on from {before}" if before else None
    good = not went_on or went_on[0] == asked  # killed before it said so: nothing to check
    left = [f"{number_of(c)}{' broken' * bool(what_is_broken(c))}" for c in checkpoints(output)]
    print(
        f"round {number}: {'finished before it' if ended else moment}; went on from step "
        f"{number_of(before) if before and went_on else 0}; left checkpoints {left or 'none'}"
        f"{'' if good else '; PASSED OVER ' + str(before)}",
        flush=True,
    )
    return good, not ended


def _wait_for(
    moment: str, process: subprocess.Popen[str], output: Path, rng: random.Random, seconds: float
) -> None:
    """Wait until the random moment at which to kill, or until the training ends."""
    known = {path.name for path in checkpoints(output)}

    def saving() -> bool:
        return any(path.name not in known for path in output.glob("checkpoint-*"))

    end = time.monotonic() + rng.uniform(0, seconds)
    wanted = rng.randint(1, 2)  # which of the saves
    while process.poll() is None:
        if moment == "any moment" and time.monotonic() > end:
            return
        if moment != "any moment" and saving():
            wanted -= 1
            known |= {path.name for path in checkpoints(output)}
            if not wanted:
                time.sleep(rng.uniform(0, 0.06 if moment == "saving" else 2.0))
                return
        time.sleep(0.001)


def _finish(number: int, recipe: Path, whole: dict[str, Any]) -> bool:
    process = _launch(recipe)
    _, errors = process.communicate()
    found = _result(_output(recipe)) if process.returncode == 0 else {}
    same = {key: found.get(key) == whole[key] for key in whole}
    aside = len(list(_output(recipe).glob("set-aside-*")))
    print(
        f"training {number} finished with code {process.returncode}; set aside: {aside}; "
        + ", ".join(f"{key} {'identical' if ok else 'DIFFER'}" for key, ok in same.items()),
        flush=True,
    )
    if process.returncode:
        print(errors[-3000:])
    return all(same.values())


def _result(output: Path) -> dict[str, Any]:
    """What must be the same: the adapter's bytes, and every loss with its step."""
    history = json.loads((output / "trainer_state.json").read_text("utf-8"))["log_history"]
    keys = ("loss", "eval_loss", "grad_norm", "learning_rate", "train_loss")
    return {
        "adapter": (output / "adapter_model.safetensors").read_bytes(),
        "losses": [[e["step"], k, e[k]] for e in history for k in keys if k in e],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=20, help="kills (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument(
        "--tiny", action="store_true", help="a random model of two layers instead of SmolLM2"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
