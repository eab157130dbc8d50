"""The prompt, defined once for data preparation, training and evaluation.

Corpus text never becomes a control string: see `Neutralizer`.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import TemplateError
from pydantic import BaseModel

from data_prep.errors import UserError
from data_prep.hub import model_unavailable
from data_prep.recipe import Recipe, sequence_len
from data_prep.settings import PLACE

# Turn and sequence markers of common chat templates. The tokenizer's special tokens are not enough:
# Mistral's [INST] is plain text to its tokenizer, but still a control string to the model.
WELL_KNOWN_CONTROLS = frozenset(
    ["<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|begin_of_text|>"]
    + ["<|end_of_text|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|im_start|>", "<|im_end|>"]
    + ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    + ["<start_of_turn>", "<end_of_turn>", "[PAD]"]  # the last is Axolotl's for GPT-NeoX
)
MAX_ROUNDS = 8  # control strings that are left after these rounds are refused later
# Rare and private-use characters: the unknown token that replaces them is not a control token.
RARE_CHARACTERS = "\u2603 \u9fff \ue000 \U00012000 \U0010fffd"
CHUNK = 2000  # rows tokenised at a time; the texts of more rows would take hundreds of MB
# Raised by a template, or by Axolotl's code that reads it, for turns or tokens that it rejects.
TEMPLATE_ERRORS = (
    TemplateError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError,
)  # fmt: skip
FIX_TEMPLATE = "use the model's own chat_template"

TODAY, TURN = "{today}", "{turn}"  # placeholders that occur in no prompt
# Turn markers in a template's output: `<|user|>`, `[|user|]`, and `### Response:` on its own line.
# Lines that start with a letter do not count: `User:` may be a speaker, others a system text.
TAG = re.compile(r"<[^<>\s]{2,40}>|\[[^\[\]\s]{2,40}\]|◁[^◁▷\s]{2,40}▷")
HEADING = re.compile(r"^[ \t]*([^\w\s*•-](?=.*[^\W_]).{2,39}?)[ \t]*$", re.MULTILINE)


class Example(BaseModel):
    """A line of `data/<recipe>/<split>.jsonl`: Axolotl reads `messages`, our commands the rest.

    `messages`: a system turn if the recipe has one, the user turn (the recipe's `instruction` with
    the dialogue in it) and the assistant turn (the summary). `references`: all summaries of an
    evaluation dialogue, `summary` included; only in a split where some dialogue has several.
    """

    id: str
    dialogue: str
    summary: str
    messages: list[dict[str, str]]
    references: list[str] = []

    @classmethod
    def build(
        cls,
        id: str,
        dialogue: str,
        summary: str,
        instruction: str,
        columns: dict[str, str] | None = None,
        system: str | None = None,
    ) -> "Example":
        """Build an example: fill the dialogue and other columns into the instruction.

        `system`: the text of a system turn before the user turn.

        Raises UserError if the instruction uses a column that is not given, as for a chat.
        """
        texts = {**(columns or {}), "dialogue": dialogue}
        if missing := [name for name in PLACE.findall(instruction) if name not in texts]:
            raise UserError(
                f"summarization.instruction: {{{missing[0]}}} is a column of a corpus, which is "
                "not available here; remove it from the instruction"
            )
        user = {"role": "user", "content": PLACE.sub(lambda match: texts[match[1]], instruction)}
        assistant = {"role": "assistant", "content": summary}
        first = [{"role": "system", "content": system}] if system else []
        return cls(id=id, dialogue=dialogue, summary=summary, messages=[*first, user, assistant])

    def with_summary(self, id: str, summary: str) -> "Example":
        """Return a copy with another id and summary."""
        messages = [*self.messages[:-1], {"role": "assistant", "content": summary}]
        return self.model_copy(update={"id": id, "summary": summary, "messages": messages})

    def line(self) -> str:
        """Return the example as one line of JSON."""
        return self.model_dump_json(exclude=None if self.references else {"references"})


class Neutralizer:
    """Breaks control strings in corpus text with a space after their first character.

    `</s>` becomes `< /s>`: still readable, no longer a special token. The words that ROUGE sees
    (letters and digits) stay the same. Also breaks text that the tokenizer's normaliser would turn
    into one: full-width characters (NFKC), capitals (Lowercase), characters that it removes.
    """

    def __init__(self, special_tokens: set[str], normalizer: Any = None):
        """`special_tokens`: those of the recipe's tokenizer; the well-known ones are added.

        `normalizer`: the tokenizer's normaliser, an object of the package tokenizers.
        """
        controls = {t for t in special_tokens | WELL_KNOWN_CONTROLS if len(t.strip()) > 1}
        self._pattern = re.compile(_any_of(controls))
        self._gap, self._normalizer = " ", normalizer
        self._first_chars = {text[0] for text in controls}
        if normalizer is None:
            return
        from tokenizers import Regex

        normalized = (normalizer.normalize_str(text).strip(" \u2581") for text in controls)
        folded = controls | {text for text in normalized if _is_mark(text)}
        self._folded, self._split = re.compile(_any_of(folded)), Regex(_any_of(folded))
        for gap in " -.":  # a normaliser may remove spaces
            broken = (f"{text[0]}{gap}{text[1:]}" for text in controls)
            if not any(self._folded.search(normalizer.normalize_str(text)) for text in broken):
                self._gap = gap
                break

    def __call__(self, text: str) -> tuple[str, int]:
        """Return the text without control strings, and how many were broken."""
        total = 0
        if self._normalizer is None and not any(char in text for char in self._first_chars):
            return text, 0  # nearly every text ends here, which is faster than the pattern
        for _ in range(MAX_ROUNDS):  # a space may, in theory, complete another token
            text, count = self._pattern.subn(lambda m: f"{m[0][0]}{self._gap}{m[0][1:]}", text)
            if not count and self._normalizer is not None:
                text, count = self._break_folded(text)
            total += count
            if not count:
                break
        return text, total

    def neutralize_messages(self, example: Example) -> int:
        """Break control strings that a text forms with the instruction; return how many."""
        turns = [(turn, *self(turn["content"])) for turn in example.messages]
        for turn, text, _ in turns:
            turn["content"] = text
        return sum(count for *_, count in turns)

    def _break_folded(self, text: str) -> tuple[str, int]:
        from tokenizers import PreTokenizedString

        if not self._folded.search(self._normalizer.normalize_str(text)):
            return text, 0
        pretokenized = PreTokenizedString(text)
        pretokenized.normalize(self._normalizer.normalize)
        pretokenized.split(lambda _, part: part.split(self._split, "isolated"))
        pieces, done = [], 0
        for part, (start, end), _ in pretokenized.get_splits("original", "char"):
            if self._folded.fullmatch(part):
                pieces.append(text[done : start + (end - start > 1)])  # a lone character is dropped
                done = max(start + 1, done)
        return self._gap.join([*pieces, text[done:]]), len(pieces)


def _any_of(texts: set[str]) -> str:
    """Return a pattern that matches any of the texts, the longest first."""
    return "|".join(map(re.escape, sorted(texts, key=lambda text: (-len(text), text))))


def _is_mark(text: str) -> bool:
    """Return whether a text has both a letter or digit and punctuation; `word`, `---` do not."""
    # an underscore counts as neither; \u2581, SentencePiece's space, counts as punctuation
    return bool(re.search(r"[^\w\s]", text) and re.search(r"[^\W_]", text))


class _Tokenizer:
    """Base class of both readers of a recipe's tokenizer; `template`: the chat template's text."""

    tokenizer: Any
    template: str
    recipe: Recipe

    @cached_property
    def special_tokens(self) -> set[str]:
        """All control strings of the tokenizer, with those that the recipe adds."""
        return control_strings(self.tokenizer, self.recipe.config, self.template)

    def neutralizer(self) -> Neutralizer:
        """Return a `Neutralizer` for the control strings of this tokenizer."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return Neutralizer(self.special_tokens, getattr(backend, "normalizer", None))


