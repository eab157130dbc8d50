"""Base and tuned summary of one dialogue: one copy of the weights, the adapter beside them.

Use: `pair = Pair(recipe, find_adapter(recipe))`, then `pair.summarize("tuned", pair.encode(chat))`.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import perf_counter

from data_prep.clean import Cleaner
from data_prep.errors import UserError
from data_prep.prompt import PromptEncoder, to_row
from data_prep.recipe import Recipe, sequence_len
from eval.generate import end_and_pad, read_output, resolve
from eval.hf_engine import HfEngine

MOST_CHARACTERS = 200_000  # beyond, nothing is tokenised; counted as a browser does, in UTF-16


@dataclass(frozen=True)
class Prompt:
    """Token ids of a dialogue's prompt, and how many control strings were broken in its text."""

    ids: list[int]
    neutralized: int


@dataclass(frozen=True)
class Summary:
    """What a model made: `tokens` counts the end token, `stopped` tells whether it came."""

    text: str
    tokens: int
    seconds: float
    stopped: bool


class Pair:
    """Both models of a recipe at hand at once; `decoding` is the recipe's, its precision chosen."""

    def __init__(self, recipe: Recipe, adapter: Path):
        """Load the base model and the adapter; raises UserError where either cannot be used."""
        self.recipe, self.limit = recipe, sequence_len(recipe.config) - 1
        self.decoding = resolve(recipe.summarization.decoding)
        self._encoder = PromptEncoder(recipe)
        self._neutralize = self._encoder.neutralizer()
        self._end, pad = end_and_pad(self._encoder, self._row("A: Hi"))
        self._engine = HfEngine(recipe, self.decoding, self._end, pad)
        self._peft = self._engine.attach_beside(adapter)
        self._lock = Lock()  # the adapter is on or off for the whole process

    def encode(self, dialogue: str) -> Prompt:
        """The prompt of a dialogue, cleaned and made harmless as data preparation does it.

        Raises UserError, to be shown, for an empty dialogue and for one that is too long: at most
        `sequence_len` - 1 tokens, since no row with a longer prompt could be trained on.
        """
        if len(dialogue.encode("utf-16-le", "surrogatepass")) // 2 > MOST_CHARACTERS:
            raise UserError(
                f"The chat has more than {MOST_CHARACTERS:,} characters; paste a part of it."
            )
        columns = self.recipe.summarization
        row: dict[str, object] = {columns.summary_column: "-", columns.dialogue_column: dialogue}
        cleaned, _, _ = Cleaner(columns)("test", "the chat", "chat", row)
        if not cleaned.strip():
            raise UserError("There is no chat yet; paste one, a turn a line.")
        text, neutralized = self._neutralize(cleaned)
        ids = self._encoder.prompt_ids(self._row(text))
        if len(ids) > self.limit:
            raise UserError(
                f"The chat is too long: its prompt has {len(ids):,} tokens, and the recipe's "
                f"sequence_len of {self.limit + 1:,} allows {self.limit:,}; shorten it."
            )
        return Prompt(ids, neutralized)

    def summarize(self, model: str, prompt: Prompt) -> Summary:
        """The summary by `base` or `tuned`; raises UserError where memory runs out on it."""
        with self._lock, self._peft.disable_adapter() if model == "base" else nullcontext():
            start = perf_counter()
            (output,) = self._engine.generate([prompt.ids], self.decoding.seed)
            seconds = perf_counter() - start
        made = read_output(output, self._end, self._encoder.tokenizer)
        return Summary(made["prediction"], made["tokens"], seconds, made["stopped"])

    def _row(self, dialogue: str) -> dict[str, object]:
        return to_row("chat", dialogue, "Hi.", self.recipe.summarization.instruction)
