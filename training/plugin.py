"""Our Axolotl plugin: stops a recipe from silently doing the wrong thing in training.

A recipe lists it under `plugins:`. It declares the `summarization:` block, refuses what preflight
refuses, resumes from the newest complete checkpoint, logs ROUGE of generated summaries, and makes
CPU training work. On a GPU it does not change what a run computes; it only keeps PyTorch from using
cuDNN's attention.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml
from axolotl.integrations.base import BasePlugin
from axolotl.utils.distributed import barrier
from axolotl.utils.tee import prepare_debug_log
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from transformers import set_seed

from data_prep import console
from data_prep.console import Bar, say
from data_prep.errors import UserError
from data_prep.hub import model_unavailable
from data_prep.machine import (
    avoid_cudnn_attention,
    bf16_is_faster,
    is_out_of_memory,
    keep_freed_memory,
    shard_on_cpu,
    use_all_cores,
)
from data_prep.prepare import check_prepared
from data_prep.recipe import Recipe, find_problems
from data_prep.settings import Summarization
from eval.adapter import ADAPTER, TRAIN_AGAIN, find_adapter, finished, settings_of
from training import run_record
from training.machine_checks import (
    LORA_KERNELS,
    disk_full,
    lone_process_problems,
    machine_problems,
    out_of_memory,
)
from training.preflight import Report, check_recipe
from training.resume import ExactResume, Progress

WAIT = 5  # seconds: torchrun checks for ended processes every 0.1 s
# Commands that need a trained adapter. Axolotl loads it only if `lora_model_dir` is set; otherwise
# `evaluate` and `inference` use a fresh, untrained adapter.
ADAPTER_COMMANDS = ("evaluate", "inference", "merge-lora")
NOTES = {
    "inference": "note: axolotl inference samples at temperature 0.9, so its answers differ each "
    "time, and needs the whole prompt, instruction included; for summaries use `python -m "
    "chat.summarize {recipe}`",
    "evaluate": "note: axolotl evaluate computes only losses; for summaries and ROUGE use "
    "`python -m eval.run {recipe}`",
}


class SummarizationArgs(BaseModel):
    """A mixin for Axolotl's schema; `forbid` makes its whole top level strict."""

    model_config = ConfigDict(extra="forbid")

    summarization: Summarization


