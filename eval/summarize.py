"""Summarise your own chats: `python -m eval.summarize RECIPE chat.txt`.

Dialogues as text, `Name: text` files, JSONL, folders, and exports of WhatsApp, Telegram and Slack.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from data_prep.errors import UserError, run_cli
from data_prep.recipe import load_recipe
from eval.chats.anonymize import anonymize
from eval.chats.chat import Chat, Message, speakers_of
from eval.chats.read import Item, read_all

if TYPE_CHECKING:
    from eval.chat_summaries import ChatSummarizer, Part, Summary

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
    from eval.chat_summaries import ChatSummarizer

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
        prog="python -m eval.summarize",
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


if __name__ == "__main__":
    run_cli(main)
