"""The model card: valid for the hub's own classes, and true to the records."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from data_prep.recipe import load_recipe
from scripts.model_card import Names, Records, model_card, names_of, read_records
from tests.run_records import BASE, NAME


@pytest.fixture
def records(run: Path) -> Records:
    return read_records(load_recipe(f"{NAME}.yml"))


def card_of(records: Records, **changed: Any) -> ModelCard:
    names = names_of(records.recipe, records.manifest.source_files)._replace(**changed)
    return model_card(records, names, "user/name")


def test_metadata_round_trip_through_the_hubs_classes(records: Records, tmp_path: Path) -> None:
    card = card_of(records)
    path = tmp_path / "README.md"
    card.save(path)
    again = ModelCard.load(path)
    assert again.data.to_dict() == card.data.to_dict()
    assert again.text == card.text
    data = again.data
    assert (data.base_model, data.library_name, data.license) == (BASE, "peft", "apache-2.0")
    assert (data.pipeline_tag, data.language) == ("summarization", "en")
    assert {"axolotl", "lora", "summarization"} <= set(data.tags or [])
    results = data.eval_results or []
    tuned = records.scores.systems["tuned"].scores
    assert [r.metric_config for r in results] == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for result in results:
        figures = tuned[result.metric_config]
        assert result.metric_value == round(figures.f1, 2)
        assert (result.metric_args or {})["low"] == round(figures.low, 2)
        assert (result.task_type, result.dataset_split) == ("summarization", "test")
    index = yaml.safe_load(card.content.split("---")[1])["model-index"]
    assert index[0]["name"] == "name" and len(index[0]["results"]) == 1


def test_every_record_is_in_the_text(records: Records) -> None:
    text = card_of(records).text
    tuned, base = (records.scores.systems[name] for name in ("tuned", "base"))
    for system in (tuned, base):
        assert f"{system.scores['rougeL'].f1:.2f}<br>[" in text
        assert system.signature in text
    for row in ("| lead-3 |", "| base-cut |", "| tuned - base |", "| tuned - longest-3 |"):
        assert row in text
    assert "| rank | 16 |" in text and "| precision | bf16 |" in text
    assert (
        "| training time, since its last start | 84 s |" in text
        and "| energy | not measured |" in text
    )
    assert "| train | 160 | 160 | none |" in text
    assert records.recipe.summarization.instruction in text
    assert records.manifest.files["test.jsonl"][:16] in text
    assert "{{" not in text and "None" not in text


def test_the_licence_of_the_data_is_told_where_it_forbids_something(records: Records) -> None:
    assert "commercial" not in card_of(records).text
    card = card_of(records, data_license="CC-BY-NC-ND-4.0", dataset="knkarthick/samsum")
    assert isinstance(card.data, ModelCardData)
    assert "The data's licence does not allow commercial use" in card.text
    assert "This is no legal advice." in card.text
    assert card.data.license == "cc-by-nc-nd-4.0"
    assert card.data.datasets == ["knkarthick/samsum"]
    assert (card.data.eval_results or [])[0].dataset_type == "knkarthick/samsum"
    own = card_of(records, base_license="acme-1.0").data
    assert isinstance(own, ModelCardData)
    assert (own.license, own.license_name) == ("other", "acme-1.0")


def test_leaked_dialogues_have_a_table(records: Records) -> None:
    assert "leaked" not in card_of(records).text
    records.scores.leaked = 3
    text = card_of(records).text
    assert "3 of the test dialogues are also in the source's training rows, from which" in text
    records.manifest.settings["cleaning"]["decontaminate"] = False
    text = card_of(records).text
    assert "from which they were dropped" not in text and "none of which was trained" not in text


def test_the_code_that_it_shows_runs(records: Records, tmp_path: Path, tiny_smollm2: Path) -> None:
    code = card_of(records).text.split("```python\n")[1].split("```")[0]
    for name in (str(records.adapter), "user/name"):
        code = code.replace("user/name", name)
    done = subprocess.run(
        [sys.executable, "-c", code.replace("max_new_tokens=128", "max_new_tokens=4")],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_the_recipe_tells_besides(records: Records) -> None:
    names = Names("a/b", "mit", None, "MIT", False, True)
    text = model_card(records, names).text
    assert "local copy of the base model" not in text
    assert "- Trained on weights restored from a Q4_1 GGUF file" in text
