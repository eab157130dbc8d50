"""Our Axolotl plugin: a recipe that cannot silently do the wrong thing in training.

Named in a recipe under `plugins:`. It declares the `summarization:` block, refuses what preflight
refuses, resumes from the newest whole checkpoint, logs generated ROUGE, and makes CPU training
work. On a GPU it changes nothing of how a run computes.
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
from training.machine_checks import LORA_KERNELS, machine_problems, out_of_memory
from training.preflight import Report, check_recipe
from training.resume import ExactResume, Progress

# Commands that need a trained adapter. Axolotl itself loads it only where `lora_model_dir` names
# it: without that, `evaluate` scores and `inference` asks a fresh, untrained adapter.
WAIT = 5  # seconds: torchrun looks for processes that ended every 0.1
OF_AN_ADAPTER = ("evaluate", "inference", "merge-lora")
NOTES = {
    "inference": "note: axolotl inference samples at temperature 0.9, so that its answers differ "
    "each time, and wants the whole prompt, instruction included; for summaries use `python -m "
    "chat.summarize {recipe}`",
    "evaluate": "note: axolotl evaluate gives the losses alone; for summaries and ROUGE use "
    "`python -m eval.run {recipe}`",
}


class SummarizationArgs(BaseModel):
    """Mixed into Axolotl's schema; `forbid` makes its whole top level strict."""

    model_config = ConfigDict(extra="forbid")

    summarization: Summarization


