"""The one definition of the prompt, for data preparation, training and evaluation alike.

Text of the corpus never becomes a control string: see `Neutralizer`.
"""

import hashlib
import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from data_prep.errors import UserError
from data_prep.hub import model_unavailable
from data_prep.recipe import Recipe, sequence_len
from data_prep.settings import PLACE

# Turn and sequence markers of common chat templates. Mistral's [INST] is plain text to its
# tokenizer and still control to the model, so the tokenizer's special tokens are not enough.
WELL_KNOWN_CONTROLS = frozenset(
    ["<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|begin_of_text|>"]
    + ["<|end_of_text|>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|im_start|>", "<|im_end|>"]
    + ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    + ["<start_of_turn>", "<end_of_turn>"]
)


TODAY = "{today}"  # what no prompt holds


class Example(BaseModel):
    """A line of `data/<recipe>/<split>.jsonl`: Axolotl reads `messages`, our commands the rest.

    `messages` are a system turn where the recipe has one, the user turn (the recipe's `instruction`
    with the dialogue in it) and the assistant turn (the summary). `references`: all summaries of an
    evaluation dialogue, the first of them again; only in a split where some dialogue has several.
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
        """Put the dialogue into the instruction's `{dialogue}`, and other columns into theirs.

        `system`: the text of a system turn before it.

        Raises UserError where the instruction names a column that is not given, as for a chat.
        """
        texts = {**(columns or {}), "dialogue": dialogue}
        if missing := [name for name in PLACE.findall(instruction) if name not in texts]:
            raise UserError(
                f"summarization.instruction: {{{missing[0]}}} is a column of a corpus, which is "
                "not there; take it out of the instruction"
            )
        user = {"role": "user", "content": PLACE.sub(lambda place: texts[place[1]], instruction)}
        assistant = {"role": "assistant", "content": summary}
        first = [{"role": "system", "content": system}] if system else []
        return cls(id=id, dialogue=dialogue, summary=summary, messages=[*first, user, assistant])

    def with_summary(self, id: str, summary: str) -> "Example":
        """The same prompt with another summary."""
        messages = [*self.messages[:-1], {"role": "assistant", "content": summary}]
        return self.model_copy(update={"id": id, "summary": summary, "messages": messages})

    def line(self) -> str:
        """The example as its line of JSON."""
        return self.model_dump_json(exclude=None if self.references else {"references"})


class Neutralizer:
    """Breaks control strings in corpus text by a blank after their first character.

    `</s>` becomes `< /s>`: still readable, no longer a special token. The words that ROUGE sees
    (letters and digits) stay the same.
    """

    def __init__(self, special_tokens: set[str]):
        """`special_tokens`: those of the recipe's tokenizer; the well-known ones are added."""
        controls = {t for t in special_tokens | WELL_KNOWN_CONTROLS if len(t.strip()) > 1}
        longest_first = sorted(controls, key=lambda t: (-len(t), t))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __call__(self, text: str) -> tuple[str, int]:
        """Return the text without control strings, and how many were broken."""
        total = 0
        while True:  # a blank may, in theory, complete another token
            text, count = self._pattern.subn(lambda m: f"{m[0][0]} {m[0][1:]}", text)
            total += count
            if not count:
                return text, total


