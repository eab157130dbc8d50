"""Our Axolotl plugin: a recipe that cannot silently do the wrong thing in training.

Named in a recipe under `plugins:`. It declares the `summarization:` block, refuses what preflight
refuses, goes on from the newest whole checkpoint, logs generated ROUGE, and makes CPU training
work. On a GPU it changes nothing of how a run computes.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel, ConfigDict
from transformers import set_seed

from data_prep.errors import UserError
from data_prep.machine import bf16_is_faster, keep_freed_memory, shard_on_cpu, use_all_cores
from data_prep.prepare import check_prepared
from data_prep.recipe import Recipe
from data_prep.settings import Summarization
from data_prep.strict.problems import find_problems
from eval.adapter import (
    ADAPTER,
    TRAIN_AGAIN,
    find_adapter,
    finished,
    settings_of,
)
from training import run_record
from training.axolotl_commands import (
    EVALUATE,
    INFERENCE,
    OF_AN_ADAPTER,
    axolotl_command,
    drop_passed_on,
)
from training.checkpoints import cache_folder, newest_whole, set_aside_cut_caches, set_aside_others
from training.failures import end_in_one_line
from training.machine_checks import machine_problems
from training.preflight import Report, look, show
from training.resume import ExactResume

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel", "lora_embedding_kernel")


class SummarizationArgs(BaseModel):
    """Mixed into Axolotl's schema; `forbid` makes its whole top level strict."""

    model_config = ConfigDict(extra="forbid")

    summarization: Summarization


