"""The report's page: what stands in it, corpus text that stays text, nothing that is fetched."""

import base64
import copy
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from eval.html_report import chat, html_report, marked
from eval.stats import verdict
from tests.eval.report_data import RECIPE, SCRIPT, report_data

VOID = {"meta", "br", "input", "link", "img", "hr"}


class Page(HTMLParser):
    """Elements in order, text by element, and the elements that were not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.wrong += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return report_data()


@pytest.fixture(scope="module")
def html(data: dict[str, Any]) -> str:
    return html_report(data)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_is_well_formed_and_every_id_is_its_own(page: Page) -> None:
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.named("a") + page.named("use")]
    assert {str(link).removeprefix("#") for link in links} <= set(ids)
    labels = {attributes.get("for") for attributes in page.named("label")}
    assert {"search", "sort", "mistake"} <= labels
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_nothing_is_fetched_and_no_script_runs_but_its_own(html: str, page: Page) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    assert re.findall(r"url\((?!#)|@import|//cdn|<style type", html) == []
    assert "http" not in re.sub(r"http-equiv", "", html)
    policy = page.named("meta")[1]["content"] or ""
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy
    assert len(page.named("script")) == 1


def test_corpus_text_is_text(html: str, page: Page) -> None:
    assert SCRIPT not in html and SCRIPT in page.text
    assert "<img src=x onerror=window.pwned=2> and &lt;b&gt;." in page.text
    assert "</script></style></div></details> & <!-- {{ 7*7 }}" in page.text
    assert not page.named("img")
    for text in (
        'nasty"><b>1',
        "नमस्ते",
        "مرحبا",
        "明日は三時に会いましょう 🎉",
        "👋🏽",
        "models/<small>",
    ):
        assert text in page.text
    assert page.text.count("lora_r: 16 # & more") == 1 and RECIPE.count("&") == 1


def test_figures_of_every_system_stand_in_the_tables(data: dict[str, Any], page: Page) -> None:
    for name, system in data["scores"]["systems"].items():
        for score in system["scores"].values():
            assert f"{score['f1']:.2f}[{score['low']:.2f}, {score['high']:.2f}]" in page.text
            assert f"{score['precision']:.2f} / {score['recall']:.2f}" in page.text
        assert f"{system['scores_without_leaked']['rougeL']:.2f}" in page.text, name
        assert f"{system['style']['words']:.1f}" in page.text
    for pair in data["scores"]["comparisons"]:
        assert f"better in {pair['better']}, worse in {pair['worse']}, " in page.text
    assert verdict(data["scores"]["comparisons"][0], data["scores"]["bootstrap"]) in "".join(
        page.texts
    )
    limit = "token limitcut off by the limit of tokens before the model stopped"
    found = [system["mistakes"]["token_limit"] for system in data["scores"]["systems"].values()]
    counts = [f"{one}{one / 42:.1%}".replace("%", " %") for one in found[:2]]
    assert found[2:] == [None] * 3 and f"{limit}{''.join(counts)}–––" in page.text
    assert data["scores"]["systems"]["base"]["signature"] in page.text
    assert "do_sample:False" in page.text and "commit:abc1234" in page.text


def test_charts_name_what_they_show(page: Page) -> None:
    labels = [str(attributes["aria-label"]) for attributes in page.named("svg")]
    assert all(attributes["role"] == "img" for attributes in page.named("svg"))
    starts = ["Bars", "Histogram", "ROUGE-L against", "Loss by", "ROUGE on validation rows by"]
    assert all(label.startswith(start) for label, start in zip(labels, starts, strict=True))
    assert "validation 1.57 at the end" in labels[3]


def test_charts_take_their_colours_from_the_page(html: str) -> None:
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", drawings) == []
    used = set(re.findall(r"var\(--([\w-]+)\)", html))
    light, dark = html.split("@media (prefers-color-scheme: dark)")
    for name in used:
        assert f"--{name}:" in light and f"--{name}:" in dark.split("}")[0]


def test_every_example_is_there_with_its_difference(data: dict[str, Any], page: Page) -> None:
    items = [a for a in page.named("details") if a.get("class") == "item"]
    assert len(items) == len(data["examples"])
    for item, example in zip(items, data["examples"], strict=True):
        base, tuned = (example["predictions"][m]["f1"]["rougeL"] for m in ("base", "tuned"))
        assert float(item["data-difference"] or "") == pytest.approx(100 * (tuned - base), abs=0.01)
        assert ("data-leaked" in item) == example["leaked"]
        made = enumerate(example["predictions"].values())
        keys = [f"{n}:{name}" for n, prediction in made for name in prediction["mistakes"]]
        assert item["data-mistakes"] == " ".join(keys)


def test_same_data_same_bytes(data: dict[str, Any], html: str) -> None:
    assert html_report(copy.deepcopy(data)) == html


def test_one_model_has_no_difference_and_no_training() -> None:
    html = html_report(report_data(("base",)))
    page = Page(html)
    assert page.wrong == []
    assert "data-difference" not in html and "regressions" not in html and "minus" not in page.text
    assert 'id="training"' not in html and 'value="score up"' in html
    assert len(page.named("svg")) == 2
    assert re.search(r"base scores \d+\.\d\d ROUGE-L \(95\xa0% interval", "".join(page.texts))


def test_sparse_data_still_make_a_page(data: dict[str, Any]) -> None:
    sparse = copy.deepcopy(data)
    sparse["scores"] |= {"groups": {}, "leaked": None, "comparisons": []}
    for system in sparse["scores"]["systems"].values():
        system |= {"scores_without_leaked": None, "mean_tokens": None, "seconds": None}
        system["style"] |= {"compression": None, "copied_4grams": None}
    for example in sparse["examples"]:
        example["leaked"] = False
        for made in example["predictions"].values():
            made |= {"tokens": None, "stopped": None}
    sparse["training"] = {"loss": [], "eval_loss": [], "eval_rouge": {}}
    sparse["recipe_text"] = None
    page = Page(html_report(sparse))
    assert page.wrong == [] and 'id="leaked"' not in page.text
    assert [a["id"] for a in page.named("section")] == ["result", "mistakes", "examples", "made"]
    assert "also stand in the training source is not known" in page.text
    with pytest.raises(ValueError, match="no examples"):
        html_report({**data, "examples": []})


def test_a_loss_without_rouge_and_one_point(data: dict[str, Any]) -> None:
    training = {"loss": [], "eval_loss": [[5, 1.5]], "eval_rouge": {}}
    page = Page(html_report({**data, "training": training}))
    labels = [str(attributes["aria-label"]) for attributes in page.named("svg")]
    assert labels[-1] == "Loss by training step: validation 1.5 at the end."


def test_a_systems_name_is_text_too(data: dict[str, Any]) -> None:
    odd = copy.deepcopy(data)
    systems = odd["scores"]["systems"]
    systems['<img src="x">$a_b$'] = systems.pop("lead-3")
    for bins in odd["scores"]["groups"].values():
        for one in bins:
            one["rougeL"]['<img src="x">$a_b$'] = one["rougeL"].pop("lead-3")
    page = Page(html_report(odd))
    assert page.wrong == [] and not page.named("img") and '<img src="x">$a_b$' in page.text


def test_differing_words_are_marked_without_case_or_punctuation() -> None:
    assert marked("Ann meets  Bob, and eats.", "ann met bob") == (
        "Ann <mark>meets</mark>  Bob, <mark>and eats.</mark>"
    )
    assert marked("<i> & b", "b") == "<mark>&lt;i&gt; &amp;</mark> b"
    assert marked("", "b") == "" and marked("b ", "b") == "b " and marked("😅", "👋") != "😅"


def test_chat_shows_every_line_with_its_speaker() -> None:
    assert chat("Ann:  <b>\n\n10:30 ok\nBob: https://x") == (
        "<b>Ann:</b>  &lt;b&gt;\n\n10:30 ok\n<b>Bob:</b> https://x"
    )
