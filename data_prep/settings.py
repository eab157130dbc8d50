"""The `summarization:` block of a recipe: every key that Axolotl itself does not have.

pydantic checks it, here for our own commands and as part of Axolotl's schema in training.
"""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PLACE = re.compile(r"\{([^\W\d][\w .-]*)\}")  # a column in the instruction: `{topic}`
HUB_ID = r"[\w-][\w.-]*/[\w.-]+"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Cleaning(_Strict):
    """The steps of the cleaning; each is on unless the recipe says `false`."""

    normalize_newlines: bool = True
    strip_trailing_blanks: bool = True
    drop_empty: bool = True
    drop_duplicates: bool = True
    decontaminate: bool = True


class Decoding(_Strict):
    """How summaries are generated: greedy unless the recipe says otherwise.

    `batch_tokens` is a batch's budget: dialogues x (longest prompt + max_new_tokens) x beams.
    """

    engine: Literal["hf", "vllm", "auto"] = "hf"
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
        problems = []
        needs_sampling = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seed": 0}
        for name, default in needs_sampling.items():
            if not self.do_sample and getattr(self, name) != default:
                problems.append(f"{name} has no effect without `do_sample: true`")
        if self.num_beams == 1 and self.length_penalty != 1.0:
            problems.append("length_penalty has no effect without `num_beams` above 1")
        if self.min_new_tokens > self.max_new_tokens:
            problems.append("min_new_tokens is above max_new_tokens")
        if self.engine == "vllm" and (self.num_beams > 1 or self.no_repeat_ngram_size):
            problems.append("num_beams and no_repeat_ngram_size need `engine: hf`")
        if problems:
            raise ValueError("\n".join(problems))  # one per line
        return self


class Rouge(_Strict):
    """How ROUGE tokenises and stems a summary; `eval.language` explains each setting.

    `auto` chooses by `summarization.language` and by the letters in the references.
    """

    tokenizer: Literal["auto", "english", "unicode"] = "auto"
    stemmer: str = "auto"
    lsum: Literal["sentences", "lines"] = "sentences"
    strip: bool = False

    @field_validator("stemmer")
    @classmethod
    def _known_stemmer(cls, name: str) -> str:
        if name not in ("auto", "none", "porter"):
            from snowballstemmer import algorithms

            if name not in algorithms():
                raise ValueError(f"must be one of auto, none, porter, {', '.join(algorithms())}")
        return name

    @model_validator(mode="after")
    def _english_words_have_english_stems(self) -> "Rouge":
        if self.tokenizer == "english" and self.stemmer not in ("auto", "none", "porter"):
            raise ValueError(f"`stemmer: {self.stemmer}` needs `tokenizer: unicode`")
        return self


class BertScore(_Strict):
    """The encoder for `metrics: [rouge, bertscore]`: a Hub id or a folder.

    `layer`: the layer whose outputs are compared; None: the package's default for known models.
    """

    model: str = "roberta-large"
    layer: int | None = Field(default=None, gt=0)


class TrainingRouge(_Strict):
    """ROUGE of generated summaries at the evaluation steps of training; off with 0 dialogues.

    Generates for the first `dialogues` validation rows as set in `decoding`, except that
    `max_new_tokens` may be set here; `examples` of them are logged as text.
    """

    dialogues: int = Field(default=0, ge=0)
    examples: int = Field(default=3, ge=0)
    max_new_tokens: int | None = Field(default=None, gt=0)


class Publish(_Strict):
    """Facts for the model card that are not in the records of a run, for scripts.publish.

    `base_model` and `dataset`: Hub ids, if the recipe itself uses local folders; `note`: anything
    else that a reader of the card must know.
    """

    repo: str | None = None
    base_model: str | None = None
    base_license: str | None = None
    dataset: str | None = None
    note: str | None = None

    @field_validator("repo", "base_model", "dataset")
    @classmethod
    def _owner_and_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(HUB_ID, name):
            raise ValueError("must be `owner/name`, as on the Hub")
        return name


class Turns(_Strict):
    """Where the speakers and texts are, if a dialogue is a list of turns of an unknown shape.

    `speaker` and `text`: keys of each turn. `speaker_column`: a column with the speakers of the
    turns, if `dialogue_column` contains only their texts (MediaSum).
    """

    speaker: str = ""
    text: str = ""
    speaker_column: str = ""


class Summarization(_Strict):
    """The `summarization:` block: everything in a recipe that Axolotl itself does not have."""

    source: str = Field(min_length=1)
    revision: str | None = None
    config: str | None = None  # a subset of the Hub dataset
    license: str
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$")  # ISO 639, as on the Hub
    dialogue_column: str = "dialogue"
    summary_column: str | list[str] = "summary"  # several columns: several references
    turns: Turns = Turns()
    train_rows: int | Literal["all"] = "all"
    # a number of rows, or a share of them, cut from train by a hash of the dialogue
    validation_rows: int | float | None = Field(default=None, gt=0)
    test_rows: int | float | None = Field(default=None, gt=0)
    instruction: str
    system: str | None = None  # a turn before it, if the chat template allows one
    cleaning: Cleaning = Cleaning()
    decoding: Decoding = Decoding()
    metrics: list[Literal["rouge", "embedding", "bertscore"]] = ["rouge"]
    rouge: Rouge = Rouge()
    bertscore: BertScore = BertScore()
    training_rouge: TrainingRouge = TrainingRouge()
    publish: Publish = Publish()
    eval_on_start: bool | None = None  # None: Axolotl's default on a GPU, off on a CPU

    @field_validator("train_rows", mode="before")
    @classmethod
    def _all_or_positive(cls, rows: object) -> object:
        if rows != "all" and (type(rows) is not int or rows < 1):
            raise ValueError("must be `all` or a whole number above 0")
        return rows

    @field_validator("metrics")
    @classmethod
    def _rouge_and_others(cls, names: list[str]) -> list[str]:
        if "rouge" not in names or len(set(names)) < len(names):
            raise ValueError("must include `rouge`, and each metric only once")
        return names

    @field_validator("instruction")
    @classmethod
    def _one_place_for_the_dialogue(cls, text: str) -> str:
        if text.count("{dialogue}") != 1:
            raise ValueError("must contain {dialogue} exactly once, where the dialogue goes")
        return text

    @field_validator("validation_rows", "test_rows")
    @classmethod
    def _whole_or_share(cls, rows: int | float | None) -> int | float | None:
        if isinstance(rows, float) and not rows < 1:
            raise ValueError("must be a whole number of rows, or a share below 1 such as 0.1")
        return rows

    @model_validator(mode="after")
    def _no_summary_in_the_prompt(self) -> "Summarization":
        if named := {*self.summary_columns} & {self.dialogue_column, *self.prompt_columns}:
            raise ValueError(f"`{named.pop()}` is the summary column; it must not be in the prompt")
        if any(name.startswith(f"{self.dialogue_column}.") for name in self.summary_columns):
            raise ValueError(
                f"the summary would be a part of the dialogue; set dialogue_column to a place "
                f"inside `{self.dialogue_column}` too, such as `{self.dialogue_column}.0.value`"
            )
        return self

    @property
    def summary_columns(self) -> list[str]:
        """The columns with the summaries, one or several."""
        columns = self.summary_column
        return [columns] if isinstance(columns, str) else columns

    @property
    def prompt_columns(self) -> list[str]:
        """The columns in the instruction, other than the dialogue."""
        return [name for name in PLACE.findall(self.instruction) if name != "dialogue"]
