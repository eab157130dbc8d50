"""The HTML report: its figures and charts, escaped corpus text, and no requests."""

import base64
import copy
import csv
import hashlib
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import Markup

from eval.analysis import analyse
from eval.baselines import Corpus, System, add_baselines
from eval.html_report import chat, draw, html_report, marked, picks
from eval.report import conclusion, copied
from eval.results import training_curves
from tests.eval.report_data import RECIPE, SCRIPT, TRAINING, report_data


class Page:
    """The page without its style and script, parsed as strict XML."""

    def __init__(self, html: str) -> None:
        self.html = html
        bare = re.sub(r"(<style>|<script>).*?(?=</style>|</script>)", r"\1", html, flags=re.DOTALL)
        self.root = ElementTree.fromstring(bare)
        self.text = "".join(self.root.itertext()).replace("\n", " ")

    def named(self, tag: str) -> list[dict[str, str]]:
        return [element.attrib for element in self.root.iter(tag)]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(html_report(report_data(), TRAINING, RECIPE, ["scores.json", '"><i>.jsonl']))


def test_every_id_is_unique_and_every_link_has_a_target(page: Page) -> None:
    ids = [element.attrib["id"] for element in page.root.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    links = {link["href"].removeprefix("#") for link in page.named("a")}
    assert links - set(ids) == {"scores.json", '"><i>.jsonl'}


def test_nothing_is_fetched_and_only_its_own_script_runs(page: Page) -> None:
    for element in page.root.iter():
        assert not [name for name in element.attrib if name == "src" or name.startswith("on")]
    assert re.findall(r"url\(|@import|http(?!-equiv)|//cdn", page.html) == []
    policy = page.named("meta")[1]["content"]
    script = page.html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert len(page.named("script")) == 1


def test_corpus_text_is_escaped(page: Page) -> None:
    assert SCRIPT not in page.html and SCRIPT in page.text
    assert not page.named("img")
    for text in (
        "<img src=x onerror=window.pwned=2> and &lt;b&gt;.",
        "</script></style></div></details> & <!-- {{ 7*7 }}",
        'nasty"><b>1', "नमस्ते", "مرحبا", "明日は三時に会いましょう 🎉", "👋🏽", "models/<small>",
        "lora_r: 16  # & more",
    ):  # fmt: skip
        assert text in page.text


def test_every_reference_is_shown_and_the_strongest_baseline_is_named() -> None:
    texts = ["Ann phones Bo about the tickets.", "Bo waits."]
    corpus = Corpus([["Ann phones Bo.", "Ann rings Bo."], ["Bo waits."]], ["Ann: Bo?\nBo: yes"] * 2)
    systems = {"base": System(["x y z"] * 2), "tuned": System(texts)}
    html = html_report(analyse(add_baselines(systems, corpus), corpus, workers=1), {}, None)
    found = html.split('<div id="list">')[1]
    assert found.count('class="text reference"') == 3 and "References</h3>" in found
    (verdict_, *_) = re.findall(r'<p class="verdict">(.*?)</p>', html)
    assert verdict_.startswith("tuned does not beat base (+") and "the strongest baseline, l" in (
        verdict_
    )


def test_scores_of_every_system_are_in_the_tables(page: Page) -> None:
    scores = report_data().scores
    for system in scores.systems.values():
        for score in system.scores.values():
            assert f"{score.f1:.2f}[{score.low:.2f}, {score.high:.2f}]" in page.text
            assert f"{score.precision:.2f} / {score.recall:.2f}" in page.text
        assert system.scores_without_leaked
        assert f"{system.scores_without_leaked['rougeL']:.2f}" in page.text
        assert f"{system.style.words:.1f}" in page.text
    for pair in scores.comparisons:
        assert f"better in {pair.better}, worse in {pair.worse}, " in page.text
    assert f"Better than base in {scores.comparisons[0].better} of 42 dialogues" in page.text
    heads = [element.text for element in page.root.iter("th") if element.get("scope") == "col"]
    assert heads[:5] == ["system", "ROUGE-L", "tuned ahead by", "p", "ROUGE-1"]
    for text in ("invented_recipe", "2026-11-28", "4,884,480", "2.97 GB", "200", "lora_r16"):
        assert text in page.text
    assert "wandb_project" not in page.text.split("Generation settings")[0]
    base, tuned = (scores.systems[name] for name in ("base", "tuned"))
    counts = [system.mistakes["token_limit"] or 0 for system in (base, tuned)]
    cells = "".join(f"{one}{one / 42:.1%}".replace("%", "\xa0%") for one in counts)
    assert f"before the model stopped{cells}–––" in page.text  # baselines have no limit
    assert base.signature in page.text
    assert "do_sampleFalse" in page.text and "commitabc1234" in page.text


def test_charts_are_labelled_and_use_the_colours_of_the_page(page: Page) -> None:
    labels = [attributes["aria-label"] for attributes in page.named("svg")]
    starts = ["Bars", "Histogram", "Loss by", "Learning rate by", "Trained", "Validation by"]
    assert all(label.startswith(start) for label, start in zip(labels, starts, strict=True))
    assert "validation 1.57 at the end" in labels[2]
    drawings = "".join(re.findall(r"<svg.*?</svg>", page.html, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b|style=|nan|inf", drawings) == []
    light, dark = page.html.split("@media (prefers-color-scheme: dark)")
    for name in set(re.findall(r"var\(--([\w-]+)\)", page.html)):
        assert f"--{name}:" in light and f"--{name}:" in dark.split("}")[0]


def test_every_example_is_listed_with_its_difference(page: Page) -> None:
    result = report_data()
    items = [a for a in page.named("details") if "data-place" in a]
    differences = 100 * (result.values["tuned"] - result.values["base"])[:, 2]
    found = [float(item["data-difference"]) for item in items]
    assert found == pytest.approx(differences.tolist(), abs=0.01)
    assert ["data-leaked" in item for item in items] == result.corpus.leaked
    both = zip(result.mistakes["base"], result.mistakes["tuned"], strict=True)
    for item, (base, tuned) in zip(items, both, strict=True):
        keys = [f"0:{name}" for name in base] + [f"1:{name}" for name in tuned]
        assert item["data-mistakes"].split() == keys


def test_a_report_on_one_model_has_no_difference_and_no_training() -> None:
    page = Page(html_report(report_data(("base",)), {}, None))
    assert len(page.named("svg")) == 1
    assert not re.findall(r"data-difference|regression|\bminus\b|What it took", page.html)
    assert re.search(r"base scores \d+\.\d\d ROUGE-L \(95\xa0% interval", page.text)


def test_a_page_can_be_made_from_sparse_data() -> None:
    sparse = copy.deepcopy(report_data())
    sparse.scores.groups, sparse.scores.leaked, sparse.scores.comparisons = {}, None, []
    sparse.corpus.leaked = None
    for system in sparse.scores.systems.values():
        system.scores_without_leaked = system.mean_tokens = system.seconds = None
        system.style.compression = system.style.copied_4grams = None
    for of in sparse.systems.values():
        of.tokens = of.stopped = None
    page = Page(html_report(sparse, {"eval_loss": [[5, 1.5]]}, None))
    assert 'id="leaked"' not in page.html
    assert "ahead by" not in page.text and "Paired tests" not in page.text
    assert page.named("svg")[-1]["aria-label"].endswith(": validation 1.5 at the end.")


def test_a_noisy_loss_is_drawn_smoothed_over_its_points() -> None:
    noisy = [[step, 2 + (-1) ** step] for step in range(40)]
    drawn = draw(report_data(), {"loss": noisy})["loss"]
    dots, line = (
        re.search(f'class="{name}" d="M(.*?)"', drawn) for name in ("dots faint last", "line last")
    )
    assert dots and line and dots[1].count("M") == 39
    raw, smooth = ([float(y) for y in re.findall(r",([\d.]+)", found[1])] for found in (dots, line))
    assert np.ptp(smooth[2:-2]) < 0.1 * np.ptp(raw)
    short = draw(report_data(), {"loss": noisy[:5]})["loss"]
    assert "faint" not in short


def test_only_finite_logged_numbers_are_in_the_curves(tmp_path: Path) -> None:
    log = [{"step": 1, "loss": float("nan"), "learning_rate": "x"}, {"step": 2, "loss": 1.5}, 7]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}), "utf-8")
    assert training_curves(tmp_path) == {"loss": [[2, 1.5]]}


