"""What the tests of the page share: a recipe with prepared data and a tiny adapter, a free port."""

import socket
from pathlib import Path

from data_prep.prepare import prepare
from data_prep.recipe import load_recipe
from tests.conftest import derived_recipe
from tests.tiny_adapter import save_adapter


def page_recipe(folder: Path, base_model: Path) -> Path:
    """Write a recipe of short summaries, prepare its data and save an adapter for it."""
    path = derived_recipe(
        "smollm2_samsum", folder, "page", base_model=str(base_model), sequence_len=300,
        summarization__decoding={"max_new_tokens": 24, "dtype": "float32"},
    )  # fmt: skip
    prepare(load_recipe(path))
    save_adapter(base_model, folder / "output")
    return path


def free_port() -> int:
    """A port that nothing listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
