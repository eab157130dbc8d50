"""Summarise your own chats: `python -m chat.summarize RECIPE chat.txt`.

Reads dialogues as text, `Name: text` files, JSONL, folders, and the exports in docs/chats.md.
"""

import argparse
import json
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import accumulate, chain, count, pairwise
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from chat.anonymize import anonymize
from chat.chat import Chat, Message, dialogue_of, speakers_of
from chat.read import Item, read_all
from data_prep.errors import UserError, printable, run_cli
from data_prep.hub import max_positions
from data_prep.options import Options
from data_prep.prompt import Example
from data_prep.recipe import Recipe, load_recipe, sequence_len
from eval.adapter import find_adapter
from eval.generate import Prediction, Summarizer, resolve

FILLED = 0.9  # share of the token limit to aim for, so that few parts turn out too long
LEAST = 64  # tokens that must be left for a dialogue
GAP_HOURS = 6.0  # a longer silence starts a new conversation
FAILED, NOTHING = 1, 2  # exit codes: some chats were not summarised, none was

Messages = list[Message]


class Summarized(NamedTuple):
    """A chat, its parts with one summary each, and the summary of the whole chat."""

    chat: Chat
    parts: list[tuple[Messages, Prediction]]
    summary: Prediction


class Prompt(NamedTuple):
    """A prompt, its number of tokens, and the number of control strings neutralised in it."""

    example: Example
    tokens: int
    neutralized: int


class Prompts:
    """Builds prompts for dialogues and neutralises control strings in their text."""

    def __init__(self, recipe: Recipe, summarizer: Summarizer):
        """`summarizer` must belong to the same recipe."""
        self._block, self._encoder = recipe.summarization, summarizer.encoder
        self._neutralize = summarizer.encoder.neutralizer()

    def __call__(self, dialogue: str, name: str = "chat") -> Prompt:
        """Return a dialogue's prompt; raise UserError if the instruction needs other columns."""
        text, neutralized = self._neutralize(dialogue)
        block = self._block
        example = Example.build(name, text, "", block.instruction, system=block.system)
        neutralized += self._neutralize.neutralize_messages(example)
        return Prompt(example, len(self._encoder.prompt_ids(example)), neutralized)

    def tokens(self, dialogue: str) -> int:
        """Return the number of tokens in a dialogue's prompt."""
        return self(dialogue).tokens


class ChatSummarizer:
    """Cuts chats into parts and summarises them with a recipe's model."""

    def __init__(self, recipe: Recipe, model: str, gap_hours: float):
        """`model` is `base` or `tuned`.

        Raises UserError if `tuned` has no adapter, or too few tokens are left for a dialogue.
        """
        self.recipe, self.gap_hours = recipe, gap_hours
        self.decoding = resolve(recipe.summarization.decoding)
        adapter = find_adapter(recipe) if model == "tuned" else None
        self.summarizer = Summarizer(recipe, self.decoding, adapter)
        self._prompt = Prompts(recipe, self.summarizer)
        length, max_new = sequence_len(recipe.config), self.decoding.max_new_tokens
        length = min(length, max_positions(recipe.config) or length)
        self.most_tokens = length - max_new  # in a prompt
        prompt = self._prompt.tokens("")
        if self.most_tokens - prompt < LEAST:
            raise UserError(
                f"{recipe.path}: sequence_len {length} leaves {self.most_tokens - prompt} tokens "
                f"for a dialogue, after a prompt of {prompt} and max_new_tokens {max_new}; raise "
                "sequence_len"
            )
        self.summarizer.use(model)
        self.bar = tqdm(desc="summaries", unit=" parts", disable=None, total=0)

    def groups(self, chats: Iterable[Chat]) -> Iterator[list[tuple[Chat, list[Messages]]]]:
        """Yield chats with their parts in groups; a group fills about one batch."""
        group: list[tuple[Chat, list[Messages]]] = []
        tokens = 0
        for chat in chats:
            pieces = cut_at_gaps(chat.messages, self.gap_hours)
            parts = [part for piece in pieces for part in self._cut(piece)]
            group.append((chat, parts))
            prompt_tokens = sum(self._prompt.tokens(dialogue_of(part)) for part in parts)
            new_tokens = len(parts) * self.decoding.max_new_tokens
            tokens += (prompt_tokens + new_tokens) * self.decoding.num_beams
            if tokens >= self.decoding.batch_tokens:
                yield group
                group, tokens = [], 0
        if group:
            yield group

    def summarize(self, group: list[tuple[Chat, list[Messages]]]) -> Iterator[Summarized]:
        """Summarise all parts together, then each chat's summaries until only one is left."""
        predictions = iter(self._run([dialogue_of(part) for _, parts in group for part in parts]))
        for chat, parts in group:
            part_summaries = level = [next(predictions) for _ in parts]
            while len(level := [one for one in level if one.prediction] or level[:1]) > 1:
                lines = [Message(None, "", " ".join(one.prediction.split())) for one in level]
                chunks = self._cut(lines)
                if len(chunks) >= len(level):  # no gain: no two summaries fit together
                    chunks = [lines[n : n + 2] for n in range(0, len(lines), 2)]
                level = self._run([dialogue_of(chunk) for chunk in chunks])
            yield Summarized(chat, list(zip(parts, part_summaries, strict=True)), level[0])

    def _run(self, dialogues: list[str]) -> list[Prediction]:
        """Return the summaries of the dialogues, in the same order."""
        examples = [self._prompt(text, str(n)).example for n, text in enumerate(dialogues)]
        self.bar.total = (self.bar.total or 0) + len(examples)
        predictions: dict[str, Prediction] = {}
        for prediction in self.summarizer.summaries(examples):
            predictions[prediction.id] = prediction
            self.bar.update()
        return [predictions[example.id] for example in examples]

    def _cut(self, messages: Messages) -> list[Messages]:
        return cut_to_fit(messages, self._prompt.tokens, self.most_tokens)


