"""The one reader of recipes: an Axolotl YAML file with a `summarization:` block of ours.

Use: `recipe = load_recipe("recipes/smollm2_samsum.yml")`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data_prep.errors import UserError

HUB_ID = r"[\w-][\w.-]*/[\w.-]+"
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
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
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
        wrong = []
        needs_sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}
        for name, default in needs_sampling.items():
            if not self.do_sample and getattr(self, name) != default:
                wrong.append(f"{name} has no effect without `do_sample: true`")
        if self.num_beams == 1 and self.length_penalty != 1.0:
            wrong.append("length_penalty has no effect without `num_beams` above 1")
        if self.min_new_tokens > self.max_new_tokens:
            wrong.append("min_new_tokens is above max_new_tokens")
        if self.engine == "vllm" and (self.num_beams > 1 or self.no_repeat_ngram_size):
            wrong.append("num_beams and no_repeat_ngram_size need `engine: hf`")
        if wrong:
            raise ValueError("\n".join(wrong))  # a line each
        return self


class TrainingRouge(_Strict):
    """Generated ROUGE at the evaluation steps of training; with 0 dialogues there is none.

    The first `dialogues` validation rows, decoded as `decoding` says, `max_new_tokens` aside where
    it is given here; `examples` of them are logged as text.
    """

    dialogues: int = Field(default=0, ge=0)
    examples: int = Field(default=3, ge=0)
    max_new_tokens: int | None = Field(default=None, gt=0)


class Publish(_Strict):
    """What the records of a run do not tell and its model card has to, for scripts.publish.

    `base_model` and `dataset`: hub ids, where the recipe itself names folders of this machine;
    `note`: what a reader of the card must know besides.
    """

    repo: str | None = None
    base_model: str | None = None
    base_license: str | None = None
    dataset: str | None = None
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$")  # ISO 639, as the hub wants it
    note: str | None = None

    @field_validator("repo", "base_model", "dataset")
    @classmethod
    def _owner_and_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(HUB_ID, name):
            raise ValueError("must be `owner/name`, as the hub calls it")
        return name


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
    metrics: list[Literal["rouge", "embedding"]] = ["rouge"]
    training_rouge: TrainingRouge = TrainingRouge()
    publish: Publish = Publish()
    eval_on_start: bool | None = None  # none: as Axolotl does on a GPU, not on a CPU

    @field_validator("train_rows", mode="before")
    @classmethod
    def _all_or_positive(cls, rows: object) -> object:
        if rows != "all" and (type(rows) is not int or rows < 1):
            raise ValueError("must be `all` or a whole number above 0")
        return rows

    @field_validator("metrics")
    @classmethod
    def _rouge_and_what_stands_beside(cls, names: list[str]) -> list[str]:
        if "rouge" not in names or len(set(names)) < len(names):
            raise ValueError("must name `rouge`, and each metric once")
        return names

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

    Raises UserError with the first of the problems that `data_prep.strict.problems` finds in it.
    """
    from data_prep.strict.problems import find_problems, read_yaml  # which checks the models above

    path = Path(path)
    config = read_yaml(path)
    for problem in find_problems(path, config):
        raise UserError(problem)
    return Recipe(path, config, Summarization.model_validate(config["summarization"]))


def sequence_len(config: dict[str, Any]) -> int:
    """The recipe's `sequence_len`, or Axolotl's default."""
    from axolotl.utils.schemas.config import AxolotlInputConfig

    return config.get("sequence_len") or AxolotlInputConfig.model_fields["sequence_len"].default
