"""What no published or merged file may hold: secrets, and absolute paths of any machine.

Use: `check_file(Path("publish/README.md"), known={"the revision of the data"})`.
"""

import mmap
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import IO, Any
from unicodedata import normalize
from urllib.parse import unquote

import yaml
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins import keyword
from pydantic_core import from_json
from safetensors import SafetensorError, safe_open

from data_prep.errors import UserError

TEXT = {".md", ".yml", ".jinja", ".txt"}
WORDS = {"vocab", "merges", "precompiled_charsmap"}  # of tokenizer.json: pieces of words, and bytes

# ---- secrets ----

# As their services write them: Hugging Face, GitHub, W&B, AWS, Google, OpenAI and others. No random
# bytes look like one, so that weights and vocabularies are searched too: at 1 GB a second for a
# pattern that starts with a literal, and at 10 MB where they are one pattern.
TOKENS = (
    rb"hf_(?:[A-Za-z0-9]{20,}|(?:oauth|jwt)_[\w.-]{20,})",
    rb"api_org_[A-Za-z0-9]{20,}",
    rb"gh[pousr]_[A-Za-z0-9]{30,}",
    rb"github_pat_\w{20,}",
    rb"wandb_v\d_\w{20,}",
    rb"A[KS]IA[A-Z0-9]{16}",
    rb"AIza[\w-]{35}",
    rb"sk-(?:(?:proj|ant|admin|svcacct|or)-[\w-]{20,}|[A-Za-z0-9]{20,})",
    rb"-----BEGIN [A-Z ]*PRIVATE KEY",
)
# Of older W&B keys (40 hex digits), of AWS (40 letters, digits, `+` and `/`), and of most others
RANDOM = re.compile(
    r"[0-9a-fA-F]{32,}|(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/])|[A-Za-z0-9]{32,}"
)
PASSWORD = re.compile(
    r"://[^\s/?#@]{1,200}@|://[^\s/?#@:]{1,200}:[^\s@]{1,200}@"  # in an address
    r"|(?i:pass(?:word|wd|phrase|code)|pwd|(?:api|access|secret|private)[ _-]?key"
    r"|(?:access|auth|api|hub|bearer)[ _-]?token|\btoken(?=[:=])|bearer(?= ))"
    r"\b[^\w\n]{0,3}(?:(?:is|was)\b[^\w\n]{0,3})?(?=[^\s<>{}|]{0,200}\d)[^\s<>{}|]{6,}"
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
)
KEYWORDS = keyword.KeywordDetector()
GUESSES = ("EntropyString", "IPPublicDetector", "BasicAuthDetector", "KeywordDetector")
KINDS: Any = get_mapping_from_secret_type_to_class()  # of Slack, GitLab, JWT, Stripe, Azure, ...
PROSE = re.compile(r"(?i)(?<![\w-])secret: (?=[a-z]+(?: [a-z]+){2})")  # `Secret: they are made up`
DETECTORS = [kind() for kind in KINDS.values() if not kind.__name__.endswith(GUESSES)]

# ---- paths ----

# Of machines that only one network knows: `localhost`, `nas`, `nas.local`, 192.168.0.7, [::1]
LOCAL = (
    r"(?:[\w-]+|[\w.-]+\.(?:local|lan|home|internal|localdomain)|\[[\da-f:]+\]"
    r"|(?:127|10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d+)+)(?::\d+)?(?![\w.@:-])"
)
# No paths: addresses, quantities (`50 km /h`), a chat's commands (`Slack's /summarize command`),
# and a folder of gpt-oss's tools, which its chat template names
NO_PATH = re.compile(
    rf"\b(?:git|s3|gs|hf|https?(?!://{LOCAL}/+[\w.~]))://\w[^\s<>\"'`|]*"
    r"|\b\d+ ?[^\W\d_]{1,3} /[a-z]{1,3}\b(?![/.\\])|(?<=\s)/[a-z][a-z-]*(?= commands?\b)"
    r"|drive at '/mnt/data'"
)
ROOTS = "home|Users|root|mnt|media|Volumes|tmp|var|etc|srv|opt|usr|workspace|scratch|nas"
# In front of a path is no letter or digit (`and/or`), no `pre-`, no `.`, no closing bracket, and
# none that opens a tag (`</s>`, `< /s>`, `[/INST]`).
BEFORE = r"(?<![^\W_])(?<!\w-)(?<![.~)\]}%\\/<\[{])(?<!<[| ])"
OTHERS = (
    r"|(?<=[<\[{|])/[\w .@+-]+/+[\w.]"  # </home/me>
    rf"|(?<![^\W_])(?<!\W\.)(?<!\.\.)[/\\](?:{ROOTS})[/\\][\w.@+-]"
    r"|(?i:(?<![a-z])file:[/\\])"
    rf"|(?i:https?://{LOCAL}/+[\w.~][\w./~-]*)"
    r"|(?<![\w/])~[\w.-]*[/\\][\w.]"
    r"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\+|/)(?!/)[\w.$]"  # C:\models
    r"|(?<!\\)\\\\[\w.?-]+\\+[\w.$-]+"  # \\server\share
)
# /secret, //nas/share and x:/y, but not `8 /10`, and not the words that Qwen3 and SmolLM3 obey
PATH = re.compile(rf"{BEFORE}/+(?!\d+(?![\w./]))(?!(?:no_)?think\b)\.?[\w@+$-][\w.@+$/-]*{OTHERS}")
# A chat template has divisions and words with a slash: there a path is two folders deep.
IN_TEMPLATE = re.compile(rf"{BEFORE}/+(?:[\w.@+-]+/+[\w.@+-]|(?:{ROOTS})\b)[\w.@+/-]*{OTHERS}")
CODE = re.compile(r"```python\n.*?\n```", re.DOTALL)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; UserError where it is a link, whose target may be anything, or a pipe."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        what = "is a link" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {what}; put the file itself there") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path}: is no regular file; put the file itself there")
    with os.fdopen(handle, "rb") as file:
        yield file