def main() -> None:
    """Read the chats, summarise them, and print each summary as soon as it is ready."""
    args = _arguments()
    if not 0 < args.gap_hours < 1e9:
        raise UserError(
            f"--gap-hours: {args.gap_hours:g} is not a valid length; use 6, or 1e6 to never cut"
        )
    recipe = load_recipe(args.recipe)
    errors: list[UserError] = []
    items = read_all(args.inputs or ["-"], args.dialogue_field, sys.stdin.buffer)
    chats = _chats(items, args.anonymize, errors)
    printed = 0
    for result in _summaries(chats, recipe, args, errors):
        record = _record(result)
        text = json.dumps(record, ensure_ascii=False) if args.json else _as_text(record)
        tqdm.write(printable(text), file=sys.stdout)
        sys.stdout.flush()
        printed += 1
    if errors:
        sys.exit(FAILED if printed else NOTHING)


def _chats(items: Iterable[Item], masked: bool, errors: list[UserError]) -> Iterator[Chat]:
    """Yield the chats; print notes and errors to stderr, and add the errors to the list."""
    numbers = count(1)
    for item in items:
        try:
            if isinstance(item, UserError):
                raise item
            if isinstance(item, Chat):
                yield anonymize(item, next(numbers)) if masked else item
            else:
                tqdm.write(f"note: {printable(item)}", file=sys.stderr)
        except UserError as error:
            _report(error, errors)


def _report(error: UserError, errors: list[UserError]) -> None:
    errors.append(error)
    tqdm.write(f"error: {printable(' '.join(str(error).split()))}", file=sys.stderr)


def _summaries(
    chats: Iterator[Chat], recipe: Recipe, args: argparse.Namespace, errors: list[UserError]
) -> Iterator[Summarized]:
    """Yield the chats' summaries in order; load the model only once there is a chat."""
    for first in chats:
        summarizer = ChatSummarizer(recipe, args.model, args.gap_hours)
        with summarizer.bar:
            for group in summarizer.groups(chain([first], chats)):
                try:
                    yield from summarizer.summarize(group)
                except UserError as error:  # out of memory; a later group may be smaller
                    _report(error, errors)


def _record(result: Summarized) -> dict[str, Any]:
    """Return what `--json` prints for a chat."""
    chat = result.chat
    facts: list[dict[str, Any]] = []
    for messages, summary in [(chat.messages, result.summary), *result.parts]:
        times = [message.time.isoformat() for message in messages if message.time]
        facts.append({
            "messages": len(messages), "start": min(times, default=None),
            "end": max(times, default=None), "summary": summary.prediction,
            "stopped": summary.stopped,
        })  # fmt: skip
    row_id = {} if chat.id is None else {"id": chat.id}
    speakers = speakers_of(chat.messages)
    return {"name": chat.name, **row_id, "speakers": speakers, **facts[0], "parts": facts[1:]}


