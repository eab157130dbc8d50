"""README.md and the docs mention only files, targets and keys that exist; README.md is short."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.run_records import NAME

README = (ROOT / "README.md").read_text("utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
DOCS = [path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
GENERATED = (
    "data/",
    "outputs/",
    "results/<",
    "models/",
    "results/bench_gpu",
    "results/smollm2_samsum_gpu",
    "results/smollm2_samsum/",
    "results/compare.html",
    "recipes/mine.yml",  # made by the reader
    "eval/test",  # the name of a metric in the trackers
)


def test_every_path_exists() -> None:
    paths = re.findall(
        r"(?<![\w/])((?:recipes|data_prep|eval|training|chat|scripts|tests|results|docs)/[\w./<>-]*)",
        "\n".join([README, CONTRIBUTING, *DOCS]),
    )
    paths = [path.rstrip(".") for path in paths if not path.startswith(GENERATED)]
    assert "recipes/mistral_samsum.yml" in paths and len(set(paths)) >= 7
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"`make ([\w-]+)|^    make ([\w-]+)", README + CONTRIBUTING, re.M))
    targets = {"".join(target) for target in targets}
    assert {"demo", "setup", "test", "test-longest"} <= targets
    assert [t for t in targets if not re.search(rf"^{t}:", makefile, re.M)] == []


def test_the_first_command_and_result_come_early() -> None:
    lines = README.splitlines()
    assert any("make demo" in line for line in lines[:20])
    assert any("ROUGE" in line and re.search(r"\d\d\.\d", line) for line in lines[:12])


def test_the_readme_is_short_and_links_every_page() -> None:
    assert len(README.splitlines()) <= 180 and len(README.split()) <= 1700
    pages = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    links = re.findall(r"\]\(docs/([\w.]+)", README)
    assert pages - set(links) == set()
    sentences = re.split(r"(?<=[.:;])\s", README)
    assert len(sentences) == len(set(sentences))


def test_every_key_in_the_table_of_changes_exists() -> None:
    from axolotl.utils.schemas.config import AxolotlInputConfig

    from data_prep.settings import Cleaning, Decoding, Rouge, Summarization

    known = {*AxolotlInputConfig.model_fields, "summarization"}
    known |= {f"summarization.{name}" for name in Summarization.model_fields}
    known |= {*Cleaning.model_fields, *Decoding.model_fields, *Rouge.model_fields}
    table = README.split("| to change | set |")[1].split("\n\n")[0]
    keys = re.findall(r"`([a-z_.]+)(?:: \d+)?`", table)
    keys = [key for key in keys if not key.startswith(".") and key not in ("true", "false")]
    assert len(keys) > 15 and [key for key in keys if key not in known] == []


def test_extras() -> None:
    extras = tomllib.loads(PYPROJECT)["project"]
    assert set(extras["optional-dependencies"]) == {
        "deepspeed", "vllm", "similarity", "bertscore", "dev"
    }  # fmt: skip


@pytest.mark.slow
def test_the_python_example_runs_on_a_finished_run(run: Path) -> None:
    """README.md's example, on a tiny model's run, scores its two summaries."""
    block = README.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(block.replace("recipes/smollm2_samsum.yml", f"{NAME}.yml"), names)
    assert [type(one).__name__ for one in names["made"]] == ["Prediction"] * 2
    systems = names["scores"].systems
    assert (
        list(systems) == ["predictions"] and 0 <= systems["predictions"].scores["rougeL"].f1 <= 100
    )


def test_the_cited_version_is_current() -> None:
    cited = [re.search(r"version\W+([\d.]+)", text) for text in (README, PYPROJECT)]
    assert cited[0] and cited[1] and cited[0][1] == cited[1][1]
