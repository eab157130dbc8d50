"""Rows that training would drop, truncate or read past the model's positions are reported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from data_prep.errors import UserError
from data_prep.hub import max_positions
from data_prep.prepare import prepare
from data_prep.prompt import read_examples
from data_prep.recipe import Recipe, load_recipe
from data_prep.settings import Decoding
from eval.generate import Summarizer
from tests.conftest import command, derived_recipe
from training.plan import check_lengths
from training.preflight import Report, check_recipe

SENTENCE = "Ola: the bus is late again, take tram 9 and bring the keys. "


@pytest.fixture(scope="module")
def short_model(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Path:
    """A random model with 512 positions."""
    folder = Path(shutil.copytree(tiny_smollm2, tmp_path_factory.mktemp("models") / "short"))
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["max_position_embeddings"] = 512
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def prepared(folder: Path, model: Path, corpus: dict[str, list[tuple[int, int]]],
             **keys: Any) -> Recipe:  # fmt: skip
    """Prepare rows, each with a number of sentences in the dialogue and words in the summary."""
    source = folder / "corpus"
    source.mkdir()
    for split, sizes in corpus.items():
        rows = [
            {"id": f"{split}{n}", "dialogue": f"Piet: {n} of {split}\n" + SENTENCE * sentences,
             "summary": f"{n}" + " late" * words}
            for n, (sentences, words) in enumerate(sizes)
        ]  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (source / f"{split}.jsonl").write_text(text, "utf-8")
    keys = {"sequence_len": 256, "summarization__source": str(source), **keys}
    recipe = load_recipe(
        derived_recipe("smollm2_samsum", folder, "r", base_model=str(model), **keys)
    )
    prepare(recipe)
    return recipe


def problems(recipe: Recipe) -> list[str]:
    report = Report()
    check_recipe(recipe, report, 1)
    return report.problems


SHORT, LONG, TOO_LONG = (1, 5), (20, 5), (60, 5)  # under 256 tokens, under 512, above


@pytest.mark.parametrize(
    ("corpus", "keys", "says"),
    [
        ({}, {}, []),
        ({"train": [LONG] + 4 * [SHORT]}, {}, []),  # a fifth
        ({"train": 2 * [LONG] + 4 * [SHORT]}, {},
         ["train: 2 of 6 rows have more than 256 tokens", "set `sequence_len: "]),
        ({"train": 2 * [LONG] + 4 * [SHORT]}, {"sequence_len": 512}, []),
        ({"train": 5 * [LONG]}, {}, ["train: 5 of 5 rows have more than 256", "be left out; set"]),
        ({"train": 5 * [TOO_LONG]}, {},
         ["train: 5 of 5 rows", "5 exceed the 512 positions of", "shorten these dialogues"]),
        ({"train": [TOO_LONG] + 4 * [SHORT]}, {"sequence_len": 2048},
         ["train: 1 of 5 rows exceed the 512 positions of", "set `sequence_len: 512`, which"]),
        ({"train": 5 * [TOO_LONG]}, {"sequence_len": 2048},
         ["train: 5 of 5 rows exceed the 512 positions of", "shorten these dialogues"]),
        ({"train": [LONG] + 9 * [SHORT]}, {"excess_length_strategy": "truncate"},
         ["train: 1 of 10 rows", "cuts off their summary; remove that key, which leaves them"]),
        ({"train": 5 * [LONG]}, {"excess_length_strategy": "truncate"},
         ["train: 5 of 5 rows", "truncate` cuts off their summary; set `sequence_len: "]),
        ({"validation": 2 * [LONG]}, {},
         ["validation: 2 of 2 rows have more than 256 tokens", "set `sequence_len: "]),
        ({"validation": 2 * [LONG]}, {"eval_sequence_len": 512}, []),
        ({"validation": 2 * [LONG]}, {"sequence_len": 512, "eval_sequence_len": 200},
         ["validation: 2 of 2 rows have more than 200 tokens", "set `eval_sequence_len: "]),
        ({"test": [SHORT, (1, 200)]}, {},
         ["1 of 4 references", "max_new_tokens, 128", "decoding.max_new_tokens: 20"]),
        ({"test": [SHORT, TOO_LONG]}, {},
         ["1 of 2 prompts exceed the 512 positions of", "(row test1: "]),
    ],
)  # fmt: skip
def test_preflight_reports_harmful_lengths(
    tmp_path: Path, short_model: Path, corpus: dict[str, Any], keys: dict[str, Any], says: list[str]
) -> None:
    sizes = {"train": 5 * [SHORT], "validation": 2 * [SHORT], "test": 2 * [SHORT], **corpus}
    found = problems(prepared(tmp_path, short_model, sizes, **keys))
    assert len(found) == bool(says), found
    assert all(text in found[0] for text in says), found


def test_each_fix_works(tmp_path: Path, short_model: Path) -> None:
    sizes = {
        "train": [LONG, LONG, (30, 5), SHORT, SHORT],
        "validation": [SHORT],
        "test": [(1, 200)],
    }
    recipe = prepared(tmp_path, short_model, sizes)
    long_rows, long_references = problems(recipe)
    length = int(long_rows.partition("`sequence_len: ")[2].partition("`")[0])
    tokens = int(long_references.partition("max_new_tokens: ")[2].partition("`")[0])
    decoding = recipe.summarization.decoding.model_copy(update={"max_new_tokens": tokens})
    block = recipe.summarization.model_copy(update={"decoding": decoding})
    fixed = replace(recipe, config={**recipe.config, "sequence_len": length}, summarization=block)
    assert problems(fixed) == []
    one_less = {**recipe.config, "sequence_len": length - 1}
    assert len(problems(replace(fixed, config=one_less))) == 1


def test_prompts_of_training_rouge_are_checked(tmp_path: Path, short_model: Path) -> None:
    corpus = {"train": 5 * [SHORT], "validation": [(28, 5), *(4 * [SHORT])], "test": [SHORT]}
    keys = {"summarization__training_rouge": {"dialogues": 2}}
    (problem,) = problems(prepared(tmp_path, short_model, corpus, **keys))
    assert "1 of 2 prompts" in problem and "(row validation0: " in problem


def test_training_is_refused_before_it_begins(tmp_path: Path, short_model: Path) -> None:
    sizes = {"train": 5 * [LONG], "validation": 2 * [LONG], "test": [SHORT]}
    recipe = prepared(tmp_path, short_model, sizes, excess_length_strategy="truncate")
    done = command("python", "-m", "axolotl.cli.train", recipe.path)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "1. " in done.stderr and "train: 5 of 5 rows have more than 256" in done.stderr
    assert "2. " in done.stderr and "validation: 2 of 2 rows" in done.stderr
    assert not list((tmp_path / "output").glob("*.safetensors"))


def test_an_evaluation_past_the_positions_is_refused(tmp_path: Path, short_model: Path) -> None:
    sizes = {"train": [SHORT], "validation": [SHORT], "test": [SHORT, TOO_LONG, (32, 5)]}
    recipe = prepared(tmp_path, short_model, sizes)
    rows = read_examples(recipe.data_dir / "test.jsonl")
    summarizer = Summarizer(recipe, Decoding(dtype="float32", max_new_tokens=128))
    with pytest.raises(UserError, match=r"2 of 3 prompts exceed the 512 .* \(row test1: .* 128\)"):
        summarizer.batches(rows)
    assert len(summarizer.batches(rows[:1])) == 1


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6,
        "original_max_position_embeddings": 32768}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192,
          "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("kind", "keys", "found"),
    [
        ("Llama", {"max_position_embeddings": 2048}, 2048),
        ("Llama", {"max_position_embeddings": 131072, "rope_parameters": LLAMA3}, 131072),
        ("Llama", {"max_position_embeddings": 2048, "rope_parameters": LINEAR}, 4096),
        ("Qwen2", {"max_position_embeddings": 32768, "rope_parameters": YARN}, 131072),
        ("Qwen2", {"max_position_embeddings": 131072, "rope_parameters": YARN}, 131072),
        ("Qwen2", {"max_position_embeddings": 32768, "sliding_window": 4096}, 32768),  # off
        ("Mistral", {"max_position_embeddings": 32768, "sliding_window": 4096}, None),
        ("Mistral", {"max_position_embeddings": 32768, "sliding_window": None}, 32768),
        ("Phi3", {"max_position_embeddings": 4096, "sliding_window": 262144}, 4096),
        ("Gemma2", {"max_position_embeddings": 8192, "sliding_window": 4096}, 8192),
        ("GPT2", {"n_positions": 1024}, 1024),
        ("Mamba", {}, None),
        ("Bloom", {}, None),
    ],
)  # fmt: skip
def test_positions_come_from_the_config(
    tmp_path: Path, kind: str, keys: dict[str, Any], found: int | None
) -> None:
    getattr(transformers, f"{kind}Config")(**keys).save_pretrained(tmp_path)
    assert max_positions({"base_model": str(tmp_path)}) == found


def test_an_unreachable_model_has_no_known_limit(tmp_path: Path) -> None:
    assert max_positions({"base_model": str(tmp_path / "none")}) is None


def test_the_smallest_length_that_keeps_enough_rows(
    tmp_path: Path, short_model: Path
) -> None:  # from counts only, without a tokenizer
    recipe = prepared(tmp_path, short_model, {s: [SHORT] for s in ("train", "validation", "test")})
    counts = {"train": [300, 310, 320, 330, *range(101, 107)], "validation": [100]}
    _, (problem,) = check_lengths(recipe, counts)
    assert problem.endswith("and would be left out; set `sequence_len: 310` or more"), problem
