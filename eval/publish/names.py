"""What is published under which name: hub ids of base model and data, licences, paths.

Use: `names = names_of(recipe, manifest)`.
"""

import re
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.recipe import HUB_ID, Recipe

BASE_LICENSES = {
    "mistralai/Mistral-7B-Instruct-v0.2": "apache-2.0",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "apache-2.0",
}
# Of the hub's own list, what data sets and models of dialogues come under.
HUB_LICENSES = frozenset(
    ["apache-2.0", "mit", "cc0-1.0", "openrail", "gpl-3.0", "gemma", "llama2", "llama3"]
    + [
        f"cc-by{kind}-{v}"
        for kind in ("", "-sa", "-nc", "-nc-sa", "-nc-nd")
        for v in ("3.0", "4.0")
    ]
    + ["llama3.1", "llama3.2", "llama3.3", "llama4", "cc-by-nd-4.0", "cc-by-nc-nd-3.0"]
    + ["bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-nc-2.0"]
    + ["cc-by-nc-sa-2.0", "cc-by-sa-2.0", "gpl", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "odc-by"]
    + ["odbl", "pddl", "openrail++", "bigscience-openrail-m", "creativeml-openrail-m", "unlicense"]
)


class Names(NamedTuple):
    """Hub ids and licences; `dataset` is None where the data have no hub id."""

    base_model: str
    base_license: str
    dataset: str | None
    data_license: str
    local_base: bool
    local_data: bool

    @property
    def noncommercial(self) -> bool:
        """Whether the data's licence says that it forbids commercial use, as CC's NC ones do."""
        words = re.findall(r"[a-z]+", self.data_license.lower())
        return "nc" in words or "noncommercial" in "".join(words)

    @property
    def license(self) -> str:
        """The licence that the card's metadata name: of the data where it forbids more."""
        return self.data_license.lower() if self.noncommercial else self.base_license


def names_of(recipe: Recipe, manifest: dict[str, Any], base_model: str | None = None) -> Names:
    """The names, `base_model` (an option of the command) before those of the recipe.

    Raises UserError where the base model has no hub id, or a licence that is not known.
    """
    told = recipe.summarization.publish
    own = str(recipe.config["base_model"])
    local = not is_hub_id(own)
    base = base_model or told.base_model or (None if local else own)
    if base is None:
        raise UserError(
            f"{recipe.path}: base_model {own} is a folder of this machine; name the hub's model "
            "in summarization.publish.base_model, or with --base-model owner/name"
        )
    if not re.fullmatch(HUB_ID, base):
        raise UserError(f"--base-model: {base} is no hub id; give owner/name")
    base_license = (told.base_license or BASE_LICENSES.get(base, "")).lower()
    if not base_license:
        raise UserError(
            f"{recipe.path}: the licence of {base} is not known here; name it in "
            "summarization.publish.base_license, as the model's own card does (for instance mit)"
        )
    source = recipe.summarization.source
    on_hub = not manifest.get("source_files") and is_hub_id(source)
    dataset = told.dataset or (source if on_hub else None)
    license_of_data = recipe.summarization.license
    return Names(base, base_license, dataset, license_of_data, local, not on_hub)


def is_hub_id(name: str) -> bool:
    """Whether a name is `owner/name` and no path: neither it nor its parent folder is there."""
    return bool(re.fullmatch(HUB_ID, name)) and not Path(name).parent.exists()


def portable(recipe: Recipe, names: Names) -> dict[str, str]:
    """Each absolute path that the recipe holds, the longest first, and what is published for it."""
    config, name = recipe.config, recipe.name
    source = recipe.summarization.source
    places = {str(config["output_dir"]): f"outputs/{name}", source: f"data/{_last(source)}"}
    places[str(config["base_model"])] = names.base_model
    for block in ("datasets", "test_datasets"):
        for entry in config.get(block) or []:
            path = str(entry.get("path", ""))
            places[path] = f"data/{name}/{_last(path)}"
    if cache := config.get("dataset_prepared_path"):
        places[str(cache)] = "last_run_prepared"
    absolute = {path: place for path, place in places.items() if is_absolute(path)}
    return dict(sorted(absolute.items(), key=lambda pair: -len(pair[0])))


def is_absolute(path: str) -> bool:
    """Whether a path is absolute on any system, or begins in a home folder."""
    return path.startswith(("/", "~")) or PureWindowsPath(path).is_absolute()


def replaced(text: str, places: dict[str, str]) -> str:
    """The text with each of `places` in place of its path."""
    for path, place in places.items():
        text = text.replace(path, place)
    return text


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
