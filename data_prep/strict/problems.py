"""Refuses a recipe that would silently do something else than it says.

Use: `problems = find_problems(path, read_yaml(path))`; each is one line with the file, the line,
what is wrong and how to mend it.
"""

import difflib
import pydoc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import create_model

from data_prep.errors import UserError
from data_prep.settings import Summarization
from data_prep.strict.axolotl_checks import is_renamed, refusal
from data_prep.strict.axolotl_schema import Block, Keys, Leaf, Schema, Unknown, keys_of, walk
from data_prep.strict.contradictions import contradictions
from data_prep.strict.values import axolotls_own, required, value_problems
from data_prep.strict.yaml_lines import Loc, Problem, YamlFile, dotted

OUR_PLUGIN = "training.plugin.SummarizationPlugin"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a recipe's keys.

    Raises UserError where the file is missing, is not UTF-8, is not YAML, holds a key twice in one
    block, or holds no `key: value` lines.
    """
    file = YamlFile(path)
    for twice in _repeated(file):
        raise UserError(twice[1])
    if not isinstance(file.data, dict):
        raise UserError(f"{path}: is not a recipe: expected `key: value` lines at the top level")
    return file.data


def find_problems(path: Path, config: dict[str, Any]) -> list[str]:
    """Every problem of a recipe, in the order of its lines; those without a line come last.

    `config` is what Axolotl is about to use: the file at `path`, with the command line's values.
    """
    file = YamlFile(path)
    config = {key: value for key, value in config.items() if key != "axolotl_config_path"}
    plugins, bad_plugins = _plugins(config.get("plugins"))
    schema = _schema(plugins)
    steps = list(walk(config, _keys(schema, config)))
    found = [_unknown(step) for step in steps if isinstance(step, Unknown) and _is_wrong(step)]
    leaves = [step for step in steps if isinstance(step, Leaf)]
    found += value_problems(leaves, config.get("summarization"))
    found += [*required(schema, config), *bad_plugins]
    places = {problem.loc for problem in found}
    found += [problem for problem in contradictions(config) if problem.loc not in places]
    found = _without_echoes(found)
    twice = list(_repeated(file))
    if not found and not twice:  # what Axolotl says is often a consequence of what is above
        adapters = {c.name for plugin in plugins for c in plugin.get_adapter_capabilities()}
        if config.get("adapter") not in adapters:  # which Axolotl knows once training has begun
            found = axolotls_own([Block((), config, schema), *_inner_blocks(steps)])
    said = [*twice, *(file.say(problem, config) for problem in found)]
    return [line for _, line in sorted(said, key=lambda pair: pair[0])]


def _inner_blocks(steps: list[Any]) -> Iterator[Block]:
    """Those that Axolotl checks by themselves; ours is checked already."""
    for step in steps:
        if isinstance(step, Block) and step.loc[0] != "summarization":
            yield step


def _repeated(file: YamlFile) -> Iterator[tuple[float, str]]:
    for line, key in file.repeated:
        yield line, f"{file.path}:{line}: `{key}` stands twice; keep one"


def _keys(schema: Schema, config: dict[str, Any]) -> Keys:
    """The top level: Axolotl's keys, those of the recipe's other plugins, and our block."""
    from axolotl.utils.schemas.datasets import SFTDataset

    keys = {**keys_of(schema), "summarization": Summarization}
    if not config.get("rl"):
        # Axolotl reads them so, although its schema allows the keys of DPO and others here too
        keys |= dict.fromkeys(("datasets", "test_datasets"), list[SFTDataset] | None)
    return keys


def _plugins(names: Any) -> tuple[list[Any], list[Problem]]:
    """The recipe's other plugins, loaded, and what is wrong with `plugins:`.

    Ours is not imported for that: it is known, and brings Axolotl's trainer with it.
    """
    plugins, found = [], []
    names = [] if names is None else names
    if not isinstance(names, list):
        return [], []
    for index, name in enumerate(names):
        if name != OUR_PLUGIN:
            from axolotl.integrations.base import load_plugin

            try:
                plugin = load_plugin(name)
                plugin.get_input_args()
                plugins.append(plugin)
            except Exception as error:  # whatever a module does on import
                found.append(_bad_plugin(("plugins", index), name, error))
    if OUR_PLUGIN not in names:
        what = "our plugin is not under `plugins:`, so that training would check nothing of this"
        mend = f"add `- {OUR_PLUGIN}` there"
        found.append(Problem(("plugins",), what, mend, lacks=(("plugins",),)))
    return plugins, found


def _schema(plugins: list[Any]) -> Schema:
    """Axolotl's schema with what plugins declare (Liger's, for instance), as Axolotl mixes it."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    names = [plugin.get_input_args() for plugin in plugins]
    others: list[Any] = [pydoc.locate(name) for name in names if name]
    if not others:
        return AxolotlInputConfig
    return create_model("AxolotlInputConfig", __base__=(AxolotlInputConfig, *others))


def _bad_plugin(loc: Loc, name: Any, error: Exception) -> Problem:
    reason = error if "." in str(name) else "it names no module"
    what = f"plugin `{name}` cannot be loaded ({reason}), and Axolotl may train without it"
    if difflib.get_close_matches(str(name), [OUR_PLUGIN]):
        return Problem(loc, what, f"did you mean `{OUR_PLUGIN}`?", meant=("plugins",))
    return Problem(loc, what, "correct its name, install its package, or remove it")


def _is_wrong(step: Unknown) -> bool:
    return not isinstance(step.loc[-1], str) or not is_renamed(step.loc, step.value)


def _unknown(step: Unknown) -> Problem:
    close = _nearest(str(step.loc[-1]), step.known)
    what, meant = f"unknown key `{dotted(step.loc)}`", (*step.loc[:-1], *close) if close else None
    if isinstance(step.loc[-1], str) and (words := refusal(step.loc, step.value)):
        return Problem(step.loc, what, words)
    if close:
        return Problem(step.loc, what, f"did you mean `{close[0]}`?", meant=meant)
    if len(step.known) < 20:
        return Problem(step.loc, what, f"known there: {', '.join(step.known)}")
    return Problem(step.loc, what, "remove it, or see Axolotl's documentation")


def _nearest(key: str, known: Keys) -> list[str]:
    """The one valid name that a key probably stands for, or none."""
    return (
        difflib.get_close_matches(key, known, n=1, cutoff=0.9)
        # for `lora_rank` the name that it begins with: `lora_r`, although `local_rank` is closer
        or sorted((k for k in known if len(k) > 3 and key.startswith(k)), key=len)[-1:]
        or difflib.get_close_matches(key, known, n=1)
    )


def _without_echoes(found: list[Problem]) -> list[Problem]:
    """Leave out what is lacking only because its key is misspelt or its value is wrong."""
    meant = {problem.meant for problem in found if problem.meant}
    places = {problem.loc for problem in found}

    def is_echo(problem: Problem) -> bool:
        causes = meant | (places - {problem.loc})
        return any(lack[: len(loc)] == loc for lack in problem.lacks for loc in causes)

    return [problem for problem in found if not is_echo(problem)]
