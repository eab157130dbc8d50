"""Known keys, at every level and with plugins, and the line reported for each problem."""

import warnings
from pathlib import Path
from typing import Any

import yaml

from tests.data_prep.recipe_edits import BASE, END, OURS, problems

NO_KEY = "zzz_no_such_key"


def axolotls_keys() -> dict[str, Any]:
    """Return every key in Axolotl's JSON schema, with None for each value.

    data_prep.recipe does not use this schema. Blocks are dicts, and lists have one item.
    """
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from pydantic.json_schema import GenerateJsonSchema

    class WithoutEnums(GenerateJsonSchema):  # torch's types have no JSON schema
        def enum_schema(self, schema: Any) -> dict[str, Any]:
            return {}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some defaults are torch objects too
        schema = AxolotlInputConfig.model_json_schema(schema_generator=WithoutEnums)

    def value(described: dict[str, Any]) -> Any:
        if "$ref" in described:
            described = schema["$defs"][described["$ref"].split("/")[-1]]
        if "properties" in described:
            return {key: value(inner) for key, inner in described["properties"].items()}
        if "items" in described:
            item = value(described["items"])
            return [item] if isinstance(item, dict) else None
        blocks = (value(option) for option in described.get("anyOf", []))
        return next((block for block in blocks if block), None)

    return value(schema)


def test_exactly_the_keys_of_axolotls_schema_are_known_at_every_level(tmp_path: Path) -> None:
    keys = axolotls_keys()
    assert len(keys) > 350 and "pad_token" in keys["special_tokens"]
    assert not [p for p in problems(tmp_path, BASE, **keys) if "unknown key" in p]

    def spoil(value: Any, at: str) -> list[str]:
        if isinstance(value, list):
            return spoil(value[0], f"{at}[0]")
        if not isinstance(value, dict):
            return []
        inside = [p for k, v in value.items() for p in spoil(v, f"{at}.{k}".lstrip("."))]
        value[NO_KEY] = 1
        return [f"{at}.{NO_KEY}".lstrip("."), *inside]

    spoilt = spoil(keys, "")
    assert len(spoilt) > 15
    said = problems(tmp_path, BASE, **keys)
    assert sorted(p.split("`")[1] for p in said if "unknown key" in p) == sorted(spoilt)


def test_aliases_of_keys_are_known(tmp_path: Path) -> None:
    assert not problems(tmp_path, BASE + "overrides_of_model_config: {any: 1}\n")
    assert not problems(tmp_path, BASE + "revision_of_model: main\n")


def test_datasets_for_rl_have_the_keys_of_rl(tmp_path: Path) -> None:
    sets = "{field_prompt: a, field_chosen: b}"
    text = BASE.replace("    ds_type: json\n    type: chat_template", f"    type: {sets}")
    assert "`datasets[0].type.field_prompt`" in problems(tmp_path, text)[0]
    assert problems(tmp_path, text + "rl: dpo\n") == []
    said = problems(
        tmp_path, text.replace("chosen: b}\n    split", "chosn: b}\n    split") + "rl: dpo\n"
    )
    assert [p.split(": ", 1)[1] for p in said] == [
        "unknown key `test_datasets[0].type.field_chosn`; did you mean `field_chosen`?"
    ]


def test_keys_from_the_command_line_have_no_line(tmp_path: Path) -> None:
    given = "given on the command line"
    assert problems(tmp_path, BASE, axolotl_config_path=Path("a.yml")) == []
    assert problems(tmp_path, BASE, learning_rat=0.1) == [
        f"unknown key `learning_rat` (not in the file: {given}); did you mean `learning_rate`?"
    ]
    assert problems(tmp_path, BASE, load_in_4bit=True)[0].startswith("`adapter: lora` with")
    assert f"(not in the file: {given}); " in problems(tmp_path, BASE, load_in_4bit=True)[0]
    assert problems(tmp_path, BASE, lora_r="many") == [
        f"`lora_r`: must be a valid integer (found 'many') ({given})"
    ]
    block = yaml.safe_load(BASE)["summarization"] | {"train_row": 5}
    assert problems(tmp_path, BASE, summarization=block) == [
        f"unknown key `summarization.train_row` (not in the file: {given}); "
        "did you mean `train_rows`?"
    ]
    # a key in the file keeps its line, even if other keys are overridden
    assert problems(tmp_path, BASE + "lora_rank: 1\n", learning_rate=0.1)[0].startswith(
        f"{END + 1}: "
    )


def test_lines_are_right_in_lists_and_inline_blocks(tmp_path: Path) -> None:
    text = BASE + 'special_tokens: {\n  "pad_token": <unk>,\n  eos_tokn: </s> }\n'
    assert problems(tmp_path, text)[0].startswith(
        f"{END + 3}: unknown key `special_tokens.eos_tokn`"
    )
    text = BASE + "dpo_loss_weights:\n- 1.0\n# the next\n- 5e-1\n"
    assert problems(tmp_path, text)[0].startswith(f"{END + 4}: `dpo_loss_weights[1]`: 5e-1 is text")
    text = BASE.replace("seed: 42", "seed: several\n<<: {seed: many}")
    assert problems(tmp_path, text)[0].endswith("`seed`: must be a valid integer (found 'several')")
    assert (
        int(problems(tmp_path, text)[0].split(":")[0])
        == BASE[: BASE.index("seed:")].count("\n") + 1
    )
    text = BASE.replace("seed: 42\n", "") + "<<: {seed: many,\n  lora_rank: 1}\n"
    assert problems(tmp_path, text) == [
        f"{END}: `seed`: must be a valid integer (found 'many')",
        f"{END + 1}: unknown key `lora_rank`; did you mean `lora_r`?",
    ]


def test_keys_of_another_plugin_are_checked_against_its_schema(tmp_path: Path) -> None:
    text = BASE.replace(OURS, f"{OURS}\n  - axolotl.integrations.liger.LigerPlugin")
    assert problems(tmp_path, text + "liger_rope: true\n") == []
    assert problems(tmp_path, BASE + "liger_rope: true\n")[0].startswith(f"{END + 1}: unknown")
    assert problems(tmp_path, text + "liger_rop: true\nliger_swiglu: never\n") == [
        f"{END + 2}: unknown key `liger_rop`; did you mean `liger_rope`?",
        f"{END + 3}: `liger_swiglu`: must be a valid boolean (found 'never')",
    ]
    both = "liger_cross_entropy: true\nliger_fused_linear_cross_entropy: true\n"
    assert "`liger_cross_entropy`: Only one cross entropy" in problems(tmp_path, text + both)[0]


def test_the_adapter_of_another_plugin_is_accepted(tmp_path: Path) -> None:
    mora = BASE.replace("adapter: lora", "adapter: mora") + "mora: {use_mora: true}\n"
    text = mora.replace(OURS, f"{OURS}\n  - axolotl.integrations.mora.MoraPlugin")
    assert problems(tmp_path, text) == []
    assert "unknown key `mora`" in problems(tmp_path, mora)[0]
