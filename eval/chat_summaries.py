"""Summaries of chats of any length by a recipe's model: part by part, then over the parts.

A chat is cut at its silences, and what is still too long for the model by tokens
(eval/chats/parts.py). Where that makes several parts, their summaries become a new "dialogue" of
one line a part, in the order of time and without names in front, and the same prompt asks for its
summary; where even that is too long it is cut and summarised again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from data_prep.errors import UserError
from data_prep.prompt import to_row
from data_prep.recipe import Recipe, sequence_len
from data_prep.training.adapter import find_adapter
from eval.chats.chat import Chat, Message, dialogue_of
from eval.chats.parts import Messages, cut_at_gaps, cut_to_fit
from eval.generate import Row, Summarizer, resolve

LEAST = 64  # tokens that a dialogue must be given


class Summary(NamedTuple):
    """A text, and whether the model ended it by itself, before the limit of its tokens."""

    text: str
    stopped: bool


class Part(NamedTuple):
    """A part of a chat and its summary."""

    messages: Messages
    summary: Summary


class Job(NamedTuple):
    """A chat that is cut into parts, and about how many tokens of a batch they will take."""

    chat: Chat
    parts: list[Messages]
    tokens: int


class ChatSummarizer:
    """Cuts chats into parts and summarises them; the model is loaded when it is first needed."""

    def __init__(self, recipe: Recipe, model: str, gap_hours: float):
        """`model`: `base` or `tuned`; raises UserError where there is no adapter for the latter."""
        self.recipe, self.model, self.gap_hours = recipe, model, gap_hours
        self.adapter = find_adapter(recipe) if model == "tuned" else None
        self.decoding = resolve(recipe.summarization.decoding)
        self.summarizer = Summarizer(recipe, self.decoding, [], self.adapter)
        self._neutralize = self.summarizer.encoder.neutralizer()
        self._most = self._room()
        self.summarizer.use(model)

    def job(self, chat: Chat) -> Job:
        """Cut a chat into parts that the model can take."""
        whole = cut_at_gaps(chat.messages, self.gap_hours)
        parts = [part for piece in whole for part in cut_to_fit(piece, self._count, self._most)]
        new = self.decoding.max_new_tokens
        tokens = sum(self._count(dialogue_of(part)) + new for part in parts)
        return Job(chat, parts, tokens * self.decoding.num_beams)

    def summarize(
        self, jobs: list[Job], progress: Callable[[int, int], None]
    ) -> list[tuple[list[Part], Summary]]:
        """The parts of each chat with their summaries, and the summary of the whole.

        `progress(made, planned)` is called for each batch, with counts of summaries.
        """
        made = self._run([dialogue_of(part) for job in jobs for part in job.parts], progress)
        left = iter(made)
        parts = [[Part(part, next(left)) for part in job.parts] for job in jobs]
        levels = [_said([part.summary for part in of_chat]) for of_chat in parts]
        while any(len(level) > 1 for level in levels):
            levels = self._next_level(levels, progress)
        return [(of_chat, level[0]) for of_chat, level in zip(parts, levels, strict=True)]

    def _next_level(
        self, levels: list[list[Summary]], progress: Callable[[int, int], None]
    ) -> list[list[Summary]]:
        """Fewer summaries of each chat that has several."""
        groups = [self._groups(level) if len(level) > 1 else [] for level in levels]
        made = iter(self._run([text for of_chat in groups for text in of_chat], progress))
        return [
            _said([next(made) for _ in of_chat]) if of_chat else level
            for of_chat, level in zip(groups, levels, strict=True)
        ]

    def _groups(self, level: list[Summary]) -> list[str]:
        """The summaries as dialogues that fit, fewer than there are summaries."""
        lines = [Message(None, "", " ".join(summary.text.split())) for summary in level]
        groups = cut_to_fit(lines, self._count, self._most)
        if len(groups) >= len(level):  # no gain: two summaries are more than fits
            groups = [lines[n : n + 2] for n in range(0, len(lines), 2)]
        return [dialogue_of(group) for group in groups]

    def _run(self, dialogues: list[str], progress: Callable[[int, int], None]) -> list[Summary]:
        """A summary of each dialogue, generated in batches of like length."""
        rows = [self._row(str(number), text) for number, text in enumerate(dialogues)]
        self.summarizer.plan(rows)
        made: dict[str, Row] = {}
        progress(0, len(rows))
        for number in range(len(self.summarizer.batches)):
            results = self.summarizer.summarize(number)
            made |= {result["id"]: result for result in results}
            progress(len(results), 0)
        return [Summary(made[row["id"]]["prediction"], made[row["id"]]["stopped"]) for row in rows]

    def _row(self, row_id: str, dialogue: str) -> dict[str, Any]:
        """The row of a dialogue, in which no text is a control string."""
        text, _ = self._neutralize(dialogue)
        return to_row(row_id, text, "", self.recipe.summarization.instruction)

    def _count(self, dialogue: str) -> int:
        return len(self.summarizer.encoder.prompt_ids(self._row("", dialogue)))

    def _room(self) -> int:
        """The most tokens of a prompt; raises UserError where the recipe leaves too few."""
        length = sequence_len(self.recipe.config)
        new, prompt = self.decoding.max_new_tokens, self._count("")
        if length - new - prompt < LEAST:
            raise UserError(
                f"{self.recipe.path}: sequence_len {length} leaves {length - new - prompt} tokens "
                f"for a dialogue, after a prompt of {prompt} and max_new_tokens {new}; raise "
                "sequence_len"
            )
        return length - new


def _said(level: list[Summary]) -> list[Summary]:
    """The summaries that hold words; one without where none does."""
    return [summary for summary in level if summary.text] or level[:1]
