"""Nothing private is published: attacks through a run, its records and the staging folder."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import axolotl
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from data_prep.errors import UserError, run_cli
from data_prep.recipe import load_recipe
from scripts.leaks import check_file
from scripts.model_card import (
    SAMPLE,
    Records,
    example_of,
    model_card,
    names_of,
    read_records,
    read_scores,
)
from scripts.publish import main, published, stage
from tests.conftest import ROOT
from tests.run_records import NAME, write_scores
from tests.scripts.test_publish import OUTPUT, PUBLISH, RECIPE, hashes
from training.run_record import write_trained_with

TEMPLATES = Path(axolotl.__path__[0]) / "utils/chat_templates/templates"
SCORES, MANIFEST = Path(f"results/{NAME}/scores.json"), Path(f"data/{NAME}/manifest.json")
NOISE = "1KnHjE9JeoRLHiKDRmW7bc9xJDq4"  # it looks like a random key
HUB, WANDB, AWS = "hf_" + "aBcD" * 9, "0a1b2c3d4e" * 4, "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----\n"


def publish(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr(sys, "argv", ["publish", str(RECIPE), "--repo", "user/name", *flags])
    try:
        run_cli(main)
    except SystemExit as end:
        return int(str(end.code))
    return 0


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line in which publish ends."""
    capsys.readouterr()
    assert publish(monkeypatch) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and "uploaded" not in out
    return error


@pytest.fixture
def records(run: Path) -> Records:
    (OUTPUT / "tokenizer.json").write_text('{"version": "1.0", "model": {"vocab": {}}}', "utf-8")
    return read_records(load_recipe(RECIPE))


def staged(records: Records) -> Path:
    names = names_of(records.recipe, records.manifest.source_files)
    return stage(records, names, model_card(records, names))


def add(path: Path, **content: Any) -> None:
    """Add keys to a JSON or YAML file."""
    of_json = path.suffix == ".json"
    found = json.loads(path.read_text("utf-8")) if of_json else yaml.safe_load(path.read_text())
    path.write_text(json.dumps(found | content) if of_json else yaml.safe_dump(found | content))


# ---- fields that are left out ----