def test_the_three_picks_are_the_extremes_and_a_typical_one(page: Page) -> None:
    result = report_data()
    gains = (result.values["tuned"] - result.values["base"])[:, 2]
    found = picks(result, "tuned")
    assert list(found) == ["Typical", "Best gain", "Worst regression"]
    assert (found["Best gain"], found["Worst regression"]) == (gains.argmax(), gains.argmin())
    ranks = gains.argsort().argsort()
    assert abs(ranks[found["Typical"]] - len(gains) / 2) < len(gains) / 5
    shown = [a for a in page.named("details") if a.get("name") == "picks"]
    assert [("open" in a) for a in shown] == [True, False, False]


def test_the_table_can_be_copied_in_each_form() -> None:
    scores = report_data().scores
    forms = copied(scores)
    rows = list(csv.DictReader(forms["CSV"].splitlines()))
    assert [row["system"] for row in rows] == list(scores.systems)
    assert float(rows[1]["rougeL_low"]) == scores.systems["tuned"].scores["rougeL"].low
    test = scores.comparisons[0].metrics["rougeL"]
    assert float(rows[0]["ahead_by"]) == test.difference and float(rows[0]["p"]) == test.p
    assert rows[1]["p"] == ""  # the tuned model against itself
    assert forms["Markdown"].startswith("| system | ROUGE-L | tuned ahead by | p | ROUGE-1 | ")
    assert f"| {test.difference:+.2f} | {test.p:.3f} |" in forms["Markdown"]
    assert forms["LaTeX"].count(r" \\") == 1 + len(scores.systems)