class PromptEncoder(_Tokenizer):
    """Encodes rows with Axolotl's own chat-template strategy: the ids equal training's."""

    def __init__(self, recipe: Recipe):
        """Load tokenizer and strategy as Axolotl would for this recipe.

        Raises UserError if the tokenizer cannot be loaded.
        """
        from axolotl.loaders import load_tokenizer
        from axolotl.prompt_strategies import chat_template
        from axolotl.utils.dict import DictDefault

        chat_template.LOG.setLevel(logging.WARNING)
        cfg = DictDefault(recipe.config)
        cfg.sequence_len = sequence_len(recipe.config)
        cfg.base_model_config = cfg.base_model_config or cfg.base_model
        cfg.tokenizer_config = cfg.tokenizer_config or cfg.base_model_config
        try:
            with TemporaryDirectory() as folder:  # Axolotl writes an extended tokenizer to it
                cfg.output_dir = folder
                self.tokenizer = load_tokenizer(cfg)
            template = cfg.chat_template or recipe.config["datasets"][0].get("chat_template")
            if not self.tokenizer.chat_template and template in (None, "tokenizer_default"):
                raise ValueError("the tokenizer's chat_template is null")
        except Exception as error:  # a model's files may contain anything
            if "chat_template is null" in str(error):  # also in Axolotl's own error
                raise UserError(
                    f"{recipe.path}: the tokenizer of {recipe.config['base_model']} has no chat "
                    "template; add `chat_template: chatml`, or another of Axolotl's"
                ) from error
            if "lora_modules_to_save" in str(error):  # Axolotl's error for untrained `tokens`
                raise UserError(f"{recipe.path}: {error}") from error
            raise UserError(model_unavailable(recipe, error)) from error
        self.recipe = recipe
        with self._template_errors():
            self._strategy = chat_template.load(self.tokenizer, cfg, recipe.config["datasets"][0])
        self.template = str(self._strategy.prompter.chat_template)

    @cached_property
    def _control_ids(self) -> set[int]:
        """Ids of the control strings, without that of the unknown token."""
        vocabulary = self.tokenizer.get_vocab()
        strings = self.special_tokens | WELL_KNOWN_CONTROLS
        unknown_ids = self.tokenizer(RARE_CHARACTERS, add_special_tokens=False)["input_ids"]
        return {vocabulary[text] for text in strings if text in vocabulary} - set(unknown_ids)

    def check_no_control_strings(self, examples: list[Example]) -> None:
        """Raise UserError if an example's text holds control tokens of the tokenizer or the model.

        Checks the token ids, after the normaliser, the template and the joining of the texts, and
        the strings, since some are plain text to the tokenizer. Rows prepared with another
        tokenizer, or without one, can have such text.
        """
        name, block = self.tokenizer.name_or_path, self.recipe.summarization
        neutralize, columns = self.neutralizer(), dict.fromkeys(block.prompt_columns, "a")
        bare = Example.build("", "a", "a", block.instruction, columns, block.system)
        if self._first_with_control([bare], neutralize):
            system = block.system and neutralize(block.system)[1]
            raise UserError(
                f"summarization.{'system' if system else 'instruction'} holds a special token of "
                f"{name}; remove it: the chat template adds those"
            )
        for start in range(0, len(examples), CHUNK):
            row = self._first_with_control(examples[start : start + CHUNK], neutralize)
            if row is None:
                continue
            fix = "run `python -m data_prep` again on a machine that can load this tokenizer"
            row = row.model_copy(deep=True)
            neutralize.neutralize_messages(row)
            if self._first_with_control([row], neutralize):
                fix = (
                    "a space does not break it: change it in the source, or change the instruction "
                    "and the chat_template around it"
                )
            raise UserError(f"row {row.id}: holds a special token of {name} as text; {fix}")

    def _first_with_control(self, rows: list[Example], neutralize: Neutralizer) -> Example | None:
        """Return the first row whose text holds control tokens.

        Compares a row's control ids with those of the same row with each character replaced by `a`.
        """
        for row in rows:
            if any(neutralize(turn["content"])[1] for turn in row.messages):
                return row
        expected = self._controls([_masked(rows[0])])[0]
        for row, ids in zip(rows, self._controls(rows), strict=True):
            if ids != expected and ids != self._controls([_masked(row)])[0]:
                return row
        return None

    def _controls(self, rows: list[Example]) -> list[list[int]]:
        """Return the control ids of each row as training renders it; for a chat, of its prompt."""
        with self._template_errors():
            texts = [self._text(row.messages if row.summary else row.messages[:-1]) for row in rows]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [[token for token in ids if token in self._control_ids] for ids in encoded]

    def _text(self, messages: list[dict[str, str]]) -> str:
        turns = self._strategy.get_conversation_thread({"messages": messages})
        return str(self._strategy.prompter.build_prompt_text(turns))

    def prompt_ids(self, example: Example) -> list[int]:
        """Return the token ids up to and including the generation prompt, without the summary."""
        with self._template_errors():
            turns = self._strategy.get_conversation_thread({"messages": example.messages[:-1]})
            return list(self._strategy.prompter.build_prompt(turns, add_generation_prompt=True))

    def training_ids(self, example: Example) -> tuple[list[int], list[int]]:
        """Return token ids and labels (-100 for tokens without loss), as training sees them."""
        with self._template_errors():
            row = self._strategy.tokenize_prompt({"messages": example.messages})
        return list(row["input_ids"]), list(row["labels"])

    @contextmanager
    def _template_errors(self) -> Iterator[None]:
        """Turn errors that the chat template raises for our turns into a UserError."""
        try:
            yield
        except TEMPLATE_ERRORS as error:
            raise template_refusal(self.recipe, error, self._text) from error