def test_only_listed_fields_are_staged(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trackers = {
        "comet_api_key": f"comet{HUB}", "mlflow_tracking_uri": "https://me:hunter2@flow.example",
        "wandb_name": WANDB, "wandb_entity": "me", "hub_model_id": "me/h1dden",
        "trackio_space_id": "me/h1dden",
    }  # fmt: skip
    add(RECIPE, **trackers)
    RECIPE.write_text(f"# {HUB} {AWS} /home/me\n{RECIPE.read_text('utf-8')}# {WANDB}\n", "utf-8")
    hidden = {"api_token": HUB, "auto_map": {"x": "h1dden"}, "name_or_path": "/home/me/h1dden"}
    add(OUTPUT / "tokenizer_config.json", **hidden, pin=hash("h1dden"))
    add(OUTPUT / "adapter_config.json", **hidden, wandb=WANDB)
    tokenizer, weights = OUTPUT / "tokenizer.json", OUTPUT / "adapter_model.safetensors"
    tokenizer.write_text(json.dumps(json.loads(tokenizer.read_text("utf-8")) | hidden), "utf-8")
    save_file(load_file(weights), weights, {"format": "pt", "owner": "h1dden"})
    recipe, files = load_recipe(RECIPE), json.loads(MANIFEST.read_text("utf-8"))["files"]
    write_trained_with(OUTPUT, recipe, 40)
    write_scores(recipe, files)  # for this adapter
    capsys.readouterr()
    assert publish(monkeypatch) == 0, capsys.readouterr().err
    left_out = capsys.readouterr().out
    for key in (*trackers, *hidden, "pin", "wandb", "owner"):
        assert key in left_out
    for path in PUBLISH.iterdir():
        content = path.read_bytes()
        for text in (HUB, WANDB, AWS, "hunter2", "flow.example", "h1dden", "/home/me"):
            assert text.encode() not in content, (path, text)
    assert "#" not in (PUBLISH / "recipe.yml").read_text("utf-8")


def test_our_recipes_are_published_unchanged() -> None:
    for path in (ROOT / "recipes").glob("*.yml"):
        config = yaml.safe_load(path.read_text("utf-8"))
        assert published(config, {}) == config, path.name


# ---- content that is refused ----


@pytest.mark.parametrize(
    "secret",
    [
        HUB, WANDB, AWS, KEY, f"x{HUB}x", f"local-{WANDB}", WANDB.upper(), "AKIAIOSFODNN7EXAMPLE",
        "https://me:hunter2@flow.example", "http://me:p@ss!w0rd@host:5000/",
        f"https://{WANDB[:20]}@host/x", HUB.replace("_", "&#95;"), HUB.replace("_", "\\_"),
        HUB.replace("_", "_\u200b"),
        "my password is hunter2", "password: hunter", "hub token: abc12345", "api_key=abcdef123456",
        "https://x.org/?token=abcd1234", "Authorization: Bearer abcd.1234",
        "xoxb-123456789-abcdefghij", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "glpat-abcdefghij1234567890", "0a1b2c3d-0a1b-0a1b-0a1b-0a1b2c3d4e5f",
        "PuTTY-User-Key-File-3: ssh",
        f"GOCSPX-{NOISE}", f"ya29.a0_{NOISE}", f"abc8Q~{NOISE}.xY12_ab", f"{NOISE}+/{NOISE * 2}==",
        f"Comet knows {NOISE[:25]} of me", "Authorization: Basic abcdefgh", "curl -u a:b x.org",
        "wget --user=a:b", "pw: geheim", "Passwort: geheim", "mot de passe : secret",
        HUB.replace("B", "&#8203;B"), HUB.replace("B", "\u2063B"), HUB.replace("B", "\ufe0fB"),
        HUB.replace("B", "\\B"), HUB.replace("B", "<b></b>B"), HUB.replace("B", "<!-- -->B"),
        HUB.replace("B", "**B"), f"https://x.org/?{HUB}",
    ],
)  # fmt: skip
def test_a_secret_in_any_text(tmp_path: Path, secret: str) -> None:
    assert_refused(tmp_path, secret, "an access token or a password", ("chat_template.jinja",))
    for content in (HUB.encode(), b"password: hunter22"):
        (tmp_path / "tokenizer.model").write_bytes(b"\0" + content + b"\0")
        with pytest.raises(UserError, match="access token"):
            check_file(tmp_path / "tokenizer.model")


@pytest.mark.parametrize(
    "path",
    [
        "see:/secret", "path:/root", "/my models/x y", "//nas/share", "x=/secret", "`/secret`",
        "http://localhost/secret", "https://nas.lan:80/x", "FILE:///x", "file:/x",
        "file://nas/share", "smb://nas/share", "http:///home/me", "/.ssh",
        "_/home/me_", "text./home/me", ")/home/me", "[/home/me]", "/été/x", "/ home /secret",
        "|/secret|", "<a href=/secret/x>", "a;/secret", "--path=/secret", "/1/secret", "~\\x",
        "see %2Fhome%2Fme", "&#47;secret", "\uff0fsecret", "D:\\my models",
        "\\Users\\me\\x", "\\\\?\\C:\\x",
        "D:\\training\\x", "D:\\new", "\\\\nas\\team", "\\\\training\\runs", "\\Data\\chats",
        "/think/me/x", "/no_think/me", "/(backup)/x", "/!backup/x", "/=old/x", ")/data/x",
        "\\/home\\/me",
        "../../../home/me", "..\\..\\Users\\x", "https://x.org/a;/data/x", "&#92;&#92;nas&#92;team",
        "https://x.org/?a=http://192.168.0.7/x", "https://x.org/#http://nas/x", "http://0.0.0.0:80/x",
        "https://x.org/?a=/home/me", "https://x.org/?a=C:\\x", "https://x.org/http://10.0.0.1/x",
        "http://169.254.1.1/x", "http://100.64.3.1/x", "http://nas./x", "http://NAS.CORP./x",
        "http://nas.internal/x", "http://nas.home.arpa/x", "http://127.1/x", "http://2130706433/x",
        "http://[fe80::1]/x", "http://[fd00::1]:80/x", "git://nas/x", "s3://localhost:9000/x",
        "hf://nas.local/x", "git+ssh://nas/x",
    ],
)  # fmt: skip
def test_a_path_in_any_text(tmp_path: Path, path: str) -> None:
    assert_refused(tmp_path, path, "the path `")


def assert_refused(folder: Path, text: str, words: str, others: tuple[str, ...] = ()) -> None:
    for name in ("README.md", "recipe.yml", "scores.json", "model.safetensors", *others):
        file = folder / name
        if name == "model.safetensors":
            save_file(load_file(tiny(folder)), file, {"from": text})
        elif file.suffix in (".md", ".jinja"):
            file.write_text(f"before {text} after", "utf-8")
        else:
            file.write_text(json.dumps({"a": [{"b": text}]}), "utf-8")
        with pytest.raises(UserError, match=f"{name}: would publish {words}"):
            check_file(file)


def tiny(folder: Path) -> Path:
    import numpy as np

    save_file({"w": np.zeros(2, np.float32)}, folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.mark.parametrize(
    "text",
    [
        "8 /10, 24/7, 3 / 4, 12/30/2026 at 5:00/6:00, 50 km/h, 5%/year, N/A, A/B",
        "pre-/post-training, he/she, w/ friends, w/o, `and`/`or`, he / she",
        "/no_think and /think, </think> <|/x|> {/if} [/INST]",
        "https://x.org/~me/a?b=/c, https://huggingface.co/a/b, http://localhost:5000, s3://a/b.",
        "Use with Slack's /summarize command.", "Secret: the dialogues are synthetic.", "50 km /h",
        "Q:\n{dialogue}\nA:\tx", "../home/x, ./etc/x and data/srv/x", "a limit of 128 tokens",
        "rouge|n:40|refs:1a2b3c4d|commit:92d156a-dirty, `0123456789abcdef`", "the password, too",
        "Qwen3OmniMoeThinkerForConditionalGeneration, training.plugin.SummarizationPlugin",
        "`<recipe>/merged` and `outputs/<recipe>/merged`, [https://x.org/a](https://x.org/a).",
        "hf://datasets/user/x, git+https://github.com/a/b, https://x.org/?next=/a/b",
        "(he)/(she), speaker(s)/group, $\\alpha$, docker run -u 1000:1000, AutoModelForSeq2SeqLM",
    ],
)  # fmt: skip
def test_text_without_secrets_and_paths_is_published(tmp_path: Path, text: str) -> None:
    for name, content in (
        ("README.md", f"{text}\n```python\nx = {json.dumps(text)}\n```\n"),
        ("recipe.yml", yaml.safe_dump({"a": text})),
        ("scores.json", json.dumps({"a": {text: [text]}})),
    ):
        (tmp_path / name).write_text(content, "utf-8")
        check_file(tmp_path / name)


def test_recipes_dialogues_and_chat_templates_are_published(tmp_path: Path) -> None:
    templates = TEMPLATES.glob("*.jinja")
    for path in (*(ROOT / "recipes").glob("*.yml"), *SAMPLE.parent.glob("*.jsonl"), *templates):
        name = "chat_template.jinja" if path.suffix == ".jinja" else "README.md"
        (tmp_path / name).write_text(path.read_text("utf-8"), "utf-8")
        check_file(tmp_path / name)


def test_recorded_hashes_and_real_files_are_not_secrets(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"revision `{WANDB}`", "utf-8")
    check_file(tmp_path / "README.md", {WANDB})
    for folder in (ROOT / "results").iterdir():
        if (folder / "scores.json").is_file():
            check_file(folder / "scores.json")
    template = "{% if a // b > x/y %}'/system_override' in '</s>' + '\\n' ~ 'Q:\\n'{% endif %}"
    (tmp_path / "chat_template.jinja").write_text(template, "utf-8")
    check_file(tmp_path / "chat_template.jinja")
    for place in ("'/root'", "'/a/b'", "x:/home/me", "'//nas/share'"):
        (tmp_path / "chat_template.jinja").write_text(template + place, "utf-8")
        with pytest.raises(UserError, match="would publish the path"):
            check_file(tmp_path / "chat_template.jinja")


def test_secrets_and_paths_in_the_recipe_and_records(records: Records) -> None:
    block, config = records.recipe.summarization, records.recipe.config
    for change in (
        lambda: setattr(block.publish, "note", f"my token is {HUB}"),
        lambda: setattr(block, "license", "MIT, see /secret"),
        lambda: config.update(special_tokens={"pad_token": HUB}),
        lambda: config.update(deepspeed="/secret"),
        lambda: records.scores.notes.append(WANDB),
        lambda: records.scores.environment.update(cpu="x /root"),
    ):
        change()  # in addition to the earlier changes
        with pytest.raises(UserError, match="would publish") as error:
            staged(records)
        assert HUB not in str(error.value) and not PUBLISH.exists()


def test_the_refusal_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(RECIPE.read_text("utf-8"))
    config["summarization"]["publish"]["note"] = f"{KEY}/secret"
    RECIPE.write_text(yaml.safe_dump(config), "utf-8")
    assert "README.md: would publish" in refused(monkeypatch, capsys)


@pytest.mark.parametrize("text", ["D:\\training\\x", "\\\\nas\\team", f"x GOCSPX-{NOISE} x"])
def test_paths_and_secrets_in_code(tmp_path: Path, text: str) -> None:
    for name, content in (
        ("chat_template.jinja", f"{{# {text} #}}"),
        ("README.md", f"```python\n# {text}\n```"),
        ("README.md", f"```python\nx = {json.dumps(text)}\n```"),
    ):
        (tmp_path / name).write_text(content, "utf-8")
        with pytest.raises(UserError, match=f"{name}: would publish"):
            check_file(tmp_path / name)


@pytest.mark.parametrize("text", ["/secret", "in:/secret", "/my models/x", "//nas/share"])
def test_paths_in_a_templates_comment(tmp_path: Path, text: str) -> None:
    path = tmp_path / "chat_template.jinja"
    path.write_text(f"{{{{ a /b }}}}{{# kept in {text} #}}", "utf-8")
    with pytest.raises(UserError, match="would publish the path"):
        check_file(path)


@pytest.mark.parametrize("text", ["/home/me/x", "Ġ/data/me", "D:\\my\\x", HUB, f"Ġ{NOISE}"])
def test_vocabularies_and_headers_of_weights(tmp_path: Path, text: str) -> None:
    vocab, weights = tmp_path / "tokenizer.json", tmp_path / "model.safetensors"
    for model in ({"vocab": {text: 1}}, {"vocab": [[text, 0.5]]}, {"merges": [[text, "x"]]}):
        vocab.write_text(json.dumps({"model": model}), "utf-8")
        with pytest.raises(UserError, match="tokenizer.json: would publish"):
            check_file(vocab)
    shown = json.dumps(text.strip("Ġ"))
    tensor = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]'
    for header in (
        f'{{"w": {tensor}, "of": {shown}}}}}',
        f'{{"__metadata__": {{"x": {shown}, "x": "y"}}, "w": {tensor}}}}}',
    ):  # loaders ignore both
        weights.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
        with pytest.raises(UserError, match="model.safetensors: would publish"):
            check_file(weights)


# ---- files that are not regular, or damaged ----


def link(name: str) -> Callable[[], None]:
    def make() -> None:
        (OUTPUT / name).rename("private")
        (OUTPUT / name).symlink_to(Path("private").resolve())

    return make


def pipe() -> None:
    (OUTPUT / "chat_template.jinja").unlink()
    os.mkfifo(OUTPUT / "chat_template.jinja")


def folder() -> None:
    (OUTPUT / "chat_template.jinja").unlink()
    (OUTPUT / "chat_template.jinja").mkdir()


def pickle() -> None:
    (OUTPUT / "adapter_model.safetensors").rename(OUTPUT / "adapter_model.bin")


def holds(name: str, content: bytes) -> Callable[[], object]:
    return lambda: (OUTPUT / name).write_bytes(content)


def test_links_special_files_and_damaged_files(records: Records) -> None:
    broken = (b"{", b"[]", b"\xff", b"", b"[" * 9999, b'{"bos_token": "\\ud800"}', b"0")
    for name, damage, words in (
        ("chat_template.jinja", link("chat_template.jinja"), "is a link; put the file itself"),
        ("tokenizer.json", link("tokenizer.json"), "is a link; put the file itself"),
        ("adapter_model.safetensors", link("adapter_model.safetensors"), "is a link; put the"),
        ("adapter_config.json", link("adapter_config.json"), "is a link; put the file itself"),
        ("chat_template.jinja", folder, "is not a regular file; put the file itself there"),
        ("chat_template.jinja", pipe, "is not a regular file; put the file itself"),
        ("chat_template.jinja", holds("chat_template.jinja", KEY.encode()), "would publish an acc"),
        *(
            (name, holds(name, content), "damaged")
            for name in ("tokenizer_config.json", "adapter_config.json", "tokenizer.json")
            for content in broken
        ),
    ):
        Path("kept").write_bytes((OUTPUT / name).read_bytes())
        damage()
        with pytest.raises(UserError, match=f"{name}: {words}"):
            staged(records)
        assert not PUBLISH.exists() and not list(OUTPUT.glob(".publish*"))
        (OUTPUT / name).rmdir() if (OUTPUT / name).is_dir() else (OUTPUT / name).unlink()
        Path("kept").rename(OUTPUT / name)
    assert staged(records) == PUBLISH


def test_damaged_training_records_and_pickled_weights(run: Path) -> None:
    for damage, words in (
        (holds("run.json", b"["), "run.json: cannot be read"),
        (holds("run.json", b'{"settings": []}'), "run.json: cannot be read"),
        (holds("adapter_config.json", b"[]"), "adapter_config.json: cannot be read"),
        (pickle, "adapter_model.bin is a pickle, which may run code"),
    ):  # each is found before the damage above it
        damage()
        with pytest.raises(UserError, match=words):
            read_records(load_recipe(RECIPE))


# ---- scores and other records that the model card uses ----


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (MANIFEST, '"written": 40', '"written": 4000'),
        (MANIFEST, '"revision": null', '"revision": "main"'),
        (OUTPUT / "trainer_state.json", '"train_loss": 1.75', '"train_loss": 0.01'),
        (OUTPUT / "run.json", '"bf16": true', '"bf16": false'),
        (OUTPUT / "trained_with.json", '"steps":40', '"steps":90'),
    ],
)
def test_a_record_that_was_edited(records: Records, path: Path, old: str, new: str) -> None:
    whole = path.read_text("utf-8")
    assert old in whole
    path.write_text(whole.replace(old, new), "utf-8")
    with pytest.raises(UserError, match=f"{path}: (was changed since it was written|is not as)"):
        read_records(records.recipe)
    if path.name != "trainer_state.json":  # records of earlier versions have no hash
        add(path, **(json.loads(whole) | {"digest": ""}))
        read_records(records.recipe)