def test_differing_words_are_marked_ignoring_case_and_punctuation() -> None:
    assert marked("Ann meets  Bob, and eats.", "ann met bob") == (
        "Ann <mark>meets</mark>  Bob, <mark>and eats.</mark>"
    )
    assert marked("<i> & b", "b") == "<mark>&lt;i&gt; &amp;</mark> b"
    assert marked("", "b") == "" and marked("b ", "b") == "b " and marked("😅", "👋") != "😅"


def test_inventions_are_marked_differently_from_paraphrases() -> None:
    chat_ = "Ann: dinner at 7 pm on Friday?\nBo: five of us, ok"
    text = "Ann and Gregory eat at 8 pm, twenty five of them, on <Monday>, with 5 at Bo's."
    reference = "Ann and Bo eat at 7 pm."
    found = marked(text, reference, chat_)
    assert re.findall(r'class="invented"[^>]*>(.*?)</mark>', found) == [
        "Gregory", "8", "twenty five", "&lt;Monday&gt;,",
    ]  # fmt: skip
    assert "<mark>with 5 at Bo&#39;s.</mark>" in found and "invented" not in marked(text, reference)
    assert Markup(found).striptags() == text


def test_chat_shows_every_line_with_its_speaker() -> None:
    assert chat("Ann:  <b>\n\n10:30 ok\nBob: https://x") == (
        "<b>Ann:</b>  &lt;b&gt;\n\n10:30 ok\n<b>Bob:</b> https://x"
    )


@pytest.mark.parametrize(
    ("base", "tuned", "expected"),
    [
        ("x", "Ann calls Bo about lunch.", "tuned beats base by 100.00 ROUGE-L points, and the st"),
        ("x", "calls", r"tuned beats base by 33.33 .*, but falls behind the strongest baseline, l"),
        ("x", "waits", r"does not beat base \(0.00 .*, and falls behind the strongest baseline, l"),
        ("Ann calls Bo about lunch.", "x", "falls behind base by 100.00 ROUGE-L points, and the s"),
    ],
)
def test_the_conclusion_in_each_case(base: str, tuned: str, expected: str) -> None:
    corpus = Corpus(["Ann calls Bo about lunch."] * 20, ["Ann: calls\nBo: y\nAnn: z z z z"] * 20)
    systems = {"base": System([base] * 20), "tuned": System([tuned] * 20)}
    sentence = conclusion(analyse(add_baselines(systems, corpus), corpus, workers=1).scores)
    assert re.search(expected, sentence), sentence