class SummarizationPlugin(BasePlugin):
    """The hooks, in the order in which Axolotl calls them."""

    def __init__(self) -> None:
        """Axolotl makes one for a run."""
        super().__init__()
        self._asked: dict[str, Any] = {}  # the recipe with the command line's values
        self._resume = ExactResume()
        self._rouge: Any = None  # training.rouge's callback, where the recipe asks for it
        self._trainer: Any = None
        self._steps = 0
        self._lock: Any = None
        self._waiting: Bar | None = None  # what is shown before the first step
        self._prepared: Recipe | None = None  # whose rows Axolotl reads

    def get_input_args(self) -> str:
        """Name the pydantic class of our block."""
        return "training.plugin.SummarizationArgs"

    def register(self, cfg: dict[str, Any]) -> None:
        """Before validation: refuse a recipe that says what Axolotl would drop or turn off."""
        path, command = Path(cfg["axolotl_config_path"]), axolotl_command()
        quiet = command in ("train", "preprocess") and not console.verbose()
        if quiet:
            console.mute()
        drop_flags(yaml.safe_load(path.read_text("utf-8")), cfg)
        self._asked = cfg.to_dict() if hasattr(cfg, "to_dict") else dict(cfg)
        # merge-lora reads the recipe twice, the second time with what the merge overrides; in a
        # recipe this key switches nothing off
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
        if quiet:
            log = prepare_debug_log(cfg)  # else Axolotl does so after its validation, unheard
            if is_first_process():
                say(f"{command} {path}; Axolotl's own words are in {log}", "bold")
            self._waiting = Bar("starting", shown=is_first_process()).__enter__()
        if command == "evaluate":  # for which Axolotl does not call `load_datasets`
            with first_process_first(), ending_with_one_line():
                self._use_prepared(cfg, recipe_of(cfg))

    def _use_adapter(self, cfg: dict[str, Any], command: str) -> None:
        """Name the trained adapter for a command of Axolotl's that does not look for it.

        One that the user named is used as it is.
        """
        if cfg.get("lora_model_dir") is None:
            cfg["lora_model_dir"] = str(find_adapter(self._asked_recipe(cfg)))
        if command in NOTES and is_first_process():
            say(NOTES[command].format(recipe=cfg["axolotl_config_path"]), error=True)

    def _asked_recipe(self, cfg: Any) -> Recipe:
        """The recipe with the command line's values, without Axolotl's defaults."""
        return dataclasses.replace(recipe_of(cfg), config=self._asked)

    def _use_cpu(self, cfg: dict[str, Any]) -> None:
        use_all_cores()
        keep_freed_memory()
        shard_on_cpu()
        for kernel in LORA_KERNELS:  # Triton kernels; Axolotl switches them on by itself
            cfg[kernel] = False
        if cfg.get("bf16") == "auto":  # Axolotl would take fp16, which is slow on a CPU
            before = run_record.precision_of(Path(cfg["output_dir"]))  # a measurement may flip
            cfg["bf16"] = before["bf16"] if "bf16" in before else bf16_is_faster()
            cfg["fp16"] = False

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Before the data are read: the rest of preflight, then where to resume from."""
        if not torch.cuda.is_available():
            cfg["device_map"] = {"": "cpu"}  # Axolotl would give each process a GPU of its own
        with first_process_first(), ending_with_one_line():
            recipe = recipe_of(cfg)
            files = self._use_prepared(cfg, recipe)
            if preprocess:
                return
            if is_first_process():  # before anything is written or renamed
                report = Report()
                check_recipe(self._asked_recipe(cfg), report, run_record.processes())
                report.show(say)
                refuse(report.problems)
            self._choose_start(cfg, recipe, files)

    def _use_prepared(self, cfg: Any, recipe: Recipe) -> dict[str, str]:
        """Point Axolotl at the tokenised rows of these very files; their hashes by name."""
        files, self._prepared = check_prepared(recipe).files, recipe
        cfg["dataset_prepared_path"] = str(run_record.cache_folder(recipe, files))
        if is_first_process():
            run_record.set_aside_cut_caches(Path(cfg["dataset_prepared_path"]))
        return dict(files)

    def _choose_start(self, cfg: Any, recipe: Recipe, files: dict[str, str]) -> None:
        """Resume, start again or start, whichever is right in this output folder; record it."""
        folder, processes = recipe.output_dir, run_record.processes()
        settings = settings_of(self._asked, files, processes)
        if is_first_process():
            self._lock = run_record.lock(folder)
        again = cfg["auto_resume_from_checkpoints"] is False
        explicit = cfg["resume_from_checkpoint"]
        cfg["auto_resume_from_checkpoints"] = False  # Axolotl's own choice is unchecked
        text = run_record.recipe_text(recipe.path, self._asked)  # it may lie in the output folder
        if explicit:
            run_record.check_resume(Path(explicit), settings, processes)
        if again and not explicit:
            if is_first_process() and run_record.holds_a_run(folder):
                say(f"the earlier run is now in {run_record.set_aside(folder)}")
        else:
            run_record.check_same_run(folder, settings)
        if not again and not explicit:
            cfg["resume_from_checkpoint"] = self._checkpoint(folder, processes)
        if is_first_process():
            precision = {"bf16": cfg["bf16"], "fp16": cfg["fp16"]}
            run_record.write_run(folder, settings, precision, text)

    def _checkpoint(self, folder: Path, processes: int) -> str | None:
        """The newest whole checkpoint; ends the process where the run is finished already."""
        if (steps := finished(folder)) is not None:
            if is_first_process():
                say(
                    f"{folder}: already trained by this recipe on these data, {steps} steps; to "
                    f"train again, add `{TRAIN_AGAIN}` (the earlier run is set aside)"
                )
            raise SystemExit(0)
        chosen = run_record.newest_whole(folder, processes)
        if is_first_process():
            for line in run_record.set_aside_others(folder, chosen, processes):
                say(line, error=True)
            if chosen:
                say(f"resuming from {chosen}", error=True)
        return str(chosen) if chosen else None

    def pre_model_load(self, cfg: Any) -> None:
        """Let the adapter start from the recipe's seed alone, and from the rows that were checked.

        Tokenising draws random numbers, a cached run draws none: their adapters would differ. Rows
        that were replaced while they were tokenised must not stay under the checked ones' name.
        """
        with ending_with_one_line():
            try:
                if self._prepared:
                    check_prepared(self._prepared)
            except UserError:
                cache = Path(cfg["dataset_prepared_path"])
                if is_first_process() and cache.exists():
                    cache.rename(run_record.free_name(cache.with_name(f"set-aside-{cache.name}")))
                raise
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
        recipe, progress = recipe_of(cfg), Progress(self._waiting)
        if not recipe.summarization.training_rouge.dialogues:
            return [self._resume, progress]
        from training.rouge import TrainingRougeCallback

        with ending_with_one_line():
            self._rouge = TrainingRougeCallback(recipe)
        return [self._resume, progress, self._rouge]

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Hand the trainer to the callbacks, and remember it until it has trained."""
        self._trainer = trainer
        self._resume.attach(trainer)
        if self._rouge:
            self._rouge.trainer = trainer

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
                run_record.write_training_runs(folder)  # W&B's is still open
        elif is_first_process() and (folder / ADAPTER).is_file():
            run_record.write_trained_with(folder, recipe_of(cfg), self._steps)