class SummarizationPlugin(BasePlugin):
    """The plugin's hooks, in the order in which Axolotl calls them."""

    def __init__(self) -> None:
        """Axolotl creates one instance per run."""
        super().__init__()
        self._config: dict[str, Any] = {}  # the recipe with the command line's overrides
        self._resume = ExactResume()
        self._rouge: Any = None  # training.rouge's callback, if the recipe asks for it
        self._trainer: Any = None
        self._steps = 0
        self._lock: Any = None
        self._starting_bar: Bar | None = None  # shown until the first step
        self._prepared_recipe: Recipe | None = None  # the recipe whose rows Axolotl reads

    def get_input_args(self) -> str:
        """Return the import path of the pydantic class for our block."""
        return "training.plugin.SummarizationArgs"

    def register(self, cfg: dict[str, Any]) -> None:
        """Before validation: refuse a recipe with keys that Axolotl would drop or turn off."""
        path, command = Path(cfg["axolotl_config_path"]), axolotl_command()
        quiet = command in ("train", "preprocess") and not console.verbose()
        if quiet:
            console.mute()
        in_file = yaml.safe_load(path.read_text("utf-8"))
        drop_flags(in_file, cfg)
        self._config = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
        # merge-lora reads the recipe twice, the second time with the merge's own overrides
        if command == "merge-lora" and cfg.get("merge_lora") and not in_file.get("merge_lora"):
            return
        with exit_on_user_error():
            refuse(find_problems(path, self._config))
            install_error_hook(recipe_of(cfg))
            if command in ADAPTER_COMMANDS:
                self._use_adapter(cfg, command)
            else:
                refuse(run_record.output_dir_problems(path, self._config))
            if command == "merge-lora":  # it does not train, and a CPU is enough
                return
            refuse(machine_problems(path, self._config))
            if command == "train":
                refuse(lone_process_problems(path, self._config))
        if cfg.get("auto_resume_from_checkpoints") is None:
            cfg["auto_resume_from_checkpoints"] = True  # running the same command again resumes
        if cfg.get("dataset_prepared_path") is None:  # else preprocess would use another default
            cfg["dataset_prepared_path"] = str(recipe_of(cfg).data_dir / "tokenized")
        if torch.cuda.is_available():
            avoid_cudnn_attention()
        else:
            self._use_cpu(cfg)
        if quiet:
            log = prepare_debug_log(cfg)  # else Axolotl opens it only after validation
            if is_first_process():
                say(f"{command} {path}; Axolotl's own output is in {log}", "bold")
            self._starting_bar = Bar("starting", shown=is_first_process()).__enter__()
        if command == "evaluate":  # Axolotl does not call `load_datasets` for it
            with first_process_first(), exit_on_user_error():
                self._use_prepared(cfg, recipe_of(cfg))

    def _use_adapter(self, cfg: dict[str, Any], command: str) -> None:
        """Set `lora_model_dir` to the trained adapter for an Axolotl command that needs one.

        If the user has set it, their choice is kept.
        """
        if cfg.get("lora_model_dir") is None:
            cfg["lora_model_dir"] = str(find_adapter(self._recipe_as_given(cfg)))
        if command in NOTES and is_first_process():
            say(NOTES[command].format(recipe=cfg["axolotl_config_path"]), error=True)

    def _recipe_as_given(self, cfg: Any) -> Recipe:
        """Return the recipe with the command line's overrides, without Axolotl's defaults."""
        return dataclasses.replace(recipe_of(cfg), config=self._config)

    def _use_cpu(self, cfg: dict[str, Any]) -> None:
        use_all_cores()
        keep_freed_memory()
        shard_on_cpu()
        for kernel in LORA_KERNELS:  # Triton kernels, which Axolotl switches on by default
            cfg[kernel] = False
        if cfg.get("bf16") == "auto":  # Axolotl would use fp16, which is slow on a CPU
            before = run_record.precision_of(Path(cfg["output_dir"]))  # a new timing may differ
            cfg["bf16"] = before["bf16"] if "bf16" in before else bf16_is_faster()
            cfg["fp16"] = False

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Before the data is read: run the rest of preflight, then choose where to start."""
        if not torch.cuda.is_available():
            cfg["device_map"] = {"": "cpu"}  # Axolotl would assign each process a GPU
        with first_process_first(), exit_on_user_error():
            recipe = recipe_of(cfg)
            files = self._use_prepared(cfg, recipe)
            if preprocess:
                return
            if is_first_process():  # before anything is written or renamed
                report = Report()
                check_recipe(self._recipe_as_given(cfg), report, run_record.processes())
                report.show(say)
                refuse(report.problems)
            self._choose_start(cfg, recipe, files)

    def _use_prepared(self, cfg: Any, recipe: Recipe) -> dict[str, str]:
        """Point Axolotl at the tokenised rows of the prepared files; return file hashes by name."""
        files, self._prepared_recipe = check_prepared(recipe).files, recipe
        cfg["dataset_prepared_path"] = str(run_record.cache_folder(recipe, files))
        if is_first_process():
            run_record.set_aside_cut_caches(Path(cfg["dataset_prepared_path"]))
        return dict(files)

    def _choose_start(self, cfg: Any, recipe: Recipe, files: dict[str, str]) -> None:
        """Decide from the output folder whether to resume, restart or start, and record the run."""
        folder, processes = recipe.output_dir, run_record.processes()
        settings = settings_of(self._config, files, processes)
        if is_first_process():
            self._lock = run_record.lock(folder)
        restart = cfg["auto_resume_from_checkpoints"] is False
        checkpoint = cfg["resume_from_checkpoint"]
        cfg["auto_resume_from_checkpoints"] = False  # Axolotl's choice is not checked
        text = run_record.recipe_text(recipe.path, self._config)  # it may be in the output folder
        if checkpoint:
            run_record.check_resume(Path(checkpoint), settings, processes)
        if restart and not checkpoint:
            if is_first_process() and run_record.contains_run(folder):
                say(f"the earlier run is now in {run_record.set_aside(folder)}")
        else:
            run_record.check_same_run(folder, settings)
        if not restart and not checkpoint:
            cfg["resume_from_checkpoint"] = self._find_checkpoint(folder, processes)
        if is_first_process():
            precision = {"bf16": cfg["bf16"], "fp16": cfg["fp16"]}
            run_record.write_run(folder, settings, precision, text)

    def _find_checkpoint(self, folder: Path, processes: int) -> str | None:
        """Return the newest complete checkpoint; end the process if the run is already finished."""
        if (steps := finished(folder)) is not None:
            if is_first_process():
                say(
                    f"{folder}: already trained by this recipe on this data, {steps} steps; to "
                    f"train again, add `{TRAIN_AGAIN}` (the earlier run is set aside)"
                )
            raise SystemExit(0)
        newest = run_record.newest_complete_checkpoint(folder, processes)
        if is_first_process():
            for line in run_record.set_aside_others(folder, newest, processes):
                say(line, error=True)
            if newest:
                say(f"resuming from {newest}", error=True)
        return str(newest) if newest else None

    def pre_model_load(self, cfg: Any) -> None:
        """Make the adapter depend only on the recipe's seed, and check the rows once more.

        Tokenising draws random numbers but a cached run does not, so their adapters would differ.
        If the prepared files changed while they were tokenised, the cache must not keep its name.
        """
        with exit_on_user_error():
            try:
                if self._prepared_recipe:
                    check_prepared(self._prepared_recipe)
            except UserError:
                cache = Path(cfg["dataset_prepared_path"])
                if is_first_process() and cache.exists():
                    cache.rename(run_record.free_name(cache.with_name(f"set-aside-{cache.name}")))
                raise
        set_seed(42 if cfg["seed"] is None else cfg["seed"])

    def get_training_args(self, cfg: dict[str, Any]) -> dict[str, Any]:
        """On a CPU: allow bf16 and several processes, and skip evaluation before step 1.

        A resumed run also skips it: it would cost early stopping one of its patience.
        """
        on_start = False if cfg["resume_from_checkpoint"] else cfg["summarization"]["eval_on_start"]
        if torch.cuda.is_available():
            return {} if on_start is None else {"eval_on_start": on_start}
        cpu: dict[str, Any] = {"use_cpu": True, "eval_on_start": bool(on_start)}
        return {**cpu, "ddp_backend": "gloo"} if "WORLD_SIZE" in os.environ else cpu

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        """Return our callbacks; early stopping runs after them and reads the ROUGE they add."""
        recipe, progress = recipe_of(cfg), Progress(self._starting_bar)
        if not recipe.summarization.training_rouge.dialogues:
            return [self._resume, progress]
        from training.rouge import TrainingRougeCallback

        with exit_on_user_error():
            self._rouge = TrainingRougeCallback(recipe)
        return [self._resume, progress, self._rouge]

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Give the trainer to the callbacks, and keep it until training ends."""
        self._trainer = trainer
        self._resume.attach(trainer)
        if self._rouge:
            self._rouge.trainer = trainer

    def post_train(self, cfg: Any, model: Any) -> None:
        """First call, after the last step: save the log. Second, after the save: mark the end.

        The last checkpoint's log is written before the last evaluation and lacks its loss. The
        second call records the prompt: `eval` refuses an adapter that was trained with another one.
        """
        folder = Path(cfg["output_dir"])
        trainer, self._trainer = self._trainer, None
        if trainer is not None:
            self._steps = trainer.state.global_step
            if trainer.is_world_process_zero():
                trainer.state.save_to_json(str(folder / "trainer_state.json"))
                run_record.write_training_runs(folder)  # W&B's run is still open
        elif is_first_process() and (folder / ADAPTER).is_file():
            run_record.write_trained_with(folder, recipe_of(cfg), self._steps)


