"""Turn a recipe's source into `train.jsonl`, `validation.jsonl`, `test.jsonl`, `manifest.json`.

One pass, a thousand rows at a time: test and validation first, so that their dialogues are known
when train is read. The same input gives the same bytes; files are written completely or not at all.
"""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from data_prep.clean import Cleaner, digest, value_at
from data_prep.console import track
from data_prep.errors import UserError, atomic_files, reading
from data_prep.formats import SourceRow
from data_prep.prompt import Example, Neutralizer, TokenCounter
from data_prep.recipe import Recipe, sequence_len
from data_prep.settings import Summarization
from data_prep.sources import Sealed, Source, sha256_of

CHUNK = 1000  # rows in memory at a time; the tokenizer counts them in one call
READING_ORDER = ("test", "validation", "train")


class SplitCounts(BaseModel):
    """Row counts of a split: read, written, and dropped by reason.

    `references`: further summaries of written dialogues; in training, each becomes its own row.
    """

    read: int = 0
    written: int = 0
    references: int = 0
    dropped: Counter[str] = Counter()


class Lengths(BaseModel):
    """Token counts of a split's written rows."""

    rows: int
    tokens: int
    mean: float
    median: int
    p99: int
    longest: int


class TokenStatistics(BaseModel):
    """Lengths in tokens of the recipe's `tokenizer`; if None, `why` it could not be loaded."""

    tokenizer: str | None
    why: str | None = None
    special_tokens: list[str] = []
    sequence_len: int | None = None
    train: Lengths | None = None
    validation: Lengths | None = None
    test: Lengths | None = None


class Manifest(Sealed):
    """`manifest.json`, without its long lists `overlong` and `dropped`.

    `files` and `source_files`: SHA-256 by file name. `settings`: the recipe's settings that shape
    the rows. `leaked`: ids of evaluation rows whose dialogue is in the source's training rows.
    `notes`: what the readers guessed, fixed or left out.
    """

    recipe: str
    source: str
    revision: str | None
    license: str
    source_files: dict[str, str]
    settings: dict[str, Any]
    counts: dict[str, SplitCounts]
    notes: list[str] = []
    changed: dict[str, int]
    overlaps: dict[str, int]
    leaked: dict[str, list[str]] = {}
    neutralized: dict[str, int]
    tokens: TokenStatistics
    files: dict[str, str]
    versions: dict[str, str]


