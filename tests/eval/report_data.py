"""Input for the HTML report: the sample's own dialogues with invented summaries."""

import json
from functools import cache

from data_prep.settings import Decoding
from eval.analysis import Analysis, analyse
from eval.baselines import Corpus, System, add_baselines
from eval.scores import Training
from tests.conftest import ROOT

LIMIT = 60  # words after which the invented base model's output is cut off
SCRIPT = "<script>window.pwned=1</script>"
NASTY = [
    {
        "id": 'nasty"><b>1',
        "dialogue": f"Eve: {SCRIPT}\nBob: </script></style></div></details> & <!-- {{{{ 7*7 }}}}",
        "summary": "Eve sends Bob <img src=x onerror=window.pwned=2> and &lt;b&gt;.",
    },
    {
        "id": "words-of-the-world",
        "dialogue": "Ольга: привет 👋🏽\nयश: नमस्ते\n"
        "ليلى: مرحبا كيف الحال\n美咲: 明日は三時に会いましょう 🎉",
        "summary": "Ольга и 美咲 встретятся завтра в три 🎉.",
    },
]
TRAINING: dict[str, list[list[float]]] = {
    "loss": [[step, 1.3 + 1.4 * 0.93**step + 0.05 * (step % 3)] for step in range(1, 80, 2)],
    "eval_loss": [[20, 1.72], [40, 1.61], [60, 1.59], [80, 1.57]],
    "learning_rate": [[step, 0.001 * (1 - step / 80)] for step in range(1, 80, 2)],
    "tokens/train_per_sec_per_gpu": [[step, 25 + step % 7] for step in range(3, 80, 2)],
    "eval_rouge1": [[40, 38.2], [80, 41.7]],
    "eval_rougeL": [[40, 30.1], [80, 33.4]],
}
RECIPE = "# purpose: a test\nbase_model: models/<small>\nlora_r: 16  # & more\n"


def sample(split: str = "test") -> list[dict[str, str]]:
    """Return the rows of a split of the sample corpus: id, dialogue, summary."""
    text = (ROOT / f"data_prep/sample/{split}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@cache
def report_data(models: tuple[str, ...] = ("base", "tuned")) -> Analysis:
    """Return real scores of invented outputs. Cached, so do not modify the result."""
    rows = sample() + NASTY
    systems = {}
    for name in models:
        texts = [_base(row) if name == "base" else _tuned(n, row) for n, row in enumerate(rows)]
        systems[name] = System(
            texts,
            tokens=[len(text.split()) * 4 // 3 for text in texts],
            stopped=[len(text.split()) < LIMIT for text in texts],
            seconds=12.5,
        )
    corpus = Corpus(
        [row["summary"] for row in rows],
        [row["dialogue"] for row in rows],
        [n % 20 == 3 for n in range(len(rows))],
        [row["id"] for row in rows],
    )
    result = analyse(add_baselines(systems, corpus), corpus, workers=1)
    result.scores.recipe, result.scores.split = "invented_recipe", "test"
    result.scores.decoding = Decoding(max_new_tokens=80)
    result.scores.environment = {"python": "3.11.9", "cpu": "none to speak of, 2 cores"}
    result.scores.commit, result.scores.date = "abc1234", "2026-11-28"
    result.scores.settings = {"adapter": "lora", "lora_r": 16, "wandb_project": "private"}
    if len(models) > 1:
        result.scores.training = Training(
            minutes=4, peak_memory_gb=2.97, machine="a board", parameters=4884480, tokens=48000
        )
    return result


def _base(row: dict[str, str]) -> str:
    """Return a wordy summary that retells the chat turn by turn until it is cut off."""
    retold = " ".join(row["dialogue"].replace(": ", " says that ").splitlines())
    return " ".join(f"In this conversation, {retold} {retold}".split()[:LIMIT])


def _tuned(number: int, row: dict[str, str]) -> str:
    """Return the reference with one word changed; sometimes cut, off topic or empty."""
    words = row["summary"].split()
    if row["id"].startswith("nasty"):
        return f"Eve sends {SCRIPT} </script> to Bob."
    if number % 11 == 5:
        return "Somebody talks to Gregory about something else."
    if number % 29 == 17:
        return ""
    words[number % len(words)] = "perhaps"
    return " ".join(words[: 4 + number % 9] if number % 3 else words)