def _masked(row: Example) -> Example:
    """Return the row with `a`, which is no control string, for each character of its texts."""
    turns = [{**turn, "content": re.sub(r"\S", "a", turn["content"])} for turn in row.messages]
    return row.model_copy(update={"messages": turns})


def template_refusal(
    recipe: Recipe, error: Exception, render: Callable[[list[dict[str, str]]], str]
) -> UserError:
    """Return a UserError on why the chat template raised an error, and what to do about it.

    `render` turns messages into text. If it works with a system turn added or removed, that is
    the fix.
    """
    system = recipe.summarization.system

    def accepts(system: str | None) -> bool:
        try:
            render(Example.build("", "-", "-", "{dialogue}", system=system).messages)
        except Exception:  # templates raise unrelated types
            return False
        return True

    if not accepts(system) and accepts(None if system else "-"):
        fix = "set `summarization.system`, because the template requires a system turn"
        if system:
            fix = "put the text of summarization.system at the start of summarization.instruction"
    elif recipe.config.get("chat_template") in (None, "tokenizer_default"):
        fix = "set `chat_template: jinja` and `chat_template_jinja:` to a copy without that error"
    else:
        fix = FIX_TEMPLATE
    reason = " ".join(str(error).split())[:200]
    return UserError(f"{recipe.path}: chat_template: {reason}; {fix}")