class _Preparation:
    """One run of the preparation, with its counts and lists."""

    def __init__(self, recipe: Recipe, source: Source):
        self.recipe, self.source, self.settings = recipe, source, recipe.summarization
        self.clean = Cleaner(self.settings)
        self.counter: TokenCounter | None = None
        self.no_counter = ""
        try:
            self.counter = TokenCounter(recipe)
        except UserError:
            raise
        except Exception as error:  # Hub clients raise unrelated types; the manifest reports it
            reason = str(error).splitlines()[0] if str(error) else ""
            self.no_counter = f"{type(error).__name__}: {reason}"
        self.neutralize = self.counter.neutralizer() if self.counter else Neutralizer(set())
        self.counts: dict[str, SplitCounts] = {}
        self.tokens: dict[str, Counter[int]] = {}
        self.hashes: dict[str, str] = {}
        self.neutralized: Counter[str] = Counter()
        shares = (("test", self.settings.test_rows), ("validation", self.settings.validation_rows))
        self.shares = {split: share for split, share in shares if share is not None}
        self.cut: dict[bytes, str] = {}  # split of each dialogue cut from train, by its hash
        # the manifest's long lists, as JSON text: a corpus may have many such rows
        self.lists: dict[str, list[str]] = {"overlong": [], "dropped": []}

    def run(self) -> Manifest:
        names = [f"{split}.jsonl" for split in READING_ORDER] + ["manifest.json"]
        with atomic_files(self.recipe.data_dir, *names) as files:
            if self.shares:
                self._divide()
            for split in READING_ORDER:
                self._write_split(split, files[f"{split}.jsonl"])
            manifest = self._manifest()
            file = files["manifest.json"]
            file.write(manifest.model_dump_json(indent=2)[:-2])
            for name, entries in self.lists.items():  # one entry per line
                lines = ",".join(f"\n    {entry}" for entry in entries)
                file.write(f',\n  "{name}": [{lines}]')
            file.write("\n}\n")
        return manifest

    def _write_split(self, split: str, out: IO[str]) -> None:
        counts = SplitCounts()
        self.counts[split], self.tokens[split] = counts, Counter()
        ids: set[str] = set()
        hasher, limit = hashlib.sha256(), sequence_len(self.recipe.config)
        with closing(self._examples(split, counts)) as rows:  # closes the bar on an error
            while chunk := list(itertools.islice(rows, CHUNK)):
                for row in chunk if split != "train" else []:
                    if row.id in ids:
                        raise UserError(
                            f"{self.source.source}: {split}: id `{row.id}` occurs twice; "
                            "make the ids unique"
                        )
                    ids.add(row.id)
                text = "".join(example.line() + "\n" for example in chunk)
                hasher.update(text.encode("utf-8"))
                out.write(text)
                counts.written += len(chunk)
                lengths = self.counter.count(chunk) if self.counter else []
                for row, length in zip(chunk, lengths, strict=False):
                    self.tokens[split][length] += 1
                    if length > limit:
                        self._add_to_list("overlong", split=split, id=row.id, tokens=length)
        if not counts.written:
            hint = f", or cut it from train: `summarization.{split}_rows: 0.1`"
            hint = "" if split == "train" else hint
            raise UserError(
                f"{self.source.source}: split `{split}` has no usable row "
                f"({counts.read} read); check the source and summarization.cleaning{hint}"
            )
        self.hashes[f"{split}.jsonl"] = hasher.hexdigest()

    def _add_to_list(self, name: str, **entry: str | int) -> None:
        self.lists[name].append(json.dumps(entry, ensure_ascii=False))

    def _examples(self, split: str, counts: SplitCounts) -> Generator[Example]:
        """Yield the examples of a split: train has one per summary, the others one per dialogue.

        An evaluation dialogue with several summaries, in one row or in several (DialogSum's test
        split), becomes one example with several references, so that it is generated once.
        """
        rows = self._cleaned(split, counts)
        if split == "train":
            for example, summaries in rows:
                for number, summary in enumerate(summaries, 1):
                    example_id = example.id if number == 1 else f"{example.id}#{number}"
                    yield example.with_summary(example_id, summary)
                counts.references += len(summaries) - 1
            return
        by_prompt: dict[str, tuple[Example, list[str]]] = {}  # in order of first occurrence
        for example, summaries in rows:
            prompt = " ".join(example.messages[-2]["content"].split())
            references = by_prompt.setdefault(prompt, (example, []))[1]
            counts.references += len(summaries) - (not references)
            references += summaries
        several = any(len(summaries) > 1 for _, summaries in by_prompt.values())
        for example, summaries in by_prompt.values():
            example.references = summaries if several else []
            yield example

    def _divide(self) -> None:
        """Choose the dialogues that become test and validation: those with the smallest hashes.

        The choice does not depend on the order of the rows, and equal dialogues stay together.
        """
        rows = track(self.source.rows("train"), "dividing", "rows")
        row_counts = Counter(map(self._digest, rows))
        smallest_first = iter(sorted(row_counts))
        for split, share in self.shares.items():
            target = share if isinstance(share, int) else max(1, round(share * row_counts.total()))
            count = 0
            while count < target and (dialogue_hash := next(smallest_first, None)):
                self.cut[dialogue_hash] = split
                count += row_counts[dialogue_hash]
            note = f"{split}: {count} rows cut from train by a hash of the dialogue"
            self.source.notes[note] = None
            if split in self.source.splits:
                self.source.notes[f"the source's own split `{split}` is not read"] = None
        if len(self.cut) == len(row_counts):
            raise UserError(
                f"{self.recipe.path}: summarization.{'_rows and '.join(self.shares)}_rows leave no "
                f"row of {row_counts.total()} to train on; lower them"
            )

    def _digest(self, row: SourceRow) -> bytes:
        """Return the hash that decides the split of a row."""
        try:
            dialogue = value_at(row.columns, self.settings.dialogue_column)
        except (LookupError, ValueError):  # the cleaner reports this error
            dialogue = row.columns
        return digest(json.dumps(dialogue, sort_keys=True, default=str))

    def _cleaned(self, split: str, counts: SplitCounts) -> Generator[tuple[Example, list[str]]]:
        """Yield each row that is kept, as an example with its first summary, and all summaries."""
        limit = self.settings.train_rows if split == "train" else "all"
        source_split = "train" if split in self.shares else split
        rows: Iterator[SourceRow] = self.source.rows(source_split)
        if self.shares and source_split == "train":
            rows = (row for row in rows if self.cut.get(self._digest(row), "train") == split)
        if isinstance(limit, int):
            rows = itertools.islice(rows, limit)
        for number, row in enumerate(track(rows, split, "rows")):
            counts.read += 1
            has_id = row.columns.get("id") not in (None, "")
            row_id = str(row.columns["id"]) if has_id else f"{split}-{number:05d}"
            dialogue, summaries, columns, reason = self.clean(split, row_id, row)
            if reason:
                counts.dropped[reason] += 1
                self._add_to_list("dropped", split=split, id=row_id, reason=reason)
                continue
            texts = [self.neutralize(text) for text in (dialogue, *columns.values(), *summaries)]
            dialogue, *other_texts = (text for text, _ in texts)
            columns = dict(zip(columns, other_texts, strict=False))
            summaries = other_texts[len(columns) :]
            example = Example.build(
                row_id, dialogue, summaries[0], self.settings.instruction, columns,
                self.settings.system,
            )  # fmt: skip
            broken = sum(count for _, count in texts) + self.neutralize.neutralize_messages(example)
            if broken:
                self.neutralized["rows"] += 1
                self.neutralized["strings"] += broken
            yield example, summaries
        if isinstance(limit, int) and counts.read < limit:
            raise UserError(
                f"{self.recipe.path}: summarization.train_rows is {limit}, but the source"
                f" has {counts.read} training rows; lower it or write `all`"
            )

    def _manifest(self) -> Manifest:
        self.source.check_unchanged()
        tokens = TokenStatistics(tokenizer=None, why=self.no_counter)
        if self.counter:
            tokens = TokenStatistics(
                tokenizer=self.counter.name,
                special_tokens=sorted(self.counter.special_tokens),
                sequence_len=self.recipe.config.get("sequence_len"),
                train=_lengths(self.tokens["train"]),
                validation=_lengths(self.tokens["validation"]),
                test=_lengths(self.tokens["test"]),
            )
        packages = ["datasets", "transformers", "tokenizers", "axolotl"]
        if any(name.endswith(".7z") for name in self.source.file_hashes):
            packages.append("py7zr")
        return Manifest(
            recipe=self.recipe.name,
            source=self.settings.source,
            revision=self.source.commit or self.settings.revision,
            license=self.settings.license,
            source_files=self.source.file_hashes,
            settings=data_settings(self.recipe),
            counts={split: self.counts[split] for split in ("train", "validation", "test")},
            notes=self._notes(),
            changed=self.clean.changed,
            overlaps=self.clean.overlaps(),
            leaked=self.clean.leaked(),
            neutralized={name: self.neutralized[name] for name in ("rows", "strings")},
            tokens=tokens,
            files=self.hashes,
            versions={name: version(name) for name in packages},
        ).sealed()

    def _notes(self) -> list[str]:
        """Return the notes on the source and on its rows, the latter with the number of rows."""
        notes, written = self.clean.notes, sum(c.written for c in self.counts.values())
        notes_if_most = {
            "dialogues of one line": "dialogues that have no line break, and so one turn; check "
            "how turns end",
            "summaries in the prompt": "dialogues that contain their own summary; check that "
            "dialogue_column does not hold both",
            "shorter dialogues": "dialogues that are shorter than their summary; check that "
            "dialogue_column and summary_column are not swapped",
        }
        for name, note in notes_if_most.items():
            if 2 * (count := notes.pop(name, 0)) > written:
                notes[note] = count
        return [*self.source.notes, *(f"{note}: {count}" for note, count in notes.items() if count)]


