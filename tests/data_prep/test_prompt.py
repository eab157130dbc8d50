"""Prompts: evaluation sends an exact prefix of the training ids; text never becomes control."""

import json
import re
import shutil
from pathlib import Path

import pytest

from data_prep.errors import UserError
from data_prep.prepare import prepare
from data_prep.prompt import (
    WELL_KNOWN_CONTROLS,
    Example,
    Neutralizer,
    PromptEncoder,
    TokenCounter,
    read_examples,
)
from data_prep.recipe import Recipe, load_recipe
from tests.conftest import derived_recipe, small_tokenizer


@pytest.fixture(scope="module", params=["smollm2", "mistral"])
def recipe(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smollm2: Path,
    tiny_mistral: Path,
) -> Recipe:  # fmt: skip
    folder = tmp_path_factory.mktemp("prompt")
    base_model = {"smollm2": smollm2, "mistral": tiny_mistral}[request.param]
    path = derived_recipe(
        f"{request.param}_samsum", folder, request.param, base_model=str(base_model),
        summarization__source="data_prep/sample", summarization__license="CC0-1.0",
    )  # fmt: skip
    recipe = load_recipe(path)
    prepare(recipe)
    return recipe


def test_prompt_is_prefix_of_training_ids_and_loss_is_on_summary_and_end(recipe: Recipe) -> None:
    encoder = PromptEncoder(recipe)
    tokenizer = encoder.tokenizer
    for row in read_examples(recipe.data_dir / "test.jsonl"):
        prompt = encoder.prompt_ids(row)
        ids, labels = encoder.training_ids(row)
        assert ids[: len(prompt)] == prompt
        bos = tokenizer.bos_token_id
        expected = 1 if "mistral" in recipe.name else 3  # ChatML: <|im_start|> opens each turn
        assert prompt.count(bos) == expected and prompt[0] == bos
        assert set(labels[: len(prompt)]) == {-100}
        trained = [label for label in labels if label != -100]
        assert trained[-1] == tokenizer.eos_token_id and trained.count(trained[-1]) == 1
        assert trained == ids[len(prompt) : len(prompt) + len(trained)]
        summary = row.summary
        assert tokenizer.decode(trained[:-1]).strip() == summary


def test_mistral_prompt_equals_that_of_mistral_common(recipe: Recipe) -> None:
    if "mistral" not in recipe.name:
        pytest.skip("mistral-common encodes only Mistral's prompts")
    from mistral_common.protocol.instruct.messages import UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    theirs, ours = MistralTokenizer.v1(), PromptEncoder(recipe)
    for row in read_examples(recipe.data_dir / "test.jsonl"):
        message = UserMessage(content=row.messages[0]["content"])
        request: ChatCompletionRequest = ChatCompletionRequest(messages=[message])
        assert ours.prompt_ids(row) == theirs.encode_chat_completion(request).tokens


def test_token_counter_agrees_with_training(recipe: Recipe) -> None:
    encoder, counter = PromptEncoder(recipe), TokenCounter(recipe)
    counter.tokenizer.backend_tokenizer.enable_truncation(8)  # as a tokenizer.json may set
    counter.tokenizer.backend_tokenizer.enable_padding(length=900)
    rows = read_examples(recipe.data_dir / "validation.jsonl")
    lengths = counter.count(rows)
    ids = [encoder.training_ids(row)[0] for row in rows]
    template_tail = lengths[0] - len(ids[0])  # Axolotl may leave out a template's last newline
    assert template_tail in (0, 1)
    assert lengths == [len(i) + template_tail for i in ids]


def test_control_strings_in_text_never_become_special_tokens(recipe: Recipe) -> None:
    encoder, counter = PromptEncoder(recipe), TokenCounter(recipe)
    controls = sorted(counter.special_tokens | WELL_KNOWN_CONTROLS)
    neutralize = Neutralizer(counter.special_tokens)
    dialogue, broken = neutralize("\n".join(f"Ann: x{c}y {c}" for c in controls))
    summary, _ = neutralize(f"Ann says {controls[0]}{controls[-1]}.")
    assert broken == 2 * len(controls)
    plain = "Ann: hello"
    special = set(encoder.tokenizer.all_special_ids) | {
        encoder.tokenizer.convert_tokens_to_ids(t) for t in counter.special_tokens
    }

    def specials(dialogue: str, summary: str) -> list[int]:
        row = Example.build("1", dialogue, summary, recipe.summarization.instruction)
        return [i for i in encoder.training_ids(row)[0] if i in special]

    assert specials(dialogue, summary) == specials(plain, "Ann says hello.")
    assert "[INST]" not in dialogue and "</s>" not in dialogue


def test_a_raw_control_string_would_be_a_special_token(recipe: Recipe) -> None:
    """Guards the test above: without the neutraliser, the tokenizer does see control tokens."""
    encoder = PromptEncoder(recipe)
    eos = encoder.tokenizer.eos_token
    row = Example.build("1", f"Ann: {eos}", "Hi.", recipe.summarization.instruction)
    clean = Example.build("1", "Ann: x", "Hi.", recipe.summarization.instruction)
    ids, clean_ids = encoder.prompt_ids(row), encoder.prompt_ids(clean)
    assert ids.count(encoder.tokenizer.eos_token_id) > clean_ids.count(
        encoder.tokenizer.eos_token_id
    )


