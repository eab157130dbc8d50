"""The one reader of recipes: an Axolotl YAML file with our block `summarization:`.

Use: `recipe = load_recipe("recipes/smollm2_samsum.yml")`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import UserError
from data_prep.settings import Summarization
from data_prep.strict import find_problems, read_yaml

DEFAULT_RECIPE = Path("recipes/mistral_samsum.yml")


@dataclass(frozen=True)
class Recipe:
    """A recipe as read: its path, Axolotl's keys (`config`) and our block (`summarization`)."""

    path: Path
    config: dict[str, Any]
    summarization: Summarization

    @property
    def name(self) -> str:
        """The file's name without its ending; results go to `results/<name>/`.

        A training keeps its recipe as `recipe.yml` in its folder: that one is named by the folder.
        """
        kept = self.path.name == "recipe.yml" and self.path.with_name("run.json").is_file()
        return self.path.absolute().parent.name if kept else self.path.stem

    @property
    def data_dir(self) -> Path:
        """The folder of the prepared rows: where `datasets[0].path` points."""
        return Path(self.config["datasets"][0]["path"]).parent

    @property
    def output_dir(self) -> Path:
        """Where Axolotl leaves the adapter."""
        return Path(self.config["output_dir"])


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe.

    Raises UserError with the first of the problems that `data_prep.strict` finds in it.
    """
    path = Path(path)
    config = read_yaml(path)
    for problem in find_problems(path, config):
        raise UserError(problem)
    return Recipe(path, config, Summarization.model_validate(config["summarization"]))


def sequence_len(config: dict[str, Any]) -> int:
    """The recipe's `sequence_len`, or Axolotl's default."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    return config.get("sequence_len") or AxolotlInputConfig.model_fields["sequence_len"].default