def _as_text(record: dict[str, Any]) -> str:
    """Return the chat's name and summary on one line; several parts' summaries go below it."""
    name = f"{record['name']}: " if record["name"] else ""
    lines = [name + " ".join(record["summary"].split())]
    for part in record["parts"] if len(record["parts"]) > 1 else []:
        when = f"{part['start']:.16} to {part['end']:.16}, " if part["start"] else ""
        size = f"{part['messages']} message{'s' * (part['messages'] > 1)}"
        lines.append(f"  {when.replace('T', ' ')}{size}: {' '.join(part['summary'].split())}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = Options(
        "chat.summarize", "Summarise chats with a recipe's model; printing each when ready.",
        'recipes/smollm2_samsum.yml "Anna: coming? Ben: yes, at 8"',
        "recipes/smollm2_samsum.yml chat.txt export.zip --model base --gap-hours 12 --anonymize",
        "recipes/smollm2_samsum.yml rows.jsonl --dialogue-field conversation --json",
        more="Exit code: 0 if all chats were summarised, 1 if some could not be used, 2 if none"
        "\ncould or an option is wrong; each error is one line on standard error.",
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", type=Path, help="recipe file")
    add("inputs", nargs="*", metavar="INPUT",
        help="a dialogue (`Name: text`); a text file or an export of a chat, as .txt, .md, .json, "
        ".jsonl, .vtt, .srt, .csv, .xml or .zip; a folder; or - for standard input (default)"
    )  # fmt: skip
    add("--model", choices=("base", "tuned"), default="tuned", help="which model to use")
    add("--gap-hours", type=float, default=GAP_HOURS, metavar="HOURS",
        help="cut a chat where no message was sent for longer than this")  # fmt: skip
    add("--anonymize", action="store_true",
        help="write Person 1, Person 2 ... for speakers, `someone` for other people whom the "
        "export lists or a message mentions with @, <email> and <phone>; all other names, "
        "addresses and facts in the messages stay")  # fmt: skip
    add("--dialogue-field", default="dialogue", metavar="NAME",
        help="field with the dialogue in JSON and JSONL rows")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object per line, with times and parts")
    return parser.parse_intermixed_args()  # allows `RECIPE --model base FILE`


def cut_at_gaps(messages: Messages, hours: float) -> list[Messages]:
    """Split a chat into conversations: a silence of more than `hours` starts a new one.

    Messages without a time, as in plain text, stay with the messages before them. Within a
    conversation, the replies in a thread follow its first message.
    """
    times = sorted(message.time for message in messages if message.time)
    gap = timedelta(hours=hours)
    starts = [after for before, after in pairwise(times) if after - before > gap]
    parts: list[dict[str | int, Messages]] = [{} for _ in range(len(starts) + 1)]  # by thread
    part = 0
    for number, message in enumerate(messages):
        part = bisect_right(starts, message.time) if message.time else part
        parts[part].setdefault(message.thread or number, []).append(message)
    return [list(chain.from_iterable(threads.values())) for threads in parts if threads]


def cut_to_fit(messages: Messages, tokens_of: Callable[[str], int], most: int) -> list[Messages]:
    """Cut messages into parts of similar size whose dialogues have at most `most` tokens.

    `tokens_of` counts the tokens of a dialogue. Cuts are between messages; a single message that is
    too long is halved between words, and both halves keep its speaker.
    """
    tokens = tokens_of(dialogue_of(messages))
    if tokens <= most:
        return [messages]
    if len(messages) > 1:  # pieces with about equal text, each with at least one message
        number = ceil(tokens / (FILLED * most))
        ends = list(accumulate(len(message.line()) + 1 for message in messages))
        ideal = (bisect_left(ends, ends[-1] * share / number) for share in range(1, number))
        borders = sorted({min(max(1, border), len(messages) - 1) for border in ideal})
        pieces = [messages[a:b] for a, b in pairwise([0, *borders, len(messages)])]
    else:
        text, middle = messages[0].text, len(messages[0].text) // 2
        blank = text.rfind(" ", 1, middle + 1)
        cut = blank if blank > 0 else middle
        halves = text[:cut].rstrip(), text[cut:].lstrip()
        if not all(halves):
            return [messages]  # a single character cannot be cut
        pieces = [[replace(messages[0], text=half)] for half in halves]
    return [part for piece in pieces for part in cut_to_fit(piece, tokens_of, most)]


if __name__ == "__main__":
    run_cli(main)