def recipe_of(cfg: Any) -> Recipe:
    """The recipe as Axolotl is going to train it, the command line's overrides included."""
    block = Summarization.model_validate(cfg["summarization"].to_dict())
    return Recipe(Path(cfg["axolotl_config_path"]), cfg.to_dict(), block)


# ---- Axolotl's commands ----


def axolotl_command() -> str:
    """`train`, `preprocess`, `merge-lora` ...: `axolotl NAME` or `-m axolotl.cli.NAME`."""
    program, *arguments = sys.argv
    name = Path(program).stem
    if name in ("axolotl", "main") and arguments:  # preprocess and merge-lora run in that process
        name = arguments[0]
    return name.replace("_", "-")


def drop_flags(in_file: dict[str, Any], cfg: dict[str, Any]) -> None:
    """Take the flags that Axolotl's command added out of the configuration; the file's keys stay.

    The command has read them from its command line before; as keys, no schema knows them.
    """
    from axolotl.cli.args import EvaluateCliArgs, PreprocessCliArgs, TrainerCliArgs
    from axolotl.utils.schemas.config import AxolotlInputConfig

    commands = (EvaluateCliArgs, PreprocessCliArgs, TrainerCliArgs)
    flags = {field.name for command in commands for field in dataclasses.fields(command)}
    for name in (flags | {"inference"}) - AxolotlInputConfig.model_fields.keys():
        if name in cfg and name not in in_file:
            del cfg[name]


# ---- errors in one line, and several processes ----


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
        if not is_first_process():
            time.sleep(WAIT)  # where the first one fails too, the launcher ends this one meanwhile
        say(f"error: {error}", error=True)
        raise SystemExit(2) from error


def end_in_one_line(recipe: Recipe) -> None:
    """From now on an error that the user can fix ends this process in one line, with code 2."""
    plain = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        words = explain(recipe, error)
        if words is None:
            console.unmute(30)
            plain(kind, error, trace)
            return
        say(f"error: {words}", error=True)
        raise SystemExit(2)

    sys.excepthook = hook


def explain(recipe: Recipe, error: BaseException) -> str | None:
    """One line for an error that the user can fix; None for any other, which is a bug.

    Memory that ran out, and a model whose files are missing or damaged: an OSError without a number
    that transformers or the hub's client raised, and not the disk.
    """
    if is_out_of_memory(error):
        return out_of_memory(recipe, error)
    trace, raised_in = error.__traceback__, ""
    while trace:
        raised_in = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    of_a_model = isinstance(error, OSError) and error.errno is None
    of_a_model = of_a_model and raised_in.startswith(("transformers", "huggingface_hub"))
    if of_a_model or isinstance(error, SafetensorError):
        return model_unavailable(recipe, error)
    return None


@contextmanager
def first_process_first() -> Iterator[None]:
    """Let the first process do something, then the others, which find what it has left.

    It looks at the data, sets aside what is broken, and must not meet another that writes already.
    Where it ends in an error, the launcher ends the others.
    """
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
