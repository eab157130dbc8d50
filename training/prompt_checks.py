"""Check prompt parity: training, evaluation and the model must use the same prompt.

from training.prompt_checks import check_parity
print(check_parity(load_recipe("recipes/smollm2_samsum.yml")).problems)
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from data_prep.errors import UserError
from data_prep.hub import end_token_ids
from data_prep.prompt import FIX_TEMPLATE, Example, PromptEncoder, read_examples, template_note
from data_prep.recipe import Recipe
from training.plan import SPLITS

FIX_LOSS = f"leave train_on_inputs, roles_to_train and train_on_eos out, and {FIX_TEMPLATE}"
FIX_END = "set the token that ends a turn in `special_tokens: eos_token:`"
# Template variables that turn thinking off: Qwen3, SmolLM3, GLM, Hunyuan; Granite, DeepSeek
THINKING_VARIABLES = ("enable_thinking", "thinking")
MAX_QUOTED = 60  # characters of a row's text to quote in a message
ROW_KEYS = {"path", "split", "name", "ds_type", "data_files", "revision"}  # of rows, not of prompts


@dataclass(frozen=True)
class EncodedRow:
    """A prepared row: the prompt ids of evaluation, and the ids and labels of training."""

    row: Example
    prompt: list[int]
    ids: list[int]
    labels: list[int]

    @cached_property
    def trained(self) -> list[int]:
        """The ids after the prompt that are in the loss."""
        return [label for label in self.labels[len(self.prompt) :] if label != -100]

    @cached_property
    def untrained(self) -> list[int]:
        """The ids between the prompt and the last trained id that are not in the loss.

        A space is allowed: Mistral's tokenizer puts one before a summary that starts with a digit.
        """
        answer = list(zip(self.ids, self.labels, strict=True))[len(self.prompt) :]
        while answer and answer[-1][1] == -100:
            answer.pop()
        return [token for token, label in answer if label == -100]


class RowChecks:
    """The checks; each returns a row's problem with its fix, or an empty string."""

    def __init__(self, recipe: Recipe, encoder: PromptEncoder, fix: str = ""):
        """`recipe` and `encoder` made the rows; `fix` replaces the usual advice in messages."""
        self.recipe, self.tokenizer = recipe, encoder.tokenizer
        self.fix_template, self.fix_loss = fix or FIX_TEMPLATE, fix or FIX_LOSS
        self.bos = self.tokenizer.bos_token_id
        self.adds_bos = self.bos is not None and self.tokenizer("x")["input_ids"][0] == self.bos
        self.stops = _stop_ids(recipe, self.tokenizer)
        self.mistral = mistral_encoder(self.tokenizer)

    def run(self, rows: list[EncodedRow]) -> tuple[list[str], list[str]]:
        """Return one line per failed check, and one sentence per check that every row passed."""
        checks: dict[Callable[[EncodedRow], str], str] = {
            self._prefix: "the ids that evaluation sends are the exact start of training's ids",
            self._one_bos: "no BOS is doubled, and none is missing",
            self._prompt_without_loss: "the prompt is not in the loss",
            self._loss: "the loss covers the summary and the turn's end, where generation stops",
        }
        if self.mistral and any("[INST]" in self._text(row.prompt) for row in rows):
            checks[self._as_mistral_common] = "the ids equal those of mistral-common's own encoder"
        problems, checked = [], []
        for check, sentence in checks.items():
            failed = [(row.row.id, problem) for row in rows if (problem := check(row))]
            if failed:
                affected = f" ({len(failed)} of {len(rows)} rows)" if failed[1:] else ""
                problems.append(f"{self.recipe.path}: row {failed[0][0]}: {failed[0][1]}{affected}")
            elif rows:
                checked.append(f"{len(rows)} rows: {sentence}")
            if failed and check == self._prefix:
                break  # the other checks need to know where the prompt ends
        return problems, checked

    def _prefix(self, row: EncodedRow) -> str:
        if row.ids[: len(row.prompt)] == row.prompt:
            return ""
        return (
            "the prompt that evaluation sends is not the start of what training sees (they differ "
            f"from token {_first_difference(row.prompt, row.ids)} on); {self.fix_template}"
        )

    def _one_bos(self, row: EncodedRow) -> str:
        doubled = any(a == b == self.bos for a, b in zip(row.ids, row.ids[1:], strict=False))
        count = row.ids.count(self.bos)
        if not doubled and not (self.adds_bos and (count != 1 or row.ids[0] != self.bos)):
            return ""
        actual = "two of them side by side" if doubled else f"{count} of them"
        return (
            f"must start with one {self.tokenizer.bos_token} and contain no other, but has "
            f"{actual}; {self.fix_template}"
        )

    def _prompt_without_loss(self, row: EncodedRow) -> str:
        count = sum(label != -100 for label in row.labels[: len(row.prompt)])
        return f"{count} tokens of the prompt are in the loss; {self.fix_loss}" if count else ""

    def _loss(self, row: EncodedRow) -> str:
        trained, summary = row.trained, row.row.summary.strip()
        if not trained:
            return f"nothing of the summary is in the loss; {self.fix_loss}"
        if self._text(trained) == summary:
            return (
                "the turn's end is not in the loss, so the model never learns to stop; "
                f"{FIX_END}, and leave train_on_eos out"
            )
        if self._text(trained[:-1]) != summary:
            in_loss = self._text(trained)[:MAX_QUOTED]
            return f"the loss covers {in_loss!r}, not the summary; {self.fix_loss}"
        if left_out := self._text(row.untrained)[:MAX_QUOTED]:
            return f"the loss leaves out {left_out!r} before the turn's end; {self.fix_loss}"
        end, token = trained[-1], self.tokenizer.convert_ids_to_tokens(trained[-1])
        if end not in self.stops:
            return f"the turn ends with {token!r}, where generation does not stop; {FIX_END}"
        return ""

    def _as_mistral_common(self, row: EncodedRow) -> str:
        assert self.mistral is not None
        expected = self.mistral(row.row.messages)
        if expected == row.ids:
            return ""
        is_v1 = self.recipe.config.get("chat_template") == "mistral_v1"
        fix = "leave its bos_token and eos_token alone" if is_v1 else "set it to mistral_v1"
        return (
            "chat_template does not give the ids of mistral-common's own encoder (they differ "
            f"from token {_first_difference(expected, row.ids)} on); {fix}"
        )

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


