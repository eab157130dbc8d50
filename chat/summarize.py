"""Summarise your own chats: `python -m chat.summarize RECIPE chat.txt`.

Dialogues as text, `Name: text` files, JSONL, folders, and exports that docs/chats.md lists.
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
from data_prep.hub import positions
from data_prep.options import Options
from data_prep.prompt import Example
from data_prep.recipe import Recipe, load_recipe, sequence_len
from eval.adapter import find_adapter
from eval.generate import Prediction, Summarizer, resolve

FILLED = 0.9  # of the tokens, so that few parts turn out too long after all
LEAST = 64  # tokens that must remain for a dialogue
GAP_HOURS = 6.0  # a silence after which another conversation begins
FAILED, NOTHING = 1, 2  # exit codes: some were not summarised, none was

Messages = list[Message]


class Summarized(NamedTuple):
    """A chat, its parts with a summary each, and the summary of the whole."""

    chat: Chat
    parts: list[tuple[Messages, Prediction]]
    summary: Prediction


class Prompt(NamedTuple):
    """A dialogue as a model is asked, the prompt's tokens, and broken control strings."""

    example: Example
    tokens: int
    neutralized: int


class Prompts:
    """Makes the prompts of chats, in which no text is a control string."""

    def __init__(self, recipe: Recipe, summarizer: Summarizer):
        """`summarizer`: of the recipe."""
        self._block, self._encoder = recipe.summarization, summarizer.encoder
        self._neutralize = summarizer.encoder.neutralizer()

    def __call__(self, dialogue: str, name: str = "chat") -> Prompt:
        """The prompt of a dialogue; raises UserError where the instruction names other columns."""
        text, broken = self._neutralize(dialogue)
        block = self._block
        example = Example.build(name, text, "", block.instruction, system=block.system)
        broken += self._neutralize.joins(example)
        return Prompt(example, len(self._encoder.prompt_ids(example)), broken)

    def tokens(self, dialogue: str) -> int:
        """How many tokens the prompt of a dialogue has."""
        return self(dialogue).tokens


class ChatSummarizer:
    """Cuts chats into parts and summarises them with a recipe's model."""

    def __init__(self, recipe: Recipe, model: str, gap_hours: float):
        """`model`: `base` or `tuned`; raises UserError where there is no adapter for the latter.

        Also where the recipe leaves too few tokens for a dialogue.
        """
        self.recipe, self.gap_hours = recipe, gap_hours
        self.decoding = resolve(recipe.summarization.decoding)
        adapter = find_adapter(recipe) if model == "tuned" else None
        self.summarizer = Summarizer(recipe, self.decoding, adapter)
        self._prompt = Prompts(recipe, self.summarizer)
        length, new = sequence_len(recipe.config), self.decoding.max_new_tokens
        length = min(length, positions(recipe.config) or length)
        self.most_tokens = length - new  # of a prompt
        prompt = self._prompt.tokens("")
        if self.most_tokens - prompt < LEAST:
            raise UserError(
                f"{recipe.path}: sequence_len {length} leaves {self.most_tokens - prompt} tokens "
                f"for a dialogue, after a prompt of {prompt} and max_new_tokens {new}; raise "
                "sequence_len"
            )
        self.summarizer.use(model)
        self.bar = tqdm(desc="summaries", unit=" parts", disable=None, total=0)

    def groups(self, chats: Iterable[Chat]) -> Iterator[list[tuple[Chat, list[Messages]]]]:
        """The chats, each with parts that the model can take, in groups of about a batch."""
        group: list[tuple[Chat, list[Messages]]] = []
        tokens = 0
        for chat in chats:
            pieces = cut_at_gaps(chat.messages, self.gap_hours)
            parts = [part for piece in pieces for part in self._cut(piece)]
            group.append((chat, parts))
            prompts = sum(self._prompt.tokens(dialogue_of(part)) for part in parts)
            new = len(parts) * self.decoding.max_new_tokens
            tokens += (prompts + new) * self.decoding.num_beams
            if tokens >= self.decoding.batch_tokens:
                yield group
                group, tokens = [], 0
        if group:
            yield group

    def summarize(self, group: list[tuple[Chat, list[Messages]]]) -> Iterator[Summarized]:
        """Summarise all parts together, then those of a chat until a single summary is left."""
        predictions = iter(self._run([dialogue_of(part) for _, parts in group for part in parts]))
        for chat, parts in group:
            of_parts = level = [next(predictions) for _ in parts]
            while len(level := [one for one in level if one.prediction] or level[:1]) > 1:
                lines = [Message(None, "", " ".join(one.prediction.split())) for one in level]
                texts = self._cut(lines)
                if len(texts) >= len(level):  # no gain: two summaries are more than fits
                    texts = [lines[n : n + 2] for n in range(0, len(lines), 2)]
                level = self._run([dialogue_of(text) for text in texts])
            yield Summarized(chat, list(zip(parts, of_parts, strict=True)), level[0])

    def _run(self, dialogues: list[str]) -> list[Prediction]:
        """The summaries of dialogues, in their order."""
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
    """Read, summarise, print each summary as it is made."""
    args = _arguments()
    if not 0 < args.gap_hours < 1e9:
        raise UserError(
            f"--gap-hours: {args.gap_hours:g} is no length of a silence; use 6, or 1e6 for never"
        )
    recipe = load_recipe(args.recipe)
    errors: list[UserError] = []
    items = read_all(args.inputs or ["-"], args.dialogue_field, sys.stdin.buffer)
    chats = _chats(items, args.anonymize, errors)
    printed = 0
    for result in _summaries(chats, recipe, args, errors):
        record = _record(result)
        shown = json.dumps(record, ensure_ascii=False) if args.json else _as_text(record)
        tqdm.write(printable(shown), file=sys.stdout)
        sys.stdout.flush()
        printed += 1
    if errors:
        sys.exit(FAILED if printed else NOTHING)


