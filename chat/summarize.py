"""Summarise your own chats: `python -m chat.summarize RECIPE chat.txt`.

Dialogues as text, `Name: text` files, JSONL, folders, and exports of WhatsApp, Telegram and Slack.
"""

import argparse
import json
import os
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import accumulate, chain, pairwise
from math import ceil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from chat.anonymize import anonymize
from chat.chat import Chat, Message, dialogue_of, speakers_of
from chat.read import Item, read_all
from data_prep.errors import UserError, run_cli
from data_prep.prompt import Example
from data_prep.recipe import Recipe, load_recipe, sequence_len
from eval.adapter import find_adapter
from eval.generate import Prediction, Summarizer, resolve

FILLED = 0.9  # of the tokens, so that few parts turn out too long after all
LEAST = 64  # tokens that must remain for a dialogue
FAILED, NOTHING = 1, 2  # exit codes: some were not summarised, none was

Messages = list[Message]


@dataclass(frozen=True)
class Job:
    """A chat that is cut into parts, and about how many tokens of a batch they will take."""

    chat: Chat
    parts: list[Messages]
    tokens: int


@dataclass(frozen=True)
class Summarized:
    """A chat, its parts with a summary each, and the summary of the whole."""

    chat: Chat
    parts: list[tuple[Messages, Prediction]]
    summary: Prediction


class ChatSummarizer:
    """Cuts chats into parts and summarises them with a recipe's model."""

    def __init__(self, recipe: Recipe, model: str, gap_hours: float):
        """`model`: `base` or `tuned`; raises UserError where there is no adapter for the latter."""
        self.recipe, self.gap_hours = recipe, gap_hours
        self.decoding = resolve(recipe.summarization.decoding)
        adapter = find_adapter(recipe) if model == "tuned" else None
        self.summarizer = Summarizer(recipe, self.decoding, adapter)
        self._neutralize = self.summarizer.encoder.neutralizer()
        self.most_tokens = self._room()
        self.summarizer.use(model)

    def job(self, chat: Chat) -> Job:
        """Cut a chat into parts that the model can take."""
        pieces = cut_at_gaps(chat.messages, self.gap_hours)
        parts = [part for piece in pieces for part in self._cut(piece)]
        new = self.decoding.max_new_tokens
        tokens = sum(self._count(dialogue_of(part)) + new for part in parts)
        return Job(chat, parts, tokens * self.decoding.num_beams)

    def jobs(self, chats: Iterable[Chat]) -> Iterator[list[Job]]:
        """The chats in groups of about a batch."""
        group: list[Job] = []
        for chat in chats:
            group.append(self.job(chat))
            if sum(job.tokens for job in group) >= self.decoding.batch_tokens:
                yield group
                group = []
        if group:
            yield group

    def summarize(self, jobs: list[Job], bar: tqdm) -> list[Summarized]:
        """Summarise the parts, then their summaries, until each chat has a single summary."""
        parts = self._run([[dialogue_of(part) for part in job.parts] for job in jobs], bar)
        levels = [_not_empty(level) for level in parts]
        while any(len(level) > 1 for level in levels):
            groups = [self._groups(level) if len(level) > 1 else [] for level in levels]
            next_levels = [_not_empty(level) for level in self._run(groups, bar)]
            levels = [new or old for new, old in zip(next_levels, levels, strict=True)]
        return [
            Summarized(job.chat, list(zip(job.parts, made, strict=True)), level[0])
            for job, made, level in zip(jobs, parts, levels, strict=True)
        ]

    def _groups(self, level: list[Prediction]) -> list[str]:
        """The summaries as dialogues that fit, fewer than there are summaries."""
        lines = [Message(None, "", " ".join(summary.prediction.split())) for summary in level]
        groups = self._cut(lines)
        if len(groups) >= len(level):  # no gain: two summaries are more than fits
            groups = [lines[n : n + 2] for n in range(0, len(lines), 2)]
        return [dialogue_of(group) for group in groups]

    def _run(self, dialogues: list[list[str]], bar: tqdm) -> list[list[Prediction]]:
        """The summaries of each chat's dialogues; those of all chats share the batches."""
        texts = [text for of_chat in dialogues for text in of_chat]
        examples = [self._example(text, str(number)) for number, text in enumerate(texts)]
        bar.total = (bar.total or 0) + len(examples)
        made: dict[str, Prediction] = {}
        for prediction in self.summarizer.summaries(examples):
            made[prediction.id] = prediction
            bar.update()
        in_order = (made[example.id] for example in examples)
        return [[next(in_order) for _ in of_chat] for of_chat in dialogues]

    def _example(self, dialogue: str, name: str = "") -> Example:
        """A dialogue in which no text is a control string."""
        text, _ = self._neutralize(dialogue)
        return Example.build(name, text, "", self.recipe.summarization.instruction)

    def _count(self, dialogue: str) -> int:
        return len(self.summarizer.encoder.prompt_ids(self._example(dialogue)))

    def _cut(self, messages: Messages) -> list[Messages]:
        return cut_to_fit(messages, self._count, self.most_tokens)

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


