"""Summarise your own chats: `python -m chat.summarize RECIPE chat.txt`.

Dialogues as text, `Name: text` files, JSONL, folders, and exports of WhatsApp, Telegram and Slack.
"""

import argparse
import json
import os
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

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
Messages = list[Message]

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
        self.summarizer = Summarizer(recipe, self.decoding, self.adapter)
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

        `progress(made, planned)` is called with counts of summaries.
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
        examples = [self._example(str(number), text) for number, text in enumerate(dialogues)]
        made: dict[str, Prediction] = {}
        progress(0, len(examples))
        for prediction in self.summarizer.summaries(examples):
            made[prediction.id] = prediction
            progress(1, 0)
        found = (made[example.id] for example in examples)
        return [Summary(prediction.prediction, prediction.stopped) for prediction in found]

    def _example(self, name: str, dialogue: str) -> Example:
        """A dialogue in which no text is a control string."""
        text, _ = self._neutralize(dialogue)
        return Example.build(name, text, "", self.recipe.summarization.instruction)

    def _count(self, dialogue: str) -> int:
        return len(self.summarizer.encoder.prompt_ids(self._example("", dialogue)))

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


FAILED, NOTHING = 1, 2  # exit codes: some were not summarised, none was


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
    printed = 0
    try:
        for line in _summaries(chats, recipe, args, errors):
            tqdm.write(line, file=sys.stdout)
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
    chats: Iterator[Chat], recipe: Any, args: argparse.Namespace, errors: list[UserError]
) -> Iterator[str]:
    """What is to be printed of each chat, in their order.

    As many chats go together as fill about a batch; the model is loaded once there is one.
    """
    first = next(chats, None)
    if first is None:
        return

    summarizer = ChatSummarizer(recipe, args.model, args.gap_hours)
    show = _as_json if args.json else _as_text
    with tqdm(desc="summaries", unit=" parts", disable=None, total=0) as bar:
        for jobs in _groups(first, chats, summarizer):

            def progress(made: int, planned: int) -> None:
                bar.total = (bar.total or 0) + planned
                bar.update(made)

            try:
                results = summarizer.summarize(jobs, progress)
            except UserError as error:  # memory ran out; a later group may be smaller
                _report(error, errors)
                continue
            for job, (parts, summary) in zip(jobs, results, strict=True):
                yield show(job.chat, parts, summary)


def _groups(first: Chat, chats: Iterator[Chat], summarizer: "ChatSummarizer") -> Iterator[list]:
    """Chats, cut into parts, in groups of about a batch."""
    jobs = [summarizer.job(first)]
    for chat in chats:
        if sum(job.tokens for job in jobs) >= summarizer.decoding.batch_tokens:
            yield jobs
            jobs = []
        jobs.append(summarizer.job(chat))
    yield jobs


def _as_text(chat: Chat, parts: list["Part"], summary: "Summary") -> str:
    """The summary on a line after the chat's name; those of several parts under it."""
    lines = [(f"{chat.name}: " if chat.name else "") + " ".join(summary.text.split())]
    for part in parts if len(parts) > 1 else []:
        start, end = _span(part.messages)
        when = f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, " if start and end else ""
        text = " ".join(part.summary.text.split())
        count = len(part.messages)
        lines.append(f"  {when}{count} message{'s' * (count > 1)}: {text}")
    return "\n".join(lines)


def _as_json(chat: Chat, parts: list["Part"], summary: "Summary") -> str:
    """One object a chat, on a line."""
    record: dict[str, Any] = {"name": chat.name} | ({"id": chat.id} if chat.id is not None else {})
    record |= {"speakers": speakers_of(chat.messages)}
    record |= _facts(chat.messages, summary)
    record["parts"] = [_facts(part.messages, part.summary) for part in parts]
    return json.dumps(record, ensure_ascii=False)


def _facts(messages: list[Message], summary: "Summary") -> dict[str, Any]:
    start, end = (when and when.isoformat() for when in _span(messages))
    facts: dict[str, Any] = {"messages": len(messages), "start": start, "end": end}
    return facts | {"summary": summary.text, "stopped": summary.stopped}


def _span(messages: list[Message]) -> tuple[Any, Any]:
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
        help="Person 1, Person 2 ... for the names that the export knows (not for those that "
        "stand in texts alone), and no phone numbers and e-mail addresses")  # fmt: skip
    add("--dialogue-field", default="dialogue", metavar="NAME",
        help="field of JSON and JSONL rows (default dialogue)")  # fmt: skip
    add("--json", action="store_true", help="an object a line, with times and parts")
    return parser.parse_args()


def _said(level: list[Summary]) -> list[Summary]:
    """The summaries that hold words; one without where none does."""
    return [summary for summary in level if summary.text] or level[:1]


def cut_at_gaps(messages: Messages, hours: float) -> list[Messages]:
    """The conversations of a chat: a new one begins after a silence of more than `hours`.

    Messages without a time, as in plain text, stay with those before them. Within a conversation
    a thread follows its first message.
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
    for number, message in enumerate(messages):
        if message.thread:
            first.setdefault(message.thread, number)
    order = [first.get(message.thread, number) for number, message in enumerate(messages)]
    return [messages[number] for number in sorted(range(len(messages)), key=order.__getitem__)]


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
        return [messages]  # nothing left to cut
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