def _chats(items: Iterable[Item], masked: bool, errors: list[UserError]) -> Iterator[Chat]:
    """The chats among the items; errors and notes go to stderr, and the errors into the list."""
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
    """The chats with their summaries, in their order; the model is loaded once there is a chat."""
    for first in chats:
        summarizer = ChatSummarizer(recipe, args.model, args.gap_hours)
        with summarizer.bar:
            for group in summarizer.groups(chain([first], chats)):
                try:
                    yield from summarizer.summarize(group)
                except UserError as error:  # memory ran out; a later group may be smaller
                    _report(error, errors)


def _record(result: Summarized) -> dict[str, Any]:
    """What `--json` prints of a chat."""
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
    """The summary on a line after the chat's name; those of several parts under it."""
    name = f"{record['name']}: " if record["name"] else ""
    lines = [name + " ".join(record["summary"].split())]
    for part in record["parts"] if len(record["parts"]) > 1 else []:
        when = f"{part['start']:.16} to {part['end']:.16}, " if part["start"] else ""
        number = f"{part['messages']} message{'s' * (part['messages'] > 1)}"
        lines.append(f"  {when.replace('T', ' ')}{number}: {' '.join(part['summary'].split())}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = Options(
        "chat.summarize", "Summaries of chats by a recipe's model, each printed as it is made.",
        'recipes/smollm2_samsum.yml "Anna: coming? Ben: yes, at 8"',
        "recipes/smollm2_samsum.yml chat.txt export.zip --model base --gap-hours 12 --anonymize",
        "recipes/smollm2_samsum.yml rows.jsonl --dialogue-field conversation --json",
        more="Exit code: 0 where all were summarised, 1 where some could not be used, 2 where none"
        "\ncould or an option is wrong; each error is a line on standard error.",
    )  # fmt: skip
    add = parser.add_argument
    add("recipe", type=Path, help="its file")
    add("inputs", nargs="*", metavar="INPUT",
        help="a dialogue (`Name: text`); a text file or an export of a chat, as .txt, .md, .json, "
        ".jsonl, .vtt, .srt, .csv, .xml or .zip; a folder; or - for standard input (default)"
    )  # fmt: skip
    add("--model", choices=("base", "tuned"), default="tuned", help="which one summarises")
    add("--gap-hours", type=float, default=GAP_HOURS, metavar="HOURS",
        help="cut a chat where no message came for so long")  # fmt: skip
    add("--anonymize", action="store_true",
        help="Person 1, Person 2 ... for speakers, `someone` for other people that the export "
        "lists or a message mentions with @, <email> and <phone>; all other names, addresses and "
        "facts that a message tells stay in the text")  # fmt: skip
    add("--dialogue-field", default="dialogue", metavar="NAME",
        help="field of JSON and JSONL rows")  # fmt: skip
    add("--json", action="store_true", help="an object a line, with times and parts")
    return parser.parse_intermixed_args()  # `RECIPE --model base FILE` too


def cut_at_gaps(messages: Messages, hours: float) -> list[Messages]:
    """The conversations of a chat: a new one begins after a silence of more than `hours`.

    Messages without a time, as in plain text, stay with those before them. Within a conversation
    the answers of a thread follow its first message.
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
    """Parts of like size whose dialogues have `most` tokens at most, cut between messages.

    `tokens_of` gives the tokens of a dialogue. A single message that has too many is halved between
    words, and keeps its speaker.
    """
    tokens = tokens_of(dialogue_of(messages))
    if tokens <= most:
        return [messages]
    if len(messages) > 1:  # shares with about equal text, each of one message at least
        number = ceil(tokens / (FILLED * most))
        ends = list(accumulate(len(message.line()) + 1 for message in messages))
        wanted = (bisect_left(ends, ends[-1] * share / number) for share in range(1, number))
        borders = sorted({min(max(1, border), len(messages) - 1) for border in wanted})
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