def test_scores_that_were_edited(records: Records) -> None:
    whole = SCORES.read_text("utf-8")
    found = json.loads(whole)["systems"]["tuned"]["scores"]["rougeL"]["f1"]
    for figure in ("99.99", "NaN", "1e308", "-1"):
        SCORES.write_text(whole.replace(f'"f1": {found}', f'"f1": {figure}'), "utf-8")
        with pytest.raises(UserError, match="is not as eval.run wrote it.* run `python -m eval.ru"):
            read_scores(records.recipe, records.adapter, records.manifest)
    SCORES.write_text(whole, "utf-8")
    assert read_scores(records.recipe, records.adapter, records.manifest) == records.scores
    SCORES.with_name(".scores.sha256").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not as eval.run wrote it"):
        read_scores(records.recipe, records.adapter, records.manifest)


def test_an_example_that_was_edited(records: Records) -> None:
    path = SCORES.with_name("predictions.tuned.jsonl")
    assert example_of(records)
    path.write_text(path.read_text("utf-8").replace('"prediction":"', '"prediction":"Not so: ', 1))
    with pytest.raises(UserError, match="predictions.tuned.jsonl: is not as eval.run wrote it"):
        example_of(records)


# ---- the staging folder ----


def own_file() -> Path:
    (PUBLISH / "notes.txt").write_text("mine", "utf-8")
    return PUBLISH / "notes.txt"