def recipe_of(cfg: Any) -> Recipe:
    """Return the recipe as Axolotl will train it, with the command line's overrides."""
    block = Summarization.model_validate(cfg["summarization"].to_dict())
    return Recipe(Path(cfg["axolotl_config_path"]), cfg.to_dict(), block)


# ---- Axolotl's commands ----


def axolotl_command() -> str:
    """Return the command, such as `merge-lora`, from `axolotl NAME` or `-m axolotl.cli.NAME`."""
    program, *arguments = sys.argv
    name = Path(program).stem
    if name in ("axolotl", "main") and arguments:  # preprocess and merge-lora run in-process
        name = arguments[0]
    return name.replace("_", "-")


def drop_flags(in_file: dict[str, Any], cfg: dict[str, Any]) -> None:
    """Remove the flags that Axolotl's command added to the config; keep the file's own keys.

    The command has already read these flags from its command line, and no schema has such keys.
    """
    from axolotl.cli.args import EvaluateCliArgs, PreprocessCliArgs, TrainerCliArgs
    from axolotl.utils.schemas.config import AxolotlInputConfig

    commands = (EvaluateCliArgs, PreprocessCliArgs, TrainerCliArgs)
    flags = {field.name for command in commands for field in dataclasses.fields(command)}
    for name in (flags | {"inference"}) - AxolotlInputConfig.model_fields.keys():
        if name in cfg and name not in in_file:
            del cfg[name]


