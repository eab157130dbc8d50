"""Make the documentation's picture `docs/report.png` from a finished run.

    make demo && python -m scripts.pictures results/smollm2_samsum

Needs the extra `dev` (playwright) and Chromium. Accepts only runs on our own sample: a page of
SAMSum shows text that its licence keeps out of this repository.
"""

import json
import shutil
from pathlib import Path

from data_prep.errors import UserError, run_cli
from data_prep.options import Options

WIDTH, HEIGHT = 1400, 950  # room for the verdict, the scores and an example
MAX_BYTES = 200_000  # bytes: the README is also read on phones


def main() -> None:
    """Write a picture of the top of the run's page, in a browser's light mode."""
    parser = Options(
        "scripts.pictures", __doc__.splitlines()[0], "results/smollm2_samsum --output docs"
    )
    parser.add_argument("run", type=Path, help="results folder, such as results/smollm2_samsum")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="folder to save to")
    args = parser.parse_args()
    page, scores = args.run / "report.html", args.run / "scores.json"
    if not (page.is_file() and scores.is_file()):
        raise UserError(f"{args.run}: no report.html and scores.json; run `make demo` first")
    if json.loads(scores.read_text("utf-8"))["source"] != "data_prep/sample":
        raise UserError(f"{scores}: not from data_prep/sample, our own dialogues; run `make demo`")
    photograph(page, args.output / "report.png")


def photograph(page: Path, target: Path) -> None:
    """Save the top of a page as a palette PNG, which takes a third of the space."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        view.goto(page.resolve().as_uri())
        view.screenshot(path=target)
        browser.close()
    with Image.open(target) as image:
        image.convert("RGB").quantize(128).save(target, optimize=True)
    if target.stat().st_size > MAX_BYTES:
        raise UserError(f"{target}: {target.stat().st_size:,} bytes; show less of the page")
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    run_cli(main)