def main() -> None:
    """Read, summarise, print each summary as it is made."""
    args = _arguments()
    if not 0 < args.gap_hours < 1e9:
        raise UserError(
            f"--gap-hours: {args.gap_hours:g} is no length of a silence; use 6, or 1e6 for never"
        )
    recipe = load_recipe(args.recipe)
    errors: list[UserError] = []
    chats = _chats(read_all(args.inputs or ["-"], args.dialogue_field, sys.stdin.buffer), errors)
    if args.anonymize:
        chats = (anonymize(chat, number) for number, chat in enumerate(chats, 1))
    show = _as_json if args.json else _as_text
    printed = 0
    try:
        for result in _summaries(chats, recipe, args, errors):
            tqdm.write(show(result), file=sys.stdout)
            sys.stdout.flush()
            printed += 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if errors:
        sys.exit(FAILED if printed else NOTHING)


def _chats(items: Iterable[Item], errors: list[UserError]) -> Iterator[Chat]:
    """The chats among the items; errors and notes go to stderr, and the errors into the list."""
    for item in items:
        if isinstance(item, Chat):
            yield item
        elif isinstance(item, UserError):
            _report(item, errors)
        else:
            tqdm.write(f"note: {item}", file=sys.stderr)


def _report(error: UserError, errors: list[UserError]) -> None:
    errors.append(error)
    tqdm.write(f"error: {' '.join(str(error).split())}", file=sys.stderr)


def _summaries(
    chats: Iterator[Chat], recipe: Recipe, args: argparse.Namespace, errors: list[UserError]
) -> Iterator[Summarized]:
    """The chats with their summaries, in their order; the model is loaded once there is a chat."""
    for first in chats:
        summarizer = ChatSummarizer(recipe, args.model, args.gap_hours)
        with tqdm(desc="summaries", unit=" parts", disable=None, total=0) as bar:
            for jobs in summarizer.jobs(chain([first], chats)):
                try:
                    yield from summarizer.summarize(jobs, bar)
                except UserError as error:  # memory ran out; a later group may be smaller
                    _report(error, errors)


def _as_text(result: Summarized) -> str:
    """The summary on a line after the chat's name; those of several parts under it."""
    name = result.chat.name
    lines = [(f"{name}: " if name else "") + " ".join(result.summary.prediction.split())]
    for messages, summary in result.parts if len(result.parts) > 1 else []:
        start, end = _span(messages)
        when = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, " if start and end else ""
        count = f"{len(messages)} message{'s' * (len(messages) > 1)}"
        lines.append(f"  {when}{count}: {' '.join(summary.prediction.split())}")
    return "\n".join(lines)


def _as_json(result: Summarized) -> str:
    """One object a chat, on a line."""
    chat = result.chat
    record: dict[str, Any] = {"name": chat.name} | ({"id": chat.id} if chat.id is not None else {})
    record |= {"speakers": speakers_of(chat.messages)}
    record |= _facts(chat.messages, result.summary)
    record["parts"] = [_facts(messages, summary) for messages, summary in result.parts]
    return json.dumps(record, ensure_ascii=False)


def _facts(messages: Messages, summary: Prediction) -> dict[str, Any]:
    start, end = (when and when.isoformat() for when in _span(messages))
    facts: dict[str, Any] = {"messages": len(messages), "start": start, "end": end}
    return facts | {"summary": summary.prediction, "stopped": summary.stopped}


