"""The one reader of recipes: an Axolotl YAML file with a `summarization:` block of ours.

Use: `recipe = load_recipe("recipes/smollm2_samsum.yml")`.
"""

import difflib
import pydoc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data_prep.errors import UserError

DEFAULT_RECIPE = Path("recipes/mistral_samsum.yml")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Cleaning(_Strict):
    """Each step of the cleaning, on unless the recipe says `false`."""

    normalize_newlines: bool = True
    strip_trailing_blanks: bool = True
    drop_empty: bool = True
    drop_duplicates: bool = True
    decontaminate: bool = True


class Decoding(_Strict):
    """How summaries are generated: greedy unless the recipe says otherwise.

    `batch_tokens` is a batch's budget: dialogues x (longest prompt + max_new_tokens) x beams.
    """

    engine: Literal["hf", "vllm"] = "hf"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    batch_tokens: int = Field(default=16_384, gt=0)
    max_new_tokens: int = Field(default=128, gt=0)
    min_new_tokens: int = Field(default=0, ge=0)
    num_beams: int = Field(default=1, gt=0)
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = Field(default=0, ge=0)
    repetition_penalty: float = Field(default=1.0, gt=0)
    do_sample: bool = False
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _no_setting_without_effect(self) -> "Decoding":
        needs_sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}
        for name, default in needs_sampling.items():
            if not self.do_sample and getattr(self, name) != default:
                raise ValueError(f"{name} has no effect without `do_sample: true`")
        if self.num_beams == 1 and self.length_penalty != 1.0:
            raise ValueError("length_penalty has no effect without `num_beams` above 1")
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("min_new_tokens is above max_new_tokens")
        if self.engine == "vllm" and (self.num_beams > 1 or self.no_repeat_ngram_size):
            raise ValueError("num_beams and no_repeat_ngram_size need `engine: hf`")
        return self


class TrainingRouge(_Strict):
    """Generated ROUGE at the evaluation steps of training; with 0 dialogues there is none.

    The first `dialogues` validation rows, decoded as `decoding` says, `max_new_tokens` aside where
    it is given here; `examples` of them are logged as text.
    """

    dialogues: int = Field(default=0, ge=0)
    examples: int = Field(default=3, ge=0)
    max_new_tokens: int | None = Field(default=None, gt=0)


class Summarization(_Strict):
    """The `summarization:` block: everything of a recipe that Axolotl does not know by itself."""

    source: str = Field(min_length=1)
    revision: str | None = None
    license: str
    dialogue_column: str = "dialogue"
    summary_column: str = "summary"
    train_rows: int | Literal["all"] = "all"
    instruction: str
    cleaning: Cleaning = Cleaning()
    decoding: Decoding = Decoding()
    training_rouge: TrainingRouge = TrainingRouge()
    eval_on_start: bool | None = None  # none: as Axolotl does on a GPU, not on a CPU

    @field_validator("train_rows", mode="before")
    @classmethod
    def _all_or_positive(cls, rows: object) -> object:
        if rows != "all" and (type(rows) is not int or rows < 1):
            raise ValueError("must be `all` or a whole number above 0")
        return rows

    @field_validator("instruction")
    @classmethod
    def _one_place_for_the_dialogue(cls, text: str) -> str:
        if text.count("{dialogue}") != 1:
            raise ValueError("must hold {dialogue} once, where the dialogue goes")
        return text


