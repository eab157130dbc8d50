"""The records of a run that its model card is written from, held against each other.

Use: `read_records(load_recipe("recipes/smollm2_samsum.yml"))`.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.manifest import check_prepared
from data_prep.recipe import Recipe
from data_prep.training.adapter import RUN, TRAINED_WITH, find_adapter
from eval.signature import adapter_hash

Data = dict[str, Any]
OF_THE_MACHINE = {"engine", "dtype", "batch_tokens"}  # of `decoding`: not what is asked for


class Records(NamedTuple):
    """What a run left behind: `trainer_state.json`, `run.json` and `trained_with.json`.

    The last three are {} where somebody else's training left none.
    """

    recipe: Recipe
    manifest: Data
    scores: Data
    adapter: Path
    adapter_config: Data
    training: Data
    run: Data
    trained: Data


def read_records(recipe: Recipe) -> Records:
    """Read them all, in the order in which the three commands write them.

    Raises UserError, with the command to run, where one is missing, damaged, or tells of other
    data, another training or another adapter than the ones that stand there.
    """
    manifest = check_prepared(recipe)
    adapter = find_adapter(recipe)
    scores = _scores(recipe)
    _refuse_other_results(recipe, scores, adapter, manifest)
    return Records(
        recipe,
        manifest,
        scores,
        adapter,
        json.loads((adapter / "adapter_config.json").read_text("utf-8")),
        _known(adapter / "trainer_state.json"),
        _known(adapter / RUN),
        _known(adapter / TRAINED_WITH),
    )


def _scores(recipe: Recipe) -> Data:
    """The result on the whole test split; raises UserError where there is none."""
    path = _scores_path(recipe)
    again = f"run `python -m eval.run {recipe.path}`"
    try:
        scores = json.loads(path.read_text("utf-8"))
        found, split, examples = scores["recipe"], scores["split"], scores["examples"]
        lacks = [name for name in ("base", "tuned") if name not in scores["systems"]]
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; {again} first") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); {again} again") from error
    if (found, split) != (recipe.name, "test"):
        raise UserError(f"{path}: tells of recipe {found}, {split} split, {examples} rows; {again}")
    if lacks:
        raise UserError(f"{path}: lacks the result of {' and '.join(lacks)}; {again}")
    return scores


def _refuse_other_results(recipe: Recipe, scores: Data, adapter: Path, manifest: Data) -> None:
    path = _scores_path(recipe)
    again = f"run `python -m eval.run {recipe.path}`"
    try:
        fields, written = scores["systems"]["tuned"]["fields"], manifest["counts"]["test"]
        held = {
            "adapter": (fields["adapter"], adapter_hash(adapter)[:8]),
            "test data": (fields["data"], manifest["files"]["test.jsonl"][:8]),
            "number of test dialogues": (scores["examples"], written["written"]),
        }
        asked = recipe.summarization.decoding.model_dump(exclude=OF_THE_MACHINE)
        held |= {f"decoding.{key}": (scores["decoding"][key], asked[key]) for key in asked}
    except (LookupError, TypeError) as error:
        raise UserError(f"{path}: damaged (lacks {error}); {again} again") from error
    for what, (scored, there) in held.items():
        if scored != there:
            raise UserError(f"{path}: {what} was {scored} and is {there}; {again} again")


def _scores_path(recipe: Recipe) -> Path:
    return Path("results") / recipe.name / "scores.json"


def _known(path: Path) -> Data:
    """A JSON file that may be missing; raises UserError where it is damaged."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}); restore it, or train anew") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged (no JSON object); restore it, or train anew")
    return found
