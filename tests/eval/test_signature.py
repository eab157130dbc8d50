"""Signatures: what they contain, when two results may be compared, what changes a key."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_prep.prompt import TokenCounter, template_note
from data_prep.recipe import load_recipe
from data_prep.settings import Decoding
from eval import signature
from eval.language import Scoring
from eval.predictions import difference
from tests.conftest import derived_recipe
from tests.eval.test_predictions import KEY

HASH = "0123456789abcdef"


def key(decoding: Decoding) -> signature.GenerationKey:
    hashes = {"base_model_hash": HASH, "adapter_hash": None, "prompt_hash": HASH, "data": HASH}
    return KEY.model_copy(update={**hashes, "decoding": decoding})


def test_the_signature_line_contains_every_setting() -> None:
    fields = signature.scoring_fields([["a"], ["b"]], Scoring()) | signature.generation_fields(
        key(Decoding(dtype="float32")), signature.engine_versions("hf")
    )
    line = signature.line(fields)
    assert re.match(
        r"rouge\|n:2\|agg:mean-f1\|stem:porter\|tok:a-z0-9\|lsum:sentences-en-sentencex-[\d.]+"
        r"\|empty:0\|refs:\w{8}\|",
        line,
    )
    for part in ("model:01234567", "adapter:none", "prompt:01234567", "data:01234567"):
        assert f"|{part}|" in line
    for package in ("rouge_score", "numpy", "torch", "transformers", "peft", "commit"):
        assert f"|{package}:" in line


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"num_beams": 4, "length_penalty": 0.8}, "hf-auto-beam4-128-length_penalty=0.8"),
        ({"do_sample": True, "top_p": 0.9, "seed": 7}, "hf-auto-sample-128-top_p=0.9-seed=7"),
    ],
)
def test_decoding_is_one_word(settings: dict[str, Any], word: str) -> None:
    fields = signature.generation_fields(key(Decoding(**settings)), {})
    assert fields["decoding"] == word


def test_differences_that_matter_and_that_do_not() -> None:
    one = signature.scoring_fields([["a"], ["b"]], Scoring())
    assert signature.differences(one, {**one, "commit": "other", "model": "m"}) == []
    assert signature.differences(one, signature.scoring_fields([["a"]], Scoring()))[0] == "n: 2, 1"
    turned = signature.differences(one, signature.scoring_fields([["b"], ["a"]], Scoring()))
    assert [text.split(":")[0] for text in turned] == ["refs"]
    known = one | {"decoding": "hf-float32-greedy-128", "prompt": "p"}
    assert signature.differences(known, one) == []  # one of them lacks the fields
    other = known | {"decoding": "hf-float32-beam4-128"}
    assert signature.differences(known, other) == [
        "decoding: hf-float32-greedy-128, hf-float32-beam4-128"
    ]
    other = known | {"decoding": "vllm-float32-greedy-128"}
    assert signature.differences(known, other) == [] == signature.engines(known, known)
    assert signature.engines(known, other) == ["hf", "vllm"]
    one, two = ({**known, "decoding": f"{engine}-float32-sample-128"} for engine in ("hf", "vllm"))
    assert signature.engines(one, two) == []  # sampling: more than rounding differs
    assert len(signature.differences(one, two)) == 1


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ({"summarization__instruction": "Other:\n{dialogue}"}, "prompt_hash changed"),
        ({"chat_template": "chatml"}, "prompt_hash, template_hash changed"),
        ({"summarization__system": "Be brief."}, "prompt_hash, template_hash changed"),
        ({"trust_remote_code": True}, "prompt_hash changed"),
        ({"attn_implementation": "eager"}, "prompt_hash changed"),
        (
            {"base_model": "a/model/that-is-not-here"},
            "base_model, base_model_hash, files_hash, template_hash changed",
        ),
    ],
)
def test_recipe_changes_that_affect_outputs_change_the_key(
    tmp_path: Path, smollm2: Path, override: dict[str, Any], named: str
) -> None:
    keys = []
    for overrides in ({}, override):
        recipe = load_recipe(derived_recipe("smollm2_samsum", tmp_path, "key", **overrides))
        keys.append(signature.generation_key(recipe, "base", Decoding(), "data", None))
    assert difference(*keys) == named


def test_settings_that_turn_rows_into_turns_are_in_the_key(tmp_path: Path, smollm2: Path) -> None:
    recipe = load_recipe(derived_recipe("smollm2_samsum", tmp_path, "key"))
    keys = []
    for key in ("path", "drop_system_message", "roles"):
        recipe.config["datasets"][0][key] = {"user": ["human"]}
        keys.append(signature.generation_key(recipe, "base", Decoding(), "data", None).prompt_hash)
    assert len({*keys}) == 3


def test_a_changed_chat_template_changes_the_key(tmp_path: Path, smollm2: Path) -> None:
    """In a file or in the model's folder; for one with today's date, a note gives a fix."""
    model, jinja = tmp_path / "model", tmp_path / "own.jinja"
    shutil.copytree(smollm2, model, ignore=shutil.ignore_patterns("*.safetensors"))
    plain = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    today = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b') %}" \
            "{% endif %}{{ date_string }}" + plain  # fmt: skip

    def key_of(template: str, file: Path, **more: Any) -> signature.GenerationKey:
        file.write_text(template)
        recipe = load_recipe(
            derived_recipe("smollm2_samsum", tmp_path, "key", base_model=str(model), **more)
        )
        notes.append(template_note(recipe))
        return signature.generation_key(recipe, "base", Decoding(), "data", None)

    notes: list[str] = []
    own = {"chat_template": "jinja", "chat_template_jinja": str(jinja)}
    first, again = key_of(plain, jinja, **own), key_of(plain, jinja, **own)
    assert first == again and not any(notes)
    assert difference(first, key_of(plain + "\n", jinja, **own)) == "template_hash changed"
    folder = {"chat_template": "tokenizer_default"}
    first = key_of(plain, model / "chat_template.jinja", **folder)
    changed = key_of(plain.replace("user", "x") + " ", model / "chat_template.jinja", **folder)
    assert difference(first, changed) == "files_hash, template_hash changed"
    key_of(today, jinja, **own)
    assert "writes today's date" in notes[-1]
    assert "`chat_template_kwargs: {date_string: 26 Jul 2024}`" in notes[-1]
    key_of(today, jinja, **own, chat_template_kwargs={"date_string": "26 Jul 2024"})
    assert notes[-1] == ""
    key_of("{{ strftime_now('%d %b') }}" + plain, jinja, **own)
    assert "`chat_template_jinja`" in notes[-1]
    counter = TokenCounter(load_recipe(tmp_path / "key.yml"))
    assert counter.rendered(strftime_now=lambda _: "1 Jan") != counter.rendered(
        strftime_now=lambda _: "2 Jan"
    )


def test_a_key_without_hashes_of_template_and_files_stays_valid() -> None:
    now = key(Decoding()).model_copy(update={"template_hash": "t", "files_hash": "f"})
    assert now.matches(key(Decoding()))
    for name in ("template_hash", "files_hash"):
        assert now.matches(now.model_copy(update={name: None}))
        assert not now.matches(now.model_copy(update={name: "other"}))
    assert not now.matches(key(Decoding(num_beams=2))) and not now.matches(None)


def test_the_adapters_weights_are_in_the_key(tmp_path: Path, smollm2: Path) -> None:
    recipe = load_recipe(derived_recipe("smollm2_samsum", tmp_path, "key"))
    keys = []
    for weights in (b"one", b"two"):
        (tmp_path / "adapter_model.safetensors").write_bytes(weights)
        keys.append(signature.generation_key(recipe, "tuned", Decoding(), "data", tmp_path))
    assert difference(*keys) == "adapter_hash changed"