def _span(messages: Messages) -> tuple[datetime | None, datetime | None]:
    """The times of the first and the last message, where there are any."""
    times = [message.time for message in messages if message.time]
    return min(times, default=None), max(times, default=None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m chat.summarize",
        description="Summaries of chats by a recipe's model, each printed as it is made.",
        epilog="Exit code: 0 where all were summarised, 1 where some could not be used, 2 where "
        "none could or an option is wrong; each error is a line on standard error.",
    )
    add = parser.add_argument
    add("recipe", type=Path)
    add("inputs", nargs="*", metavar="INPUT",
        help="a dialogue (`Name: text`), a .txt, .json, .jsonl or .zip file, a folder, or - for "
        "standard input (the default)")  # fmt: skip
    add("--model", choices=("base", "tuned"), default="tuned", help="default: tuned")
    add("--gap-hours", type=float, default=6.0, metavar="HOURS",
        help="cut a chat where nobody wrote for so long (default 6)")  # fmt: skip
    add("--anonymize", action="store_true",
        help="Person 1, Person 2 ... for speakers, `someone` for other people that the export "
        "lists or a message mentions with @, <email> and <phone>; all other names, addresses and "
        "facts that a message tells stay in the text")  # fmt: skip
    add("--dialogue-field", default="dialogue", metavar="NAME",
        help="field of JSON and JSONL rows (default dialogue)")  # fmt: skip
    add("--json", action="store_true", help="an object a line, with times and parts")
    return parser.parse_args()


def _not_empty(level: list[Prediction]) -> list[Prediction]:
    """The summaries that hold words; the first where none does."""
    return [summary for summary in level if summary.prediction] or level[:1]


def cut_at_gaps(messages: Messages, hours: float) -> list[Messages]:
    """The conversations of a chat: a new one begins after a silence of more than `hours`.

    Messages without a time, as in plain text, stay with those before them. Within a conversation
    the answers of a thread follow its first message.
    """
    times = sorted(message.time for message in messages if message.time)
    gap = timedelta(hours=hours)
    starts = [after for before, after in pairwise(times) if after - before > gap]
    parts: list[Messages] = [[] for _ in range(len(starts) + 1)]
    number = 0
    for message in messages:
        number = bisect_right(starts, message.time) if message.time else number
        parts[number].append(message)
    return [_threads_together(part) for part in parts if part]


def _threads_together(messages: Messages) -> Messages:
    first: dict[str, int] = {}
    places = []
    for number, message in enumerate(messages):
        place = first.setdefault(message.thread, number) if message.thread else number
        places.append((place, number))
    return [messages[number] for _, number in sorted(places)]


def cut_to_fit(messages: Messages, count: Callable[[str], int], most: int) -> list[Messages]:
    """Parts of like size whose dialogues have `most` tokens at most, cut between messages.

    `count` gives the tokens of a dialogue. A single message that has too many is halved between
    words, and keeps its speaker.
    """
    tokens = count(dialogue_of(messages))
    if tokens <= most:
        return [messages]
    if len(messages) > 1:
        pieces = _shares(messages, ceil(tokens / (FILLED * most)))
    else:
        pieces = _halves(messages[0])
    if not all(pieces):
        return [messages]  # a single character cannot be cut
    return [part for piece in pieces for part in cut_to_fit(piece, count, most)]


def _shares(messages: Messages, number: int) -> list[Messages]:
    """Two or more shares, `number` where there are as many messages, with about equal text."""
    ends = list(accumulate(len(message.line()) + 1 for message in messages))
    wanted = (bisect_left(ends, ends[-1] * n / number) for n in range(1, number))
    borders = sorted({min(max(1, border), len(messages) - 1) for border in wanted})
    return [messages[a:b] for a, b in pairwise([0, *borders, len(messages)])]


def _halves(message: Message) -> list[Messages]:
    text = message.text
    middle = len(text) // 2
    blank = text.rfind(" ", 1, middle + 1)
    cut = blank if blank > 0 else middle
    pieces = (text[:cut].rstrip(), text[cut:].lstrip())
    return [[replace(message, text=piece)] if piece else [] for piece in pieces]


if __name__ == "__main__":
    run_cli(main)