def control_strings(tokenizer: Any, config: dict[str, Any], template: str) -> set[str]:
    """Return a tokenizer's control strings, those that the recipe adds, and the turn markers.

    Added tokens count even if not marked special, such as Qwen3's `<think>` and `<tool_call>`, but
    not words, white space and punctuation (`---`), unless the recipe lists them. The markers that
    the `template` writes around turns need not be tokens.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = [*tokenizer.all_special_tokens, *(token.content for token in added if token.special)]
    for value in (config.get("special_tokens") or {}).values():
        special += value if isinstance(value, list) else [value]
    special += [*(config.get("tokens") or []), *(config.get("eot_tokens") or [])]
    special += (config.get("added_tokens_overrides") or {}).values()
    controls = {*map(str, special), *(t.content for t in added if _is_mark(t.content))}
    system, user, answer = (
        {"role": role, "content": TURN} for role in ("system", "user", "assistant")
    )
    kwargs = config.get("chat_template_kwargs") or {}
    for turns in ([system, user], [user], [system, user, answer, user, answer], [user, answer] * 2):
        with suppress(*TEMPLATE_ERRORS):  # turns that it rejects have no markers
            text = tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False,
                **{"add_generation_prompt": len(turns) < 3, **kwargs},
            )  # fmt: skip
            controls |= {*TAG.findall(text)}
            text = re.sub(_any_of(controls - {""} | {TURN}), "\n", text)
            controls |= {*HEADING.findall(text)}
    return controls


def template_hash(recipe: Recipe, today: bool = False) -> str | None:
    """Hash the chat template (with `today`, also today's prompt) by SHA-256; None if unknown."""
    counter = _token_counter(recipe)
    if counter is None:
        return None
    text = counter.template + ("\0" + counter.rendered() if today else "")
    return hashlib.sha256(text.encode()).hexdigest()


def template_note(recipe: Recipe) -> str:
    """Return a note, with the fix, if the chat template writes today's date; else empty."""
    counter = _token_counter(recipe)
    if counter is None or TODAY not in counter.rendered(strftime_now=lambda _: TODAY):
        return ""
    fix = "`chat_template_kwargs: {date_string: 26 Jul 2024}`"
    if TODAY in counter.rendered(strftime_now=lambda _: TODAY, date_string="26 Jul 2024"):
        fix = "a copy of it with a fixed date, named by `chat_template_jinja`"
    return (
        "the chat template writes today's date, so the prompt and the signature change every day; "
        f"fix the date in the recipe: {fix}"
    )


def _token_counter(recipe: Recipe) -> "TokenCounter | None":
    """Return the counter; None if the tokenizer is missing, which loading the model will report."""
    try:
        return TokenCounter(recipe)
    except UserError:
        raise
    except Exception:  # Hub clients raise unrelated types
        return None


class TokenCounter(_Tokenizer):
    """Counts the tokens of whole rows with the recipe's tokenizer, using little memory.

    Loads only `tokenizer.json`, from the model's folder or the Hub's cache; Axolotl's own loader
    would need 300 MB more. A test compares its counts with `PromptEncoder`.
    """

    def __init__(self, recipe: Recipe):
        """Load the tokenizer; raises OSError or a similar error if it is not available.

        Raises UserError if the chat template rejects the recipe's turns, or leaves one out.
        """
        from axolotl.utils.chat_templates import get_chat_template_from_config
        from transformers import PreTrainedTokenizerFast

        config = recipe.config
        self.name = str(config.get("tokenizer_config") or config["base_model"])
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(
            self.name, revision=config.get("revision_of_model") or "main"
        )
        for name, token in (config.get("special_tokens") or {}).items():
            setattr(self.tokenizer, name, token)
        self.template = get_chat_template_from_config(config, config["datasets"][0], self.tokenizer)
        self.recipe = recipe
        system = recipe.summarization.system or ""
        if system.strip() not in self.rendered():
            raise UserError(
                f"{recipe.path}: summarization.system: the chat template of {self.name} leaves the "
                "text out; put it at the start of summarization.instruction"
            )

    def rendered(self, **variables: object) -> str:
        """Return what the chat template writes now for a user turn, given `variables`."""
        system = self.recipe.summarization.system
        messages = Example.build("", "-", "-", "{dialogue}", system=system).messages
        return self._texts([messages], **variables)[0]

    def _texts(self, rows: list[list[dict[str, str]]], **variables: object) -> list[str]:
        """Render each row's turns with the chat template; raises UserError if it rejects them."""
        render = partial(
            self.tokenizer.apply_chat_template, chat_template=self.template, tokenize=False,
            **{**(self.recipe.config.get("chat_template_kwargs") or {}), **variables},
        )  # fmt: skip
        try:
            return list(render(rows))
        except TEMPLATE_ERRORS as error:
            raise template_refusal(self.recipe, error, render) from error

    def count(self, examples: list[Example]) -> list[int]:
        """Return the number of tokens of each example: prompt, summary and end of turn."""
        texts = self._texts([example.messages for example in examples])
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # tokenizer.json may turn both on; training does not
        backend.no_padding()
        return [len(e.ids) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]


def read_examples(path: Path) -> list[Example]:
    """Read a prepared split; raises UserError if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            return [Example.model_validate_json(line) for line in file]
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; run `python -m data_prep` with this recipe") from error
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: damaged ({reason}); run `python -m data_prep` again") from error