def edited_card() -> Path:
    (PUBLISH / "README.md").write_text("mine", "utf-8")
    return PUBLISH / "README.md"


def own_folder() -> Path:
    (PUBLISH / "mine").mkdir()
    return PUBLISH / "mine"


def own_link() -> Path:
    shutil.move(PUBLISH / "scores.json", "mine.json")
    (PUBLISH / "scores.json").symlink_to(Path("mine.json").resolve())
    return PUBLISH / "scores.json"


def linked_sums() -> Path:
    (OUTPUT / ".staged.sha256").replace("sums")
    (OUTPUT / ".staged.sha256").symlink_to(Path("sums").resolve())
    return OUTPUT / ".staged.sha256"


def linked_folder() -> Path:
    PUBLISH.rename("elsewhere")
    PUBLISH.symlink_to(Path("elsewhere").resolve())
    return PUBLISH


def test_files_that_publish_did_not_write_are_kept(records: Records) -> None:
    for make in (
        own_file, edited_card, own_folder, own_link, linked_folder, linked_sums,
    ):  # fmt: skip
        staged(records)
        own = make()
        before = {path: path.lstat().st_mtime_ns for path in (*PUBLISH.iterdir(), PUBLISH)}
        with pytest.raises(UserError, match=f"^{own}: "):
            staged(records)
        after = {path: path.lstat().st_mtime_ns for path in (*PUBLISH.iterdir(), PUBLISH)}
        assert after == before
        own.rename(f"moved-{make.__name__}")  # as the message asks


def test_its_own_files_are_replaced_also_after_a_kill(records: Records) -> None:
    staged(records)
    partial, mine = OUTPUT / f".publish.{'0a' * 16}.partial", OUTPUT / ".publish.partial"
    shutil.copytree(PUBLISH, partial)  # as if killed while writing it
    shutil.copytree(PUBLISH, mine)
    (PUBLISH / "scores.json").unlink()  # and while removing the old files
    records.recipe.summarization.publish.note = "another"
    assert "- another" in (staged(records) / "README.md").read_text("utf-8")
    assert not partial.exists() and hashes(mine) and "scores.json" in hashes(PUBLISH)