def prepare(recipe: Recipe, overwrite: bool = False) -> Manifest:
    """Write the prepared splits and return the manifest.

    `overwrite`: also replace rows that another recipe prepared, or that were edited.
    Raises UserError for any unusable input; existing files are then left unchanged.
    """
    source, folder = Path(recipe.summarization.source).resolve(), recipe.data_dir.resolve()
    if source.exists() and (
        folder == source or folder in source.parents or source in folder.parents
    ):
        raise UserError(
            f"{recipe.path}: `datasets[0].path` is in {recipe.data_dir}, which overlaps with the "
            f"source {recipe.summarization.source}; set it to another folder"
        )
    if not overwrite:
        _refuse_to_overwrite_other_rows(recipe)
    block = recipe.summarization
    names = [block.dialogue_column, *block.summary_columns, *block.prompt_columns]
    names = [part for name in [*names, block.turns.speaker_column] for part in name.split(".")[:1]]
    cut = [split for split in ("validation", "test") if getattr(block, f"{split}_rows") is not None]
    with Source(block.source, block.revision, block.config, names, cut) as opened:
        return _Preparation(recipe, opened).run()


def _refuse_to_overwrite_other_rows(recipe: Recipe) -> None:
    """Raise UserError if the folder has rows of another recipe, edited rows, or a user's files."""
    folder, manifest, held = recipe.data_dir, recipe.data_dir / "manifest.json", ""
    if manifest.is_file():
        try:
            saved = json.loads(manifest.read_text("utf-8"))
            held = f"rows that recipe {saved['recipe']} prepared"
            config = recipe.config  # its tokenizer decides which strings are control
            tokenizer = str(config.get("tokenizer_config") or config["base_model"])
            same = saved["tokens"]["tokenizer"] == tokenizer  # as in a training run's copy
            if saved["recipe"] == recipe.name or (
                same and not _changed_settings(recipe, saved["settings"])
            ):
                files = {n: known for n, known in saved["files"].items() if (folder / n).is_file()}
                edited = [n for n, known in files.items() if sha256_of(folder / n) != known]
                held = f"{edited[0]}, which was edited since data_prep wrote it" if edited else ""
        except (ValueError, LookupError, TypeError, AttributeError):
            held = "files that data_prep did not write, or a damaged manifest.json"
    elif any((folder / f"{split}.jsonl").exists() for split in READING_ORDER):
        held = "files that data_prep did not write"
    if held:
        raise UserError(
            f"{recipe.path}: {folder} holds {held}; point `datasets` and `test_datasets` to "
            f"data/{recipe.name}, or overwrite them: `python -m data_prep {recipe.path} "
            "--overwrite`"
        )


