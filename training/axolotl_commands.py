"""Axolotl's own commands on our recipes: which one runs, and what it passes on by itself."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

# Commands that need a trained adapter. Axolotl itself loads it only where `lora_model_dir` names
# it: without that, `evaluate` scores and `inference` asks a fresh, untrained adapter.
OF_AN_ADAPTER = ("evaluate", "inference", "merge-lora")
INFERENCE = (
    "note: axolotl inference samples at temperature 0.9, so that its answers differ each time, and "
    "wants the whole prompt, instruction included; for summaries use `python -m chat.summarize "
    "{recipe}`"
)
EVALUATE = (
    "note: axolotl evaluate gives the losses alone; for summaries and ROUGE use `python -m "
    "eval.run {recipe}`"
)


def axolotl_command() -> str:
    """`train`, `preprocess`, `merge-lora` ...: `axolotl NAME` or `-m axolotl.cli.NAME`."""
    program, *arguments = sys.argv
    name = Path(program).stem
    if (
        name in ("axolotl", "main") and arguments
    ):  # in one process, as preprocess and merge-lora run
        name = arguments[0]
    return name.replace("_", "-")


def passed_on(command: str) -> set[str]:
    """Names of the flags that Axolotl's command adds to the recipe's keys by itself.

    They are the fields of its argument classes (`debug`, `shard`, ...): of all those whose every
    field the command has as an option. `inference` is set by that command alone.
    """
    from axolotl.cli import args
    from axolotl.cli.main import cli
    from axolotl.utils.schemas.config import AxolotlInputConfig

    # a command that our plugin does not know is one for training, as a test of ours is
    options = {option.name for option in cli.commands.get(command, cli.commands["train"]).params}
    found = {"inference"} if command == "inference" else set()
    for each in vars(args).values():
        if isinstance(each, type) and dataclasses.is_dataclass(each):
            names = {field.name for field in dataclasses.fields(each)}
            found |= names if names <= options else set()
    return found - AxolotlInputConfig.model_fields.keys()


def drop_passed_on(command: str, in_file: dict[str, Any], cfg: dict[str, Any]) -> None:
    """Take out of the configuration what Axolotl's command added; a key of the file stays.

    The command has read them from its command line before; as keys, no schema knows them.
    """
    for name in passed_on(command):
        if name in cfg and name not in in_file:
            del cfg[name]