class SummarizationPlugin(BasePlugin):
    """The hooks, in the order in which Axolotl calls them."""

    def __init__(self) -> None:
        """Axolotl makes one for a run."""
        super().__init__()
        self._asked: dict[str, Any] = {}
        self._callbacks: list[Any] = []
        self._trainer: Any = None
        self._steps = 0
        self._lock: Any = None

    def get_input_args(self) -> str:
        """Name the pydantic class of our block."""
        return "training.plugin.SummarizationArgs"

    def register(self, cfg: dict[str, Any]) -> None:
        """Before validation: refuse a recipe that says what Axolotl would drop or turn off."""
        path, command = Path(cfg["axolotl_config_path"]), axolotl_command()
        drop_passed_on(command, yaml.safe_load(path.read_text("utf-8")), cfg)
        self._asked = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
        # read again, with what the merge overrides; in a recipe the key switches nothing off
        if cfg.get("merge_lora") and command == "merge-lora":
            return
        with ending_with_one_line():
            refuse(find_problems(path, self._asked))
            end_in_one_line(recipe_of(cfg))
            if command in OF_AN_ADAPTER:
                self._use_adapter(cfg, command)
            else:
                refuse(run_record.output_dir_problems(path, self._asked))
            if command == "merge-lora":  # it trains nothing, and a CPU will do
                return
            refuse(machine_problems(path, self._asked))
        if cfg.get("auto_resume_from_checkpoints") is None:
            cfg["auto_resume_from_checkpoints"] = True  # the same command again resumes
        if cfg.get("dataset_prepared_path") is None:  # else preprocess would use another default
            cfg["dataset_prepared_path"] = str(recipe_of(cfg).data_dir / "tokenized")
        if not torch.cuda.is_available():
            self._use_cpu(cfg)
        if command == "evaluate":  # for which Axolotl does not call `load_datasets`
            with first_process_first(), ending_with_one_line():
                self._use_prepared(cfg, recipe_of(cfg))

    def _use_adapter(self, cfg: dict[str, Any], command: str) -> None:
        """Name the trained adapter, which Axolotl's other commands do not look for by themselves.

        One that the user named is used as it is.
        """
        if cfg.get("lora_model_dir") is None:
            asked = Recipe(
                Path(cfg["axolotl_config_path"]), self._asked, recipe_of(cfg).summarization
            )
            cfg["lora_model_dir"] = str(find_adapter(asked))
        note = {"evaluate": EVALUATE, "inference": INFERENCE}.get(command)
        if note and is_first_process():
            print(note.format(recipe=cfg["axolotl_config_path"]), file=sys.stderr)

    def _use_cpu(self, cfg: dict[str, Any]) -> None:
        use_all_cores()
        keep_freed_memory()
        shard_on_cpu()
        for kernel in LORA_KERNELS:  # Triton kernels; Axolotl switches them on by itself
            cfg[kernel] = False
        if cfg.get("bf16") == "auto":  # Axolotl would take fp16, which is slow on a CPU
            before = run_record.precision_of(Path(cfg["output_dir"]))  # a measurement may flip
            cfg["bf16"], cfg["fp16"] = before.get("bf16", bf16_is_faster()), False

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Before the data are read: the rest of preflight, then where to go on from."""
        if not torch.cuda.is_available():
            cfg["device_map"] = {"": "cpu"}  # Axolotl would give each process a GPU of its own
        with first_process_first(), ending_with_one_line():
            recipe = recipe_of(cfg)
            files = self._use_prepared(cfg, recipe)
            if not preprocess:
                self._preflight(recipe)  # before anything is written or renamed
                self._begin(cfg, recipe, files)

    def _use_prepared(self, cfg: Any, recipe: Recipe) -> dict[str, str]:
        """Point Axolotl at the tokenised rows of these very files; their hashes by name."""
        files = check_prepared(recipe)["files"]
        cfg["dataset_prepared_path"] = str(cache_folder(recipe, files))
        if is_first_process():
            set_aside_cut_caches(Path(cfg["dataset_prepared_path"]))
        return dict(files)

    def _begin(self, cfg: Any, recipe: Recipe, files: dict[str, str]) -> None:
        processes = run_record.processes()
        settings = settings_of(self._asked, files, processes)
        if is_first_process():
            self._lock = run_record.lock(recipe.output_dir)
        again = cfg["auto_resume_from_checkpoints"] is False
        explicit = cfg["resume_from_checkpoint"]
        cfg["auto_resume_from_checkpoints"] = False  # Axolotl's own choice is unchecked
        text = run_record.recipe_text(recipe.path, self._asked)  # it may lie in the output folder
        if explicit:
            run_record.check_resume(Path(explicit), settings, processes)
        if again and not explicit:
            if is_first_process() and run_record.holds_a_run(recipe.output_dir):
                print(f"the earlier run is now in {run_record.start_anew(recipe.output_dir)}")
        elif changed := run_record.changes(recipe.output_dir, settings):
            raise UserError(run_record.refusal(recipe.output_dir, changed))
        elif not explicit:
            cfg["resume_from_checkpoint"] = self._checkpoint(recipe, processes)
        if is_first_process():
            precision = {"bf16": cfg["bf16"], "fp16": cfg["fp16"]}
            run_record.write_run(recipe.output_dir, settings, precision)
            run_record.write_recipe(recipe.output_dir, text)

    def _preflight(self, recipe: Recipe) -> None:
        """What `python -m training.preflight` looks at, with the command line's overrides."""
        if is_first_process():
            report = Report()
            asked = Recipe(recipe.path, self._asked, recipe.summarization)
            look(asked, report, run_record.processes())
            show(report.lines)
            refuse(report.problems)

    def _checkpoint(self, recipe: Recipe, processes: int) -> str | None:
        """The newest whole checkpoint; ends the process where the run is finished already."""
        folder = recipe.output_dir
        if (steps := finished(folder)) is not None:
            print(
                f"{folder}: already trained by this recipe on these data, {steps} steps; to train "
                f"anew, add `{TRAIN_AGAIN}` (what stands there is set aside)"
            )
            raise SystemExit(0)
        chosen = newest_whole(folder, processes)
        if is_first_process():
            for line in set_aside_others(folder, chosen, processes):
                print(line, file=sys.stderr)
            if chosen:
                print(f"going on from {chosen}", file=sys.stderr)
        return str(chosen) if chosen else None

    def pre_model_load(self, cfg: Any) -> None:
        """Let the adapter start from the recipe's seed alone.

        Tokenising draws random numbers, a cached run draws none: their adapters would differ.
        """
        set_seed(42 if cfg["seed"] is None else cfg["seed"])

    def get_training_args(self, cfg: dict[str, Any]) -> dict[str, Any]:
        """On CPU: allow bf16 and several processes there, and no evaluation before step 1."""
        on_start = cfg["summarization"]["eval_on_start"]
        if torch.cuda.is_available():
            return {} if on_start is None else {"eval_on_start": on_start}
        cpu: dict[str, Any] = {"use_cpu": True, "eval_on_start": bool(on_start)}
        return {**cpu, "ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else cpu

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        """Ours come before early stopping, which reads the ROUGE that they put there."""
        self._callbacks = [ExactResume()]
        recipe = recipe_of(cfg)
        if recipe.summarization.training_rouge.dialogues:
            from training.rouge import TrainingRougeCallback

            with ending_with_one_line():
                self._callbacks.append(TrainingRougeCallback(recipe))
        return self._callbacks

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Hand the trainer to the callbacks, and remember it until it has trained."""
        self._trainer = trainer
        self._callbacks[0].attach(trainer)
        for callback in self._callbacks[1:]:
            callback.trainer = trainer

    def post_train(self, cfg: Any, model: Any) -> None:
        """First call, after the last step: keep the log. Second, after the save: mark the end.

        The last checkpoint's own log is written before the last evaluation, whose loss would be
        lost. Evaluation refuses an adapter that learnt another prompt.
        """
        folder = Path(cfg["output_dir"])
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            self._steps = trainer.state.global_step
            if trainer.is_world_process_zero():
                trainer.state.save_to_json(str(folder / "trainer_state.json"))
        elif is_first_process() and (folder / ADAPTER).is_file():
            run_record.write_trained_with(folder, cfg["summarization"]["instruction"], self._steps)


def recipe_of(cfg: Any) -> Recipe:
    """The recipe as Axolotl is going to train it, the command line's overrides included."""
    block = Summarization.model_validate(cfg["summarization"].to_dict())
    return Recipe(Path(cfg["axolotl_config_path"]), cfg.to_dict(), block)


def refuse(problems: list[str]) -> None:
    """Raise UserError for all problems together, numbered where there are several."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("\n".join(f"{n}. {text}" for n, text in enumerate(problems, 1)))


def is_first_process() -> bool:
    """Whether this process speaks and writes for all."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def ending_with_one_line() -> Iterator[None]:
    """Turn a UserError into its text on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        if is_first_process():
            print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from error


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process do something, then the others, which find what it has left.

    It looks at the data, sets aside what is broken, and must not meet another that writes already.
    Where it ends in an error, the launcher ends the others.
    """
    from axolotl.utils.distributed import barrier

    if not is_first_process():
        barrier()
    try:
        yield
    except SystemExit as stop:
        if not stop.code and is_first_process():
            barrier()  # a run that is finished already: the others are to say so too
        raise
    if is_first_process():
        barrier()
