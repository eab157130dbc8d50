"""The README's picture, which shows only this project's own dialogues."""

import json
from pathlib import Path

import pytest

from data_prep.errors import UserError
from scripts import pictures
from tests.browser import CHROMIUM
from tests.run_records import NAME


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_the_picture_is_small_and_of_the_sample(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.setattr("sys.argv", ["pictures", f"results/{NAME}", "--output", "."])
    scores = run / f"results/{NAME}/scores.json"
    record = json.loads(scores.read_text("utf-8"))
    with pytest.raises(UserError, match="data_prep/sample.*make demo"):  # the path is absolute
        pictures.main()
    scores.write_text(json.dumps({**record, "source": "data_prep/sample"}), "utf-8")
    pictures.main()
    with Image.open(run / "report.png") as image:
        assert image.size == (pictures.WIDTH, pictures.HEIGHT) and len(image.getcolors() or []) > 20
    assert (run / "report.png").stat().st_size < pictures.MAX_BYTES