class PromptEncoder:
    """Token ids of rows through Axolotl's own chat-template strategy: what training sees."""

    def __init__(self, recipe: Recipe):
        """Load tokenizer and strategy as Axolotl would for this recipe.

        Raises UserError where the tokenizer cannot be loaded.
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
            self.tokenizer = load_tokenizer(cfg)
            template = cfg.chat_template or recipe.config["datasets"][0].get("chat_template")
            if not self.tokenizer.chat_template and template in (None, "tokenizer_default"):
                raise ValueError("the tokenizer's chat_template is null")
        except (OSError, ValueError) as error:
            if "chat_template is null" in str(error):  # Axolotl's words too
                raise UserError(
                    f"{recipe.path}: the tokenizer of {recipe.config['base_model']} has no chat "
                    "template; add `chat_template: chatml`, or another of Axolotl's"
                ) from error
            if "lora_modules_to_save" in str(error):  # Axolotl's, for `tokens` that are not trained
                raise UserError(f"{recipe.path}: {error}") from error
            raise UserError(model_unavailable(recipe, error)) from error
        self._strategy = chat_template.load(self.tokenizer, cfg, recipe.config["datasets"][0])
        self._recipe = recipe

    def neutralizer(self) -> Neutralizer:
        """What breaks every control string of this tokenizer in a text."""
        return Neutralizer(control_strings(self.tokenizer, self._recipe.config))

    def check_neutral(self, examples: list[Example]) -> None:
        """Raise UserError where an example holds a control string of this tokenizer as text.

        That happens to rows that were prepared for, or without, another tokenizer.
        """
        neutralize = self.neutralizer()
        for key in ("instruction", "system"):
            if neutralize(getattr(self._recipe.summarization, key) or "")[1]:
                raise UserError(
                    f"summarization.{key} holds a special token of {self.tokenizer.name_or_path}; "
                    "take it out: the chat template writes those"
                )
        for example in examples:
            if any(neutralize(turn["content"])[1] for turn in example.messages):
                raise UserError(
                    f"row {example.id}: holds a special token of {self.tokenizer.name_or_path} as "
                    "text; run `python -m data_prep` again, where this tokenizer can be loaded"
                )

    def prompt_ids(self, example: Example) -> list[int]:
        """Token ids up to and including the generation prompt; no summary."""
        turns = self._strategy.get_conversation_thread({"messages": example.messages[:-1]})
        return list(self._strategy.prompter.build_prompt(turns, add_generation_prompt=True))

    def training_ids(self, example: Example) -> tuple[list[int], list[int]]:
        """Token ids and labels (-100 where no loss is taken), as training sees them."""
        tokens = self._strategy.tokenize_prompt({"messages": example.messages})
        return list(tokens["input_ids"]), list(tokens["labels"])


def control_strings(tokenizer: Any, config: dict[str, Any]) -> set[str]:
    """What is one token to a tokenizer wherever it is in a text, as the recipe extends it.

    Not only what is called special: Qwen3's `<think>` and `<tool_call>` are not, and are control to
    the model. Of those, words, white space and rows of signs (`---`) are text.
    """
    added = tokenizer.added_tokens_decoder.values()
    special = [*tokenizer.all_special_tokens, *(token.content for token in added if token.special)]
    for value in (config.get("special_tokens") or {}).values():
        special += value if isinstance(value, list) else [value]
    named = [token.content for token in added]
    named += [*(config.get("tokens") or []), *(config.get("eot_tokens") or [])]
    named += (config.get("added_tokens_overrides") or {}).values()
    marks = (text for text in map(str, named) if re.search(r"[^\w\s]", text))
    # an underscore is a sign too; \u2581, SentencePiece's blank, is none
    return {*map(str, special), *(text for text in marks if re.search(r"[^\W_]", text))}


def template_hash(recipe: Recipe, today: bool = False) -> str | None:
    """Of the chat template's text, and of the prompt that it writes `today`.

    None where there is no tokenizer: whoever loads the model says why.
    """
    try:
        counter = TokenCounter(recipe)
        text = counter.template + ("\0" + counter.rendered() if today else "")
    except UserError:
        raise
    except Exception:  # hub clients and templates raise unrelated types
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def template_note(recipe: Recipe) -> str:
    """That the chat template writes today's date, and how to fix one; empty where it does not.

    Also where the tokenizer cannot be loaded, which is said elsewhere.
    """
    try:
        counter = TokenCounter(recipe)
        dated = TODAY in counter.rendered(strftime_now=lambda _: TODAY)
        fixed = dated and TODAY not in counter.rendered(
            strftime_now=lambda _: TODAY, date_string="26 Jul 2024"
        )
    except UserError:
        raise
    except Exception:  # hub clients and templates raise unrelated types
        return ""
    fix = "`chat_template_kwargs: {date_string: 26 Jul 2024}`"
    fix = fix if fixed else "a copy of it with a fixed date, named by `chat_template_jinja`"
    return dated * (
        "the chat template writes today's date, so that another day has another prompt and another "
        f"signature; fix the date in the recipe: {fix}"
    )


class TokenCounter:
    """Token counts of whole rows with the recipe's tokenizer, light enough for data preparation.

    Loads `tokenizer.json` alone, from the model's folder or the hub's cache; Axolotl's own loader
    would cost 300 MB more. A test holds its counts against `PromptEncoder`.
    """

    def __init__(self, recipe: Recipe):
        """Raises OSError (or the like) where the tokenizer is not available."""
        from axolotl.utils.chat_templates import get_chat_template_from_config
        from transformers import PreTrainedTokenizerFast

        config = recipe.config
        self.name = str(config.get("tokenizer_config") or config["base_model"])
        self._tokenizer = PreTrainedTokenizerFast.from_pretrained(
            self.name, revision=config.get("revision_of_model") or "main"
        )
        for name, token in (config.get("special_tokens") or {}).items():
            setattr(self._tokenizer, name, token)
        self.template = get_chat_template_from_config(
            config, config["datasets"][0], self._tokenizer
        )
        self._recipe = recipe
        self._check_system()

    @cached_property
    def special_tokens(self) -> set[str]:
        """Every string that is control to the tokenizer as the recipe extends it."""
        return control_strings(self._tokenizer, self._recipe.config)

    def rendered(self, **variables: object) -> str:
        """What the chat template writes now around a user turn, `variables` given to it."""
        system = self._recipe.summarization.system
        messages = Example.build("", "-", "-", "{dialogue}", system=system).messages
        given = {**(self._recipe.config.get("chat_template_kwargs") or {}), **variables}
        text = self._tokenizer.apply_chat_template(
            messages, chat_template=self.template, tokenize=False, **given
        )
        return str(text)

    def _check_system(self) -> None:
        """Raise UserError where the template has no place for the recipe's system turn."""
        from jinja2 import TemplateError

        if not (system := self._recipe.summarization.system):
            return
        try:
            reason = "" if system.strip() in self.rendered() else "it leaves the text out"
        except TemplateError as error:
            reason = " ".join(str(error).split())
        if reason:
            raise UserError(
                f"{self._recipe.path}: summarization.system: the chat template of {self.name} has "
                f"no system turn ({reason}); put the text at the start of summarization.instruction"
            )

    def count(self, examples: list[Example]) -> list[int]:
        """Tokens of each example: prompt, summary and end of turn."""
        texts = self._tokenizer.apply_chat_template(
            [example.messages for example in examples], chat_template=self.template, tokenize=False,
            **(self._recipe.config.get("chat_template_kwargs") or {}),
        )  # fmt: skip
        backend = self._tokenizer.backend_tokenizer
        return [len(e.ids) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]


def read_examples(path: Path) -> list[Example]:
    """Read a prepared split; raises UserError where it is missing or damaged."""
    try:
        with path.open("rb") as file:
            return [Example.model_validate_json(line) for line in file]
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; run `python -m data_prep` with this recipe") from error
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: damaged ({reason}); run `python -m data_prep` again") from error