# ---- one-line errors, and several processes ----


def refuse(problems: list[str]) -> None:
    """Raise one UserError for all problems, numbered if there are several."""
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        raise UserError("\n".join(f"{n}. {text}" for n, text in enumerate(problems, 1)))


def is_first_process() -> bool:
    """Return whether this process prints and writes for all of them."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError as one line on stderr and exit with code 2."""
    try:
        yield
    except UserError as error:
        if not is_first_process():
            time.sleep(WAIT)  # if the first one fails too, the launcher ends this one meanwhile
        say(f"error: {error}", error=True)
        raise SystemExit(2) from error


def install_error_hook(recipe: Recipe) -> None:
    """From now on, end with one line and code 2 on an error that the user can fix."""
    default_hook = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = explain(recipe, error)
        if message is None:
            console.unmute(30)
            default_hook(kind, error, trace)
            return
        say(f"error: {message}", error=True)
        raise SystemExit(2)

    sys.excepthook = hook


def explain(recipe: Recipe, error: BaseException) -> str | None:
    """Return one line for an error that the user can fix; None for any other, which is a bug.

    The user can fix memory or a disk that is full, and missing or damaged model files: an OSError
    without `errno`, raised by transformers or huggingface_hub and not by the disk.
    """
    if is_out_of_memory(error):
        return out_of_memory(recipe, error)
    if message := disk_full(recipe, error):
        return message
    trace, raised_in = error.__traceback__, ""
    while trace:
        raised_in = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    is_model_error = isinstance(error, OSError) and error.errno is None
    is_model_error = is_model_error and raised_in.startswith(("transformers", "huggingface_hub"))
    if is_model_error or isinstance(error, SafetensorError):
        return model_unavailable(recipe, error)
    return None


@contextmanager
def first_process_first() -> Iterator[None]:
    """Run the block in the first process, then in the others, which find its results.

    The first process checks the data and sets broken files aside, so no other may write meanwhile.
    If it ends in an error, the launcher ends the others.
    """
    if not is_first_process():
        barrier()
    try:
        yield
    except SystemExit as stop:
        if not stop.code and is_first_process():
            barrier()  # already finished: the others must exit the same way
        raise
    if is_first_process():
        barrier()