@dataclass(frozen=True)
class Parity:
    """The results of the checks on some rows; `problems` is empty if all passed."""

    problems: list[str]  # one line each; if several rows share one, the first row's
    end: str  # the token that ends a turn, where generation stops
    checked: list[str]  # one sentence per check that all rows passed
    example: EncodedRow  # the shortest row
    encoder: PromptEncoder


def check_parity(recipe: Recipe, sample: int = 16) -> Parity:
    """Compare the prompts of training and evaluation on `sample` prepared rows.

    Raises UserError if the tokenizer or the rows cannot be read, or the chat template refuses them;
    other problems go into `problems`. The search for control strings in texts covers all rows,
    including the test split.
    """
    splits = [read_examples(recipe.data_dir / f"{split}.jsonl") for split in (*SPLITS, "test")]
    chosen = [row for rows in splits[:2] for row in spread(rows, sample // len(SPLITS))]
    encoder = PromptEncoder(recipe)
    encoded = _encoded(encoder, chosen)
    problems, checked = RowChecks(recipe, encoder).run(encoded)
    if problems and (fix := _thinking_fix(recipe, encoder, chosen)):
        problems, checked = RowChecks(recipe, encoder, fix).run(encoded)
    checked += filter(None, [template_note(recipe)])
    problems += _recipe_problems(recipe, encoder, [row for rows in splits for row in rows])
    ends = {row.trained[-1] for row in encoded if row.trained}
    if len(ends) > 1:
        problems.append(f"{recipe.path}: rows end with different tokens; {FIX_LOSS}")
    end = encoder.tokenizer.convert_ids_to_tokens(min(ends)) if ends else ""
    shortest = min(encoded, key=lambda row: len(row.ids))
    return Parity(problems, end, checked, shortest, encoder)


def _encoded(encoder: PromptEncoder, rows: list[Example]) -> list[EncodedRow]:
    return [EncodedRow(row, encoder.prompt_ids(row), *encoder.training_ids(row)) for row in rows]


def _thinking_fix(recipe: Recipe, encoder: PromptEncoder, rows: list[Example]) -> str:
    """Return the fix "turn thinking off" if that alone makes every check pass, else "".

    With thinking on, training sees an empty thought before the summary, and evaluation's prompt
    ends before or inside it.
    """
    current = recipe.config.get("chat_template_kwargs") or {}
    for name in THINKING_VARIABLES:
        if name not in encoder.template or current.get(name) is False:
            continue
        kwargs = {**current, name: False}
        changed = replace(recipe, config={**recipe.config, "chat_template_kwargs": kwargs})
        with suppress(UserError):  # the template may reject it
            changed_encoder = PromptEncoder(changed)
            if not RowChecks(changed, changed_encoder).run(_encoded(changed_encoder, rows))[0]:
                settings = ", ".join(f"{key}: {json.dumps(value)}" for key, value in kwargs.items())
                return f"set `chat_template_kwargs: {{{settings}}}`"
    return ""


def spread(rows: list[Example], count: int) -> list[Example]:
    """Return the first, last and longest (in characters) row and evenly spaced others, in order."""
    if len(rows) <= count:
        return rows
    last = len(rows) - 1
    sizes = [len(row.dialogue) + len(row.summary) for row in rows]
    even = [round(step * last / (count - 1)) for step in range(count)]
    chosen = list(dict.fromkeys([0, last, sizes.index(max(sizes)), *even]))[:count]
    return [rows[number] for number in sorted(chosen)]


def _recipe_problems(recipe: Recipe, encoder: PromptEncoder, rows: list[Example]) -> Iterator[str]:
    """Yield the problems that do not depend on the sample."""
    try:
        encoder.check_no_control_strings(rows)
    except UserError as error:
        yield f"{recipe.path}: {error}"
    train, validation = recipe.config["datasets"][0], recipe.config["test_datasets"][0]
    for key in sorted({*train, *validation} - ROW_KEYS):
        if train.get(key) != validation.get(key):
            yield (
                f"{recipe.path}: datasets[0].{key} is {train.get(key)!r}, test_datasets[0].{key} "
                f"is {validation.get(key)!r}; make them equal, or eval_loss measures another "
                "prompt"
            )
    template = recipe.config.get("chat_template")
    if template == "mistral_v1" and not mistral_encoder(encoder.tokenizer):
        yield (
            f"{recipe.path}: chat_template mistral_v1 is for Mistral-7B-Instruct v0.1 and "
            f"v0.2, and {encoder.tokenizer.name_or_path} has another vocabulary; {FIX_TEMPLATE}"
        )


def mistral_encoder(tokenizer: Any) -> Callable[[list[dict[str, str]]], list[int]] | None:
    """Return mistral-common's encoder; None if the vocabulary is not Mistral's v1."""
    from mistral_common.protocol.instruct.messages import AssistantMessage, UserMessage
    from mistral_common.protocol.instruct.request import InstructRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    mistral_tokenizer, vocabulary = MistralTokenizer.v1().instruct_tokenizer, tokenizer.get_vocab()
    pieces = mistral_tokenizer.tokenizer.vocab()
    if any(vocabulary.get(piece) != token_id for token_id, piece in enumerate(pieces)):
        return None

    def encode(messages: list[dict[str, str]]) -> list[int]:
        *_, user, assistant = (message["content"] for message in messages)
        turns: list[Any] = [UserMessage(content=user), AssistantMessage(content=assistant)]
        request: InstructRequest[Any, Any] = InstructRequest(messages=turns)
        return mistral_tokenizer.encode_instruct(request).tokens

    return encode


def _stop_ids(recipe: Recipe, tokenizer: Any) -> set[int]:
    """Return the ids that stop generation: EOS, `eot_tokens`, the model's own settings."""
    eot_tokens = recipe.config.get("eot_tokens") or []
    eot_ids = tokenizer.convert_tokens_to_ids(eot_tokens)
    return {tokenizer.eos_token_id, *eot_ids, *end_token_ids(recipe.config)}


def _first_difference(left: list[int], right: list[int]) -> int:
    """Return the position of the first token that differs."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((position for position, (a, b) in pairs if a != b), min(len(left), len(right)))
