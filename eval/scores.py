"""`scores.json` as classes: `eval.run` and `eval.score --output` write it, every report reads it.

Use: `Scores.read(Path("results/smollm2_samsum_corpus/scores.json")).systems["tuned"].scores`.
All scores are in percent.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, field_validator

from data_prep.errors import reading
from data_prep.settings import Decoding, Rouge

# Version 1 had no number in the file and kept similarity apart from the other metrics; up to
# version 2, rougeLsum took each line as a sentence
VERSION = 3
SUM = ".scores.sha256"  # next to the file: its hash, for `sha256sum -c`
PRIMARY = "rougeL"  # the metric of the headline, the groups and "better in N dialogues"


class Bootstrap(BaseModel):
    """Settings of the intervals and the paired tests."""

    resamples: int = 1000
    permutations: int = 10_000
    confidence: float = 0.95
    seed: int = 12345


class Score(BaseModel):
    """The mean of one metric over the examples, with its interval.

    For the metric `similarity`, `f1` is the cosine, which has neither precision nor recall.
    """

    f1: float
    precision: float | None = None
    recall: float | None = None
    low: float
    high: float


class Style(BaseModel):
    """Length and copying of the summaries (see `eval.baselines.style`); None if unknown."""

    words: float | None
    length_ratio: float | None
    compression: float | None
    copied_4grams: float | None


class SystemScores(BaseModel):
    """One system; `mistakes` counts the examples with each mistake, None if that is unknown.

    `scores_without_leaked`: the mean by metric, and the number of `examples` that remain.
    """

    kind: Literal["model", "baseline"]
    signature: str
    fields: dict[str, str]
    scores: dict[str, Score]
    scores_without_leaked: dict[str, int | float] | None
    style: Style
    mean_tokens: float | None
    stopped: float | None
    mistakes: dict[str, int | None]
    seconds: float | None


class PairedTest(BaseModel):
    """Second system minus first: mean difference, its interval, and both tests' p-values."""

    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_randomization: float

    @property
    def p(self) -> float:
        """The larger of the two."""
        return max(self.p_bootstrap, self.p_randomization)


class Comparison(BaseModel):
    """Two systems by metric; `better` counts examples where the second has the higher PRIMARY."""

    systems: tuple[str, str]
    metrics: dict[str, PairedTest]
    better: int
    worse: int
    equal: int


class Group(BaseModel):
    """A group of dialogues, such as those of 51 to 100 words, and each system's ROUGE-L on it."""

    label: str
    examples: int
    rougeL: dict[str, float]  # noqa: N815 - the key in the file


class EvaluatedAdapter(BaseModel):
    """The adapter that made the summaries of `tuned`, and how its training and the recipe differ.

    `trained_otherwise` is None if no record of the training exists; `signature` lists the keys.
    """

    folder: str
    trained_otherwise: list[str] | None
    signature: str


class Training(BaseModel):
    """What the training of the adapter took; None if it was not recorded.

    `tokens`: all tokens read since training last started. `parameters`: the adapter's own.
    """

    minutes: float | None = None
    peak_memory_gb: float | None = None
    machine: str | None = None
    parameters: int | None = None
    steps: int | None = None
    tokens: int | None = None


class Scores(BaseModel):
    """The whole file; `eval.score` leaves the fields that need a recipe empty.

    `examples` counts the rows; if several share a dialogue, `dialogues` counts the dialogues.
    """

    version: int = 1
    recipe: str = ""
    base_model: str = ""
    source: str = ""
    split: str = ""
    examples: int
    dialogues: int | None = None
    leaked: int | None
    bootstrap: Bootstrap
    systems: dict[str, SystemScores]
    comparisons: list[Comparison]
    groups: dict[str, list[Group]]
    notes: list[str] = []  # what a reader must know about these figures
    adapter: EvaluatedAdapter | None = None
    training: Training | None = None
    rouge: Rouge | None = None  # with every `auto` resolved
    language: str = "en"
    settings: dict[str, Any] = {}  # flat, from the recipe that the adapter was trained with
    decoding: Decoding | None = None
    environment: dict[str, str] = {}
    commit: str = ""
    date: str = ""  # of the evaluation, 2026-11-28

    @field_validator("decoding", mode="before")
    @classmethod
    def _unknown(cls, decoding: Any) -> Any:
        return decoding or None  # {} in older files

    @field_validator("version")
    @classmethod
    def _not_newer(cls, version: int) -> int:
        if version > VERSION:
            raise ValueError(f"{version} is newer than {VERSION}: update this program")
        return version

    @classmethod
    def read(cls, path: Path) -> "Scores":
        """Read the file; raise UserError if it is missing, damaged or of a newer version."""
        with reading(path, "run `python -m eval.run`; delete a damaged file first"):
            return cls.model_validate_json(path.read_bytes())

    @property
    def metrics(self) -> list[str]:
        """The names of the metrics, in the order of the tables' columns."""
        return list(next(iter(self.systems.values())).scores)

    @property
    def models(self) -> list[str]:
        """The names of the systems that are not baselines."""
        return [name for name, system in self.systems.items() if system.kind == "model"]

    def highest(self, metric: str, names: list[str]) -> str:
        """Return the one of these systems with the highest mean of a metric."""
        return max(names, key=lambda name: self.systems[name].scores[metric].f1)

    @property
    def main(self) -> str:
        """The model that the reports are about: `tuned`, or else the last one."""
        return "tuned" if "tuned" in self.models else self.models[-1]
