"""The short report: its tables, and corpus text that stays text."""

from typing import Any

from eval.analysis import Settings, analyse
from eval.baselines import Corpus, System, with_baselines
from eval.report import comparison_table, mistake_table, report, table

DIALOGUES = [f"Ann: ```\n# no heading {n}\nBob: fine, {n} it is, see you there" for n in range(4)]
REFERENCES = [f"Ann | Bob agree on {n}." for n in range(4)]


def scores_of(**predictions: list[str]) -> dict[str, Any]:
    corpus = Corpus(REFERENCES, DIALOGUES, [True, False, False, False])
    systems = {name: System(texts) for name, texts in predictions.items()}
    figures = analyse(with_baselines(systems, corpus), corpus, Settings(workers=1)).figures
    return {"recipe": "r", "split": "test", **figures}


def test_tables_have_every_system_and_the_gain() -> None:
    scores = scores_of(base=["Ann."] * 4, tuned=REFERENCES)
    lines = table(scores).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| base", "| tuned", "| lead-3", "| longest-3", "| base-cut", "| tuned - base",
    ]  # fmt: skip
    assert "100.00 [100.00, 100.00]" in lines[3]
    assert "| tuned - base | +66.67 |" in lines[-1]
    assert "tuned - base" not in table(scores_of(base=["Ann."] * 4))
    assert "| tuned - base | +66.67 |" in comparison_table(scores)
    assert "| base | 0 | - | 0 | 4 | 0 |" in mistake_table(scores)  # Bob is missing in all four


def test_report_shows_corpus_text_as_text_and_leaves_leaks_out() -> None:
    scores = scores_of(base=["Ann."] * 4)
    text = report(
        scores,
        [
            {
                "id": "x|y",
                "dialogue": DIALOGUES[0],
                "reference": REFERENCES[0],
                "predictions": {"base": {"text": "<script>alert(1)</script>"}},
            }
        ],
    )
    assert "### x\\|y" in text
    assert "````text\nAnn: ```\n# no heading 0\n" in text
    assert "| reference | Ann \\| Bob agree on 0. |" in text
    assert "<script>" not in text and "\\<script\\>" in text
    assert "## Without the 1 dialogues" in text
    verdict = text.split("\n\n")[1]
    assert "base" in verdict and "lead-3" in verdict and "ROUGE-L points" in verdict
