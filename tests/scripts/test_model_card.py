"""The model card: valid for the Hub's own classes, and made of records that fit together."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from data_prep.errors import UserError
from data_prep.prompt import read_examples
from data_prep.recipe import Recipe, load_recipe
from data_prep.settings import Summarization
from eval.adapter import RunRecord, TrainedWith
from eval.scores import Scores
from scripts.model_card import (
    Names,
    Records,
    Shown,
    TrainerState,
    example_of,
    is_absolute,
    is_hub_id,
    model_card,
    names_of,
    portable,
    read_records,
    settings_rows,
    training_rows,
)
from tests.conftest import ROOT, command
from tests.run_records import BASE, NAME

OUTPUT, SCORES = Path(f"outputs/{NAME}"), Path(f"results/{NAME}/scores.json")
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"


# ---- the card ----


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
    assert "| `lora_r` | 16 |" in text and "| precision | bf16 |" in text
    assert "| training time since the last start | 84 s |" in text
    assert "| energy | not measured |" in text
    assert "| train | 160 | 160 | none |" in text
    assert records.recipe.summarization.instruction in text
    assert records.manifest.files["test.jsonl"][:16] in text
    assert "{{" not in text and "None" not in text


def test_a_restrictive_licence_of_the_data_is_stated(records: Records) -> None:
    assert "commercial" not in card_of(records).text
    card = card_of(records, data_license="CC-BY-NC-ND-4.0", dataset="knkarthick/samsum")
    assert isinstance(card.data, ModelCardData)
    assert "The data's licence does not allow commercial use" in card.text
    assert "This is not legal advice." in card.text
    assert card.data.license == "cc-by-nc-nd-4.0"
    assert card.data.datasets == ["knkarthick/samsum"]
    assert (card.data.eval_results or [])[0].dataset_type == "knkarthick/samsum"
    own = card_of(records, base_license="acme-1.0").data
    assert isinstance(own, ModelCardData)
    assert (own.license, own.license_name) == ("other", "acme-1.0")


def test_leaked_dialogues_are_reported(records: Records) -> None:
    assert "leaked" not in card_of(records).text
    records.scores.leaked = 3
    text = card_of(records).text
    assert "3 of the test dialogues are also in the source's training rows, from which" in text
    records.manifest.settings["cleaning"]["decontaminate"] = False
    text = card_of(records).text
    assert "from which they were dropped" not in text and "none of which was trained" not in text


def test_the_code_in_the_card_runs(records: Records, tmp_path: Path, tiny_smollm2: Path) -> None:
    code = card_of(records).text.split("```python\n")[1].split("```")[0]
    for name in (str(records.adapter), "user/name"):
        code = code.replace("user/name", name)
    code = code.replace("max_new_tokens=128", "max_new_tokens=4")
    done = command("python", "-c", code, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr


def test_code_and_an_example_come_first(records: Records) -> None:
    example = example_of(records)
    first = read_examples(records.recipe.data_dir / "test.jsonl")[0]
    wanted = " ".join(first.summary.split()[1:])  # what the run's tuned model "wrote"
    assert example == Shown(first.dialogue, wanted, True)
    text = model_card(records, names_of(records.recipe, {}), example=example).text
    titles = re.findall("^##+ (.*)$", text, re.M)
    assert titles[:3] == ["How to use it", "An example", "Is it better than the base model?"]
    assert f"The first test dialogue, and the summary that the model writes:\n\n```text\n" \
        f"{first.dialogue}\n```\n\n```text\n{wanted}\n```\n" in text  # fmt: skip
    assert "The example above is the only part of the data in these files." in text
    code = card_of(records).text
    assert "### An example" not in code and "contain no dialogue and no summary from" in code


def test_the_example_for_restricted_data_is_from_the_sample(
    records: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    block = records.recipe.summarization
    block.license, block.decoding.max_new_tokens = "CC-BY-NC-ND-4.0", 8
    example = example_of(records)
    sample = (ROOT / "data_prep/sample/test.jsonl").read_text("utf-8").splitlines()[0]
    assert example and example.dialogue == json.loads(sample)["dialogue"] and not example.of_data
    text = model_card(records, names_of(records.recipe, {}), example=example).text
    assert "A dialogue that is not from its data, and the summary" in text
    assert "These files contain no dialogue and no summary from the data." in text
    # a machine without the base model publishes the card without an example
    records.recipe.config["base_model"] = "models/none"
    assert example_of(records) is None
    assert capsys.readouterr().out.startswith("note: the card shows no example: ")


def test_notes_of_the_recipe_are_in_the_card(records: Records) -> None:
    names = Names("a/b", "mit", None, "MIT", False, True)
    text = model_card(records, names).text
    assert "local copy of the base model" not in text
    assert "- Trained on weights restored from a Q4_1 GGUF file" in text


# ---- training figures ----


def test_settings_of_the_recipe() -> None:
    config = {"lora_r": 16, "lora_target_modules": ["q_proj", "v_proj"], "sample_packing": True}
    rows = settings_rows({**config, "bf16": True}, RunRecord(settings={"processes": 2}))
    assert rows == [
        ("`lora_r`", "16"),
        ("`lora_target_modules`", "q_proj, v_proj"),
        ("`sample_packing`", "yes"),
        ("processes", "2"),
        ("precision", "bf16"),
    ]


@pytest.mark.parametrize(
    ("config", "taken", "expected"),
    [
        ({"bf16": "auto"}, {"bf16": True, "fp16": False}, "bf16"),
        ({"bf16": "auto"}, {"bf16": False, "fp16": False}, "fp32"),
        ({"bf16": "auto"}, {"bf16": "auto", "fp16": None}, "chosen by the machine (bf16: auto)"),
        ({"bf16": "auto"}, {}, "chosen by the machine (bf16: auto)"),
        ({"fp16": True}, {}, "fp16"),
        ({}, {}, "fp32"),
        ({"bf16": True, "load_in_4bit": True}, {}, "bf16, load_in_4bit"),
    ],
)
def test_precision(config: dict[str, Any], taken: dict[str, Any], expected: str) -> None:
    assert settings_rows(config, RunRecord(settings={}, precision=taken))[-1] == (
        "precision",
        expected,
    )


def test_measured_and_missing_figures_of_the_training() -> None:
    scores = Scores.read(ROOT / "results/smollm2_samsum_corpus/scores.json")
    scores.environment = {"cpu": "AMD EPYC, 2 cores", "gpu": "A100 x 1"}
    scores.systems["base"].seconds, scores.systems["tuned"].seconds = 742.1, None
    history: list[Any] = [{"loss": 2.0}, {"eval_loss": 1.625, "train_loss": "damaged"}]
    history += [{"train_runtime": 3540.0, "train_loss": 1.7512}]
    trained = TrainedWith(
        instruction="", steps=995, adapter="", machine="A100 x 2", peak_memory_gb=21.25
    )
    rows = dict(training_rows(TrainerState(global_step=995, log_history=history), trained, scores))
    assert rows["steps"] == "995" and rows["training time since the last start"] == "59 min"
    assert rows["mean training loss"] == "1.751" and rows["last validation loss"] == "1.625"
    assert rows["peak memory in training"] == "21.2 GB"
    assert rows["training machine"] == "A100 x 2"
    assert "12 min, not measured (base, tuned)" in rows.values()
    assert rows["evaluation machine"] == "A100 x 1"
    nothing = dict(training_rows(None, None, scores))
    assert nothing["training machine"] == "not recorded"
    assert nothing["steps"] == nothing["last validation loss"] == "not recorded"
    assert nothing["training time since the last start"] == nothing["energy"] == "not measured"
    assert nothing["peak memory in training"] == "not measured"


# ---- Hub ids, licences and paths ----


def recipe_of(base_model: str, **block: Any) -> Recipe:
    block = {"source": "knkarthick/samsum", "license": "CC-BY-NC-ND-4.0", **block}
    config = {"base_model": base_model, "output_dir": "outputs/r", "datasets": [{"path": "d/r/t"}]}
    settings = Summarization.model_validate({"instruction": "{dialogue}", **block})
    return Recipe(Path("r.yml"), config, settings)


def test_a_recipe_with_hub_ids_needs_nothing_more() -> None:
    names = names_of(recipe_of(MISTRAL), {})
    expected = (MISTRAL, "apache-2.0", "knkarthick/samsum", "CC-BY-NC-ND-4.0", False, False)
    assert names == Names(*expected)
    assert names.noncommercial and names.license == "cc-by-nc-nd-4.0"


def test_permissive_data_keep_the_licence_of_the_base_model() -> None:
    for license in ("CC0-1.0", "CC-BY-4.0", "MIT", "sync-1.0"):
        names = names_of(recipe_of(MISTRAL, license=license), {})
        assert not names.noncommercial and names.license == "apache-2.0"
    for license in ("CC-BY-NC-4.0", "Research only, non-commercial"):
        names = names_of(recipe_of(MISTRAL, license=license), {})
        assert names.noncommercial and names.license == license.lower()


def test_the_recipe_or_the_option_names_a_local_model(tmp_path: Path) -> None:
    told, folder = {"base_model": "a/B-1.5", "base_license": "MIT"}, str(tmp_path / "b-1_5")
    with pytest.raises(UserError, match="summarization.publish.base_model, or with --base-model"):
        names_of(recipe_of(str(tmp_path)), {})
    named = names_of(recipe_of(folder, publish=told), {})
    assert (named.base_model, named.base_license, named.local_base) == ("a/B-1.5", "mit", True)
    assert names_of(recipe_of(folder, publish=told), {}, MISTRAL).base_model == MISTRAL
    with pytest.raises(UserError, match="--base-model: ../x is not a Hub id"):
        names_of(recipe_of(str(tmp_path)), {}, "../x")
    with pytest.raises(UserError, match="licence of a/b is not known; write it in"):
        names_of(recipe_of("a/b"), {})


SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"


def refused(recipe: Recipe, option: str | None = None) -> str:
    with pytest.raises(UserError) as raised:
        names_of(recipe, {}, option)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_copied_recipe_s_base_model_is_refused_and_the_fix_works(tmp_path: Path) -> None:
    left = {"base_model": SMOLLM2}
    said = refused(recipe_of(MISTRAL, publish=left))
    assert said == f"r.yml: summarization.publish.base_model is {SMOLLM2}, but the adapter was " \
        f"trained on {MISTRAL}, as its adapter_config.json says; leave it out"  # fmt: skip
    assert names_of(recipe_of(MISTRAL), {}).base_model == MISTRAL
    assert refused(recipe_of(MISTRAL), SMOLLM2).startswith("--base-model is Hugging")
    # a folder is checked by its name, unless the option says which model is in it
    folder = str(tmp_path / "qwen3-0.6b")
    said = refused(recipe_of(folder, publish=left))
    assert f"trained on {folder}, a folder with another name" in said
    assert said.endswith(f"or if it is {SMOLLM2}, add `--base-model {SMOLLM2}`")
    assert names_of(recipe_of(folder, publish=left), {}, SMOLLM2).base_model == SMOLLM2


def test_a_model_folder_of_another_shape_is_refused(smollm2: Path) -> None:
    assert names_of(recipe_of(str(smollm2), publish={"base_model": SMOLLM2}), {}).local_base
    said = refused(recipe_of(str(smollm2)), "Qwen/Qwen3-0.6B")
    assert "whose model_type is llama and not qwen3; name the Hub's model that is in" in said
    said = refused(recipe_of(str(smollm2)), "meta-llama/Llama-3.2-1B-Instruct")
    assert "whose hidden_size is 576 and not 2048" in said


def test_a_folder_is_not_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("models/small") and is_hub_id(MISTRAL)
    (tmp_path / "models").mkdir()
    for name in ("models/small", "/models/small", "a/b/c", "../small", "small"):
        assert not is_hub_id(name), name


def test_data_from_a_file_have_the_id_in_the_recipe() -> None:
    source_files = {"train.json": "0"}
    assert names_of(recipe_of(MISTRAL), source_files).dataset is None
    named = names_of(recipe_of(MISTRAL, publish={"dataset": "x/y"}), source_files)
    assert (named.dataset, named.local_data) == ("x/y", True)


def test_absolute_paths_are_replaced() -> None:
    model = "/models/mistral_7b_instruct_v0.2"
    recipe = recipe_of(model, source="/data/corpus.7z", publish={"base_model": MISTRAL})
    recipe.config["output_dir"] = "/data"
    recipe.config["datasets"] = [{"path": "C:\\rows\\train.jsonl"}]
    assert portable(recipe, names_of(recipe, {})) == {
        "/data/corpus.7z": "data/corpus.7z",
        "/data": "outputs/r",
        "C:\\rows\\train.jsonl": "data/r/train.jsonl",
        model: MISTRAL,
    }
    assert not portable(recipe_of(MISTRAL), names_of(recipe_of(MISTRAL), {}))
    assert is_absolute("~/x") and is_absolute("D:/x") and not is_absolute("data/x")


# ---- records that do not fit together ----


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def test_records_of_a_finished_run(run: Path) -> None:
    records = read_records(load_recipe(f"{NAME}.yml"))
    assert records.scores.examples == 40
    assert records.training and records.training.global_step == 40
    assert records.run and records.run.precision == {"bf16": True, "fp16": False}
    for name in ("trainer_state.json", "run.json", "trained_with.json"):
        (OUTPUT / name).unlink()  # as if trained elsewhere
    records = read_records(load_recipe(f"{NAME}.yml"))
    assert (records.training, records.run, records.trained) == (None, None, None)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (Path(f"data/{NAME}/manifest.json"), f"is missing; run `python -m data_prep {NAME}.yml`"),
        (
            OUTPUT / "adapter_model.safetensors",
            "no trained adapter there; train one with `accelerate launch -m axolotl.cli.train "
            f"{NAME}.yml`",
        ),
        (SCORES, "scores.json: is missing; run `python -m eval.run`"),
    ],
)
def test_a_missing_step_is_reported(run: Path, missing: Path, message: str) -> None:
    missing.unlink()
    with pytest.raises(UserError, match=re.escape(message)):
        read_records(load_recipe(f"{NAME}.yml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(recipe="other"), "is for recipe other, test split, 40 rows; run"),
        (lambda s: s.update(split="validation"), "validation split, 40 rows; run"),
        (lambda s: s.update(examples=5), "number of test dialogues was 5 and is 40; run"),
        (lambda s: s["systems"].pop("base"), "lacks the scores of base; run"),
        (lambda s: s.pop("systems"), "scores.json: cannot be read"),
        (lambda s: s["systems"]["tuned"].pop("fields"), "scores.json: cannot be read"),
        (lambda s: s["systems"]["tuned"]["fields"].update(adapter="0" * 8), "adapter was 00000000"),
        (lambda s: s["systems"]["tuned"]["fields"].update(data="0" * 8), "test data was 00000000"),
        (lambda s: s["decoding"].update(num_beams=4), "decoding.num_beams was 4 and is 1"),
    ],
)
def test_results_of_another_run_are_refused(run: Path, change: Callable, message: str) -> None:
    edit(SCORES, change)
    with pytest.raises(UserError, match=message) as raised:
        read_records(load_recipe(f"{NAME}.yml"))
    assert "run `python -m eval.run" in str(raised.value)


def test_truncated_files_are_refused(run: Path) -> None:
    for path in (OUTPUT / "trainer_state.json", OUTPUT / "run.json", SCORES):
        whole = path.read_bytes()
        path.write_bytes(whole[:40])
        with pytest.raises(UserError, match=f"{path.name}: (is damaged|cannot be read)"):
            read_records(load_recipe(f"{NAME}.yml"))
        path.write_bytes(whole)
    (OUTPUT / "trainer_state.json").write_text("[]", "utf-8")
    with pytest.raises(UserError, match="trainer_state.json: cannot be read"):
        read_records(load_recipe(f"{NAME}.yml"))


def test_a_recipe_changed_since_training_is_refused(run: Path) -> None:
    recipe = Path(f"{NAME}.yml")
    text = recipe.read_text("utf-8")
    recipe.write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002"), "utf-8")
    with pytest.raises(UserError, match="not trained with .* as it is now: learning_rate was"):
        read_records(load_recipe(f"{NAME}.yml"))
    recipe.write_text(text.replace("base_model: Hugging", "base_model: Elsewhere"), "utf-8")
    read_records(load_recipe(f"{NAME}.yml"))  # the `publish` block has no effect on training