@dataclass(frozen=True)
class Recipe:
    """A recipe as read: its path, Axolotl's keys (`config`) and our block (`summarization`)."""

    path: Path
    config: dict[str, Any]
    summarization: Summarization

    @property
    def name(self) -> str:
        """The file's name without its ending; results go to `results/<name>/`."""
        return self.path.stem

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

    Raises UserError where the file is missing, is not YAML, holds a key twice or a key that neither
    Axolotl nor `summarization:` knows, or lacks a key that data preparation and evaluation need.
    """
    path = Path(path)
    config = _read_yaml(path)
    _reject_unknown_keys(path, config)
    block = config.get("summarization")
    if not isinstance(block, dict):
        raise UserError(f"{path}: has no `summarization:` block; see recipes/smollm2_samsum.yml")
    try:
        summarization = Summarization.model_validate(block)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from error
    recipe = Recipe(path, config, summarization)
    _require_paths(recipe)
    return recipe


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(path.read_text("utf-8"), Loader=_NoDuplicateKeys)  # a SafeLoader
    except OSError as error:
        found = ", ".join(str(p) for p in sorted(path.parent.glob("*.yml"))) or "none"
        raise UserError(f"{path}: {error.strerror}; recipes there: {found}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:  # PyYAML lets an impossible date through
        raise UserError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: is not a recipe: expected `key: value` lines at the top level")
    return config


class _NoDuplicateKeys(yaml.SafeLoader):
    """SafeLoader, except that a key that stands twice is an error; Axolotl keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: a key must be one word, not a list or a block")
            if key_node.value in seen:
                raise yaml.YAMLError(f"line {line}: `{key_node.value}` stands twice; keep one")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _reject_unknown_keys(path: Path, config: dict[str, Any]) -> None:
    from axolotl.utils.schemas.config import AxolotlInputConfig

    known = {"summarization"}
    for schema in (AxolotlInputConfig, *_plugin_schemas(config)):
        for name, field in schema.model_fields.items():
            known |= {name, field.alias or name}
    lines = path.read_text("utf-8").splitlines()
    for key in config:
        if key not in known:
            line = next((n for n, t in enumerate(lines, 1) if t.startswith(f"{key}:")), "?")
            raise UserError(f"{path}:{line}: unknown key `{key}`{_nearest(str(key), known)}")


def _plugin_schemas(config: dict[str, Any]) -> list[type[BaseModel]]:
    """The keys that other Axolotl plugins of the recipe declare (Liger's, for instance)."""
    others = [p for p in config.get("plugins") or [] if not str(p).startswith("data_prep.")]
    if not others:
        return []
    from axolotl.integrations.base import load_plugin

    names = [load_plugin(plugin).get_input_args() for plugin in others]
    return [pydoc.locate(name) for name in names if name]  # type: ignore[misc]


def _first_problem(error: ValidationError) -> str:
    # a key that is misspelt is named before the one that is missing because of it
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(["summarization", *map(str, problem["loc"])])
    if problem["type"] == "extra_forbidden":
        model = _BLOCKS.get(str(problem["loc"][0]), Summarization)
        return f"unknown key `{key}`{_nearest(str(problem['loc'][-1]), set(model.model_fields))}"
    if problem["type"] == "missing":
        return f"`{key}` is missing; set it"
    found = "" if isinstance(problem["input"], dict) else f" (found {problem['input']!r})"
    return f"`{key}`: {problem['msg'].removeprefix('Value error, ')}{found}"


_BLOCKS: dict[str, type[BaseModel]] = {
    "cleaning": Cleaning,
    "decoding": Decoding,
    "training_rouge": TrainingRouge,
}


def _nearest(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    return "; remove it, or see Axolotl's documentation"


def _require_paths(recipe: Recipe) -> None:
    for key in ("base_model", "output_dir"):
        if not isinstance(recipe.config.get(key), str):
            raise UserError(f"{recipe.path}: `{key}` is missing; set it")
    for key, split in (("datasets", "train"), ("test_datasets", "validation")):
        try:
            path = Path(recipe.config[key][0]["path"])
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(f"{recipe.path}: `{key}[0].path` is missing; set it") from error
        if path.name != f"{split}.jsonl" or path.parent != recipe.data_dir:
            raise UserError(
                f"{recipe.path}: `{key}[0].path` is {path}; data_prep writes {split}.jsonl, "
                "both sets into one folder"
            )