def _own() -> str:
    """A pattern of this folder's path and the home folder's."""
    places = [re.escape(str(at)) for at in (Path.cwd(), Path.home()) if len(at.parts) > 1]
    return rf"(?<![\w.])(?:{'|'.join(places) or '$^'})(?![\w.-])"


def check_file(path: Path, known: Collection[str] = ()) -> None:
    """Raise UserError where a file holds a path of a machine, an access token or a password.

    `known`: revisions and hashes of our own records, which look like a token.
    """
    try:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            tokens = [found[0].decode() for kind in TOKENS if (found := re.search(kind, content))]
            secret = "".join(tokens[:1])
            texts = _texts(path, content)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (ValueError, yaml.YAMLError, SafetensorError) as error:
        raise UserError(f"{path.name}: damaged ({error}); make it again") from error
    fix = "where it comes from (the recipe, or a file next to the adapter)"
    for pattern, text in texts.items():
        for written in {text, _plain(text)}:
            rest = NO_PATH.sub(" ", f"\n{written}")
            if place := re.search(_own(), written) or pattern.search(rest):
                raise UserError(
                    f"{path.name}: would publish the path `{place[0]}`; make it relative {fix}"
                )
            secret = secret or _secret(written, known)
    if secret:
        raise UserError(
            f"{path.name}: would publish an access token or a password (`{secret[:4]}…`); revoke "
            f"it, and remove it {fix}"
        )


def _plain(text: str) -> str:
    """The text as a page shows it: without the spellings of HTML, addresses and Markdown."""
    text = re.sub(r"\\([_/:.~-])", r"\1", unescape(unquote(text)))
    return re.sub("[\u00ad\u200b-\u200f\u2060\ufeff]", "", normalize("NFKC", text))  # unseen ones


def _secret(text: str, known: Collection[str]) -> str:
    """The first that looks like a secret; empty where nothing does."""
    for word in RANDOM.findall(text):
        mixed = word != word.lower() and word != word.upper()
        least = 1 if re.search("[+/]", word) else 3  # digits: a name in CamelCase has fewer
        is_key = mixed and len(re.findall(r"\d", word)) >= least
        if word.lower() not in known and (is_key or re.fullmatch("[0-9a-fA-F]+", word)):
            return str(word)
    secrets = [found[0] for found in PASSWORD.finditer(text)]
    for line in text.splitlines():
        line = PROSE.sub("", line)
        secrets += KEYWORDS.analyze_string(line, keyword.CONFIG_DENYLIST_REGEX_TO_GROUP)
    secrets += [secret for kind in DETECTORS for secret in kind.analyze_string(text)]
    return "".join(map(str, secrets[:1]))


def _texts(path: Path, content: mmap.mmap) -> dict[re.Pattern[str], str]:
    """What a reader of the file would see, by the pattern that finds paths in it."""
    template = ""
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy") as file:
            plain, template = _strings([list(file.keys()), file.metadata() or {}])
    elif path.suffix == ".json":
        value = from_json(content[:])
        plain, template = _strings(value, WORDS if path.name == "tokenizer.json" else ())
    elif path.suffix == ".yml":  # without the escapes of its strings
        plain, template = _strings(yaml.safe_load(content[:].decode()))
    elif path.suffix == ".jinja":
        plain, template = "", content[:].decode()
    elif path.suffix in TEXT:
        # in the card's code a new line is `\n`, which after `Q:` looks like a folder of drive Q
        escaped = re.compile(r"(?<!\\)((?:\\\\)*)\\[nrt]")
        plain = CODE.sub(lambda code: escaped.sub(r"\1\n", code[0]), content[:].decode())
    elif path.name == "tokenizer.model":  # a word may look like a path, and its maker's is public
        plain = "\n".join(place.decode() for place in re.findall(_own().encode(), content))
    else:
        raise UserError(f"{path.name}: is not published; only safetensors, text and JSON are")
    return {PATH: plain, IN_TEMPLATE: re.sub(r"\\[nrt]", "\n", template)}


def _strings(value: Any, but: Collection[str] = (), key: str = "") -> tuple[str, str]:
    """Every key and text of a JSON value, each text with its key; apart from these, templates."""
    is_template = key.startswith("chat_template")
    parts = [("", "")]
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in but:
                parts += [(str(name), ""), _strings(inner, but, key if is_template else str(name))]
    elif isinstance(value, list):
        parts += [_strings(item, but, key) for item in value]
    elif isinstance(value, str):
        parts += [("", value) if is_template else (f"{key}: {value}", "")]
    plain, template = ("\n".join(filter(None, texts)) for texts in zip(*parts, strict=True))
    return plain, template