def test_neutralizer_leaves_other_text_and_broken_tokens_alone() -> None:
    neutralize = Neutralizer({"<|x|>"})
    assert neutralize("a < b, [a] <file_photo> 1 </ s>") == ("a < b, [a] <file_photo> 1 </ s>", 0)
    assert neutralize("<|x|></s>") == ("< |x|>< /s>", 2)
    once, _ = neutralize("<</s>/s>")
    assert neutralize(once) == (once, 0)


def test_an_example_puts_the_dialogue_into_the_instruction(tmp_path: Path) -> None:
    """Even if the dialogue contains the placeholder; writing and reading keep the example."""
    instruction = "Sum up:\n{dialogue}\nSummary:"
    example = Example.build("7", "Ann: {dialogue}\nBob: no", "They talk.", instruction)
    assert example.messages == [
        {"role": "user", "content": "Sum up:\nAnn: {dialogue}\nBob: no\nSummary:"},
        {"role": "assistant", "content": "They talk."},
    ]
    path = tmp_path / "test.jsonl"
    path.write_text(example.model_dump_json() + "\n", "utf-8")
    assert read_examples(path) == [example]
    path.write_text(example.model_dump_json()[:-9], "utf-8")
    with pytest.raises(UserError, match="test.jsonl: damaged"):
        read_examples(path)


def test_added_tokens_are_control_except_words_and_blanks(tmp_path: Path) -> None:
    """Qwen3's `<think>` is an added token not marked as special, as are a recipe's `tokens`."""
    model = tmp_path / "model"
    shutil.copytree(small_tokenizer(), model)
    data = json.loads((model / "tokenizer.json").read_text("utf-8"))
    texts = ("<think>", "   ", "\n\n", "\u2581\u2581", "thinking", "---")
    for number, text in enumerate(texts, 60_000):
        data["added_tokens"].append({
            "id": number, "content": text, "special": False, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        })  # fmt: skip
    (model / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    recipe = load_recipe(derived_recipe(
        "smollm2_samsum", tmp_path, "recipe", base_model=str(model), tokens=["<own>"],
        added_tokens_overrides={"5": "<over>"},
        special_tokens={"additional_special_tokens": ["@@"]},
    ))  # fmt: skip
    neutralize = Neutralizer(TokenCounter(recipe).special_tokens)
    text = "<think>thinking   <own>\n\n\u2581\u2581 <over> @@ ---"
    expected = "< think>thinking   < own>\n\n\u2581\u2581 < over> @ @ ---"
    assert neutralize(text)[0] == expected


def test_the_check_before_evaluation_finds_the_same_strings(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(small_tokenizer(), model)
    recipe = load_recipe(
        derived_recipe("smollm2_samsum", tmp_path, "recipe", base_model=str(model))
    )
    encoder = PromptEncoder(recipe)
    encoder.tokenizer.add_tokens(["<tool_call>"])  # not a special token
    row = Example.build("7", "Ann: <tool_call>", "Hi.", "{dialogue}")
    with pytest.raises(UserError, match="row 7: holds a special token"):
        encoder.check_no_control_strings([row])
    assert encoder.neutralizer()("<tool_call>")[0] == "< tool_call>"
    path = derived_recipe(
        "smollm2_samsum", tmp_path, "recipe", base_model=str(model),
        summarization__instruction="<|im_start|> Sum up: {dialogue}",
    )  # fmt: skip
    with pytest.raises(UserError, match="summarization.instruction holds a special token"):
        PromptEncoder(load_recipe(path)).check_no_control_strings([])


@pytest.mark.parametrize(("template", "reason"), [
    ("{{ raise_exception('System role not supported') if messages[0].role == 'system' }}",
     "chat_template: System role not supported; "),
    ("{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}",
     "summarization.system: the chat template of .* leaves the text out"),
])  # fmt: skip
def test_a_system_turn_that_the_template_lacks_is_refused(
    tmp_path: Path, smollm2: Path, template: str, reason: str
) -> None:
    recipe = load_recipe(derived_recipe(
        "smollm2_samsum", tmp_path, "recipe", chat_template="jinja", chat_template_jinja=template,
        summarization__system="Be brief.",
    ))  # fmt: skip
    with pytest.raises(UserError, match=reason) as caught:
        prepare(recipe)
    assert re.search("; put .* at the start of summarization.instruction$", str(caught.value))


def test_a_system_turn_is_in_every_prompt(tmp_path: Path, smollm2: Path) -> None:
    recipe = load_recipe(derived_recipe(
        "smollm2_samsum", tmp_path, "recipe", summarization__system="You sum up chats."
    ))  # fmt: skip
    prepare(recipe)
    row = read_examples(recipe.data_dir / "train.jsonl")[0]
    assert [turn["role"] for turn in row.messages] == ["system", "user", "assistant"]
    encoder = PromptEncoder(recipe)
    prompt, (ids, labels) = encoder.prompt_ids(row), encoder.training_ids(row)
    assert "You sum up chats." in encoder.tokenizer.decode(prompt)
    assert ids[: len(prompt)] == prompt and set(labels[: len(prompt)]) == {-100}