def _lengths(counts: Counter[int]) -> Lengths:
    lengths = sorted(counts.elements())
    return Lengths(
        rows=len(lengths),
        tokens=sum(lengths),
        mean=round(sum(lengths) / len(lengths), 1),
        median=lengths[math.ceil(0.5 * len(lengths)) - 1],
        p99=lengths[math.ceil(0.99 * len(lengths)) - 1],
        longest=lengths[-1],
    )


def data_settings(recipe: Recipe) -> dict[str, Any]:
    """Return the part of the recipe that shapes the prepared rows, as stored in the manifest."""
    excluded = {"language", "decoding", "metrics", "rouge", "bertscore", "training_rouge"}
    excluded |= {"publish", "eval_on_start"}
    return recipe.summarization.model_dump(exclude=excluded)


def _changed_settings(recipe: Recipe, saved: dict[str, Any]) -> list[str]:
    """Return the keys whose value differs from the saved one; old manifests may lack `turns`."""
    current, fields = json.loads(json.dumps(data_settings(recipe))), Summarization.model_fields
    previous = {"turns": fields["turns"].default.model_dump(), **saved}
    return [key for key, value in current.items() if previous.get(key) != value]


def check_prepared(recipe: Recipe) -> Manifest:
    """Return the manifest if the prepared files are complete and made by this recipe.

    Raises UserError that says what differs and how to fix it.
    """
    fix, path = f"run `python -m data_prep {recipe.path}`", recipe.data_dir / "manifest.json"
    overwrite = f"{fix[:-1]} --overwrite`"
    with reading(path, overwrite if path.exists() else fix):
        manifest = Manifest.model_validate_json(path.read_bytes())
    manifest.check(path, overwrite)
    for key in _changed_settings(recipe, manifest.settings):
        raise UserError(
            f"{recipe.path}: summarization.{key} changed since the data was prepared; {fix}"
        )
    for name, saved_hash in manifest.files.items():
        file = recipe.data_dir / name
        if not file.is_file() or sha256_of(file) != saved_hash:
            raise UserError(f"{file}: missing or changed since it was prepared; {overwrite}")
    return manifest
