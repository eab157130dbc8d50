"""Check that no published or merged file contains secrets or absolute paths of any machine.

Use: `check_file(Path("publish/README.md"), known={"the revision of the data"})`.
"""

import json
import mmap
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from html import unescape
from ipaddress import ip_address
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

# ---- secrets ----

# Token formats of Hugging Face, GitHub, W&B, AWS, Google, Azure, OpenAI and others. Random bytes do
# not look like one, so weights are searched too: at 1 GB a second for a pattern that starts with a
# literal, but at 10 MB a second if all are joined into one pattern.
TOKENS = (
    r"hf_(?:[A-Za-z0-9]{20,}|(?:oauth|jwt)_[\w.-]{20,})",
    r"api_org_[A-Za-z0-9]{20,}",
    r"gh[pousr]_[A-Za-z0-9]{30,}",
    r"github_pat_\w{20,}",
    r"wandb_v\d_\w{20,}",
    r"A[KS]IA[A-Z0-9]{16}",
    r"AIza[\w-]{35}",
    r"GOCSPX-[\w-]{20,}",
    r"ya29\.[\w.-]{20,}",
    r"Q~[\w.~-]{31,34}",
    r"sk-(?:(?:proj|ant|admin|svcacct|or)-[\w-]{20,}|[A-Za-z0-9]{20,})",
    r"T3BlbkFJ[A-Za-z0-9]{20}",  # part of every OpenAI key
    r":_authToken=\s*(?:npm_|[A-Fa-f0-9-]{36})",
    r"eyJ[\w=-]{10,500}\.[\w=-]{8}",  # a JWT
    r"-----BEGIN [A-Z ]*PRIVATE KEY",
    r"PuTTY-User-Key-File-\d",
)
# Older W&B keys (40 hex digits), AWS and Azure (40 and 88 letters, digits, `+` and `/`), Comet
# (25 letters and digits), and most others
RANDOM = re.compile(
    r"[0-9a-fA-F]{32,}"
    r"|(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40}(?:[A-Za-z0-9+/]{24,})?(?![A-Za-z0-9+/])"
    r"|[A-Za-z0-9]{20,}"
)
PASSWORD = re.compile(
    r"://[^\s/?#@]{1,200}@|://[^\s/?#@:]{1,200}:[^\s@]{1,200}@"  # in a URL
    r"|(?i:password|passwd|pwd|(?:api|access|secret|private|comet|account|storage)[ _-]?key"
    r"|(?:access|auth|api|hub|bearer)[ _-]?token|\btoken(?=[:=])|bearer(?= ))"
    r"\b[^\w\n]{0,3}(?:(?:is|was|ist|lautet|est|es)\b[^\w\n]{0,3})?"
    r"(?=[^\s<>{}|]{0,200}\d)[^\s<>{}|]{6,}"
    r"|(?i:authorization\W{1,4}(?:basic|bearer|digest|token) +[^\s<>{}|]{4,})"
    r"|(?<!\S)(?:-[ua] ?|--(?:proxy-)?(?:user|auth)[ =])(?!\d+:\d+\b)[^\s:/]{1,200}:[^\s/:]{1,200}"
    r"|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
)
# `password` in other languages: detect-secrets knows only English and Spanish
PASSWORD_WORD = re.compile(
    r"(?i)\b(?:pw|pass(?:wort|phrase|code)|kennwort|mot de passe|senha|parola|wachtwoord|has[lł]o"
    r"|l[öo]senord|парол[ья])\b(?: +(?=[:=]))?|密码|パスワード|비밀번호"
)
KEYWORDS = keyword.KeywordDetector()
# The library's patterns, with bounds: without them 4,000 letters of `pwd` took 15 seconds
KEYWORD_GROUPS = {
    re.compile(
        kind.pattern.replace(r"\w*", r"\w{0,30}").replace(r"[^\v\'\"]*", r"[^\v\'\"]{0,400}"),
        kind.flags,
    ): group
    for kind, group in keyword.CONFIG_DENYLIST_REGEX_TO_GROUP.items()
}
GUESSES = ("EntropyString", "IPPublicDetector", "BasicAuthDetector", "KeywordDetector")
SLOW = ("NpmDetector", "OpenAIDetector", "JwtTokenDetector")  # quadratic; TOKENS covers these
KINDS: Any = get_mapping_from_secret_type_to_class()  # Slack, GitLab, JWT, Stripe, Azure, ...
PROSE = re.compile(r"(?i)(?<![\w-])secret: (?=[a-z]+(?: [a-z]+){2})")  # `Secret: they are made up`
DETECTORS = [kind() for kind in KINDS.values() if not kind.__name__.endswith(GUESSES + SLOW)]

# ---- paths ----

# Not paths: quantities (`50 km /h`), chat commands (`Slack's /summarize command`), text after a
# placeholder (`<recipe>/merged`), and a folder in the chat template of gpt-oss
NO_PATH = re.compile(
    r"\b\d+ ?[^\W\d_]{1,3} /[a-z]{1,3}\b(?![/.\\])|(?<=\s)/[a-z][a-z-]*(?= commands?\b)"
    r"|<(?!(?:[abip]|br|em|hr|td|th|li|code|div|span|strong)>)[a-z][\w -]*>(?=/)"
    r"|drive at '/mnt/data'"
)
# URLs, without what follows one with no space between; with other schemes the host is a path too
URL = re.compile(
    r"(?i)(?<![a-z])(git|s3|gs|hf|https?)://([\w.~%@:\[\]-]*)"
    r"((?:/(?:(?!(?<![a-z])[a-z]+://|[,;:)\]]/)[^\s?#<>\"'`|])*)?)"
    r"([?#](?:(?!(?<![a-z])[a-z]+://)[^\s<>\"'`|])*)?"
)
BUCKET_SCHEMES = {"s3", "gs", "hf"}  # a name without a dot is not a host
PRIVATE_HOST = re.compile(  # RFC 6761, 6762 and 8375, and names that routers and companies use
    r"(?:.*\.)?(?:local(?:host|domain)?|lan|home(?:\.arpa)?|internal|intranet|private|corp|fritz\.box)"
)
ROOTS = "home|Users|root|mnt|media|Volumes|tmp|var|etc|srv|opt|usr|workspace|scratch|nas"
# A path does not follow a letter or digit (`and/or`), `pre-`, a `.`, a closing bracket, or one that
# opens a tag (`</s>`, `< /s>`, `[/INST]`).
BEFORE = r"(?<![^\W_])(?<!\w-)(?<![.~)\]}%\\/<\[{])(?<!<[| ])"
DEEP = r"/+[\w.@+-]+/+[\w.@+-][\w.@+/-]*"
WINDOWS = (
    # C:\models, but not the line break in `Q:\nWhat`
    r"|(?<![A-Za-z0-9])[A-Za-z]:(?:\\+(?!(?<!\\\\)[nrt](?![a-z]{2}|[\w.-]*\\))|/)(?!/)[\w.$]"
    r"|(?<!\\)\\{2,}[\w.?-]{2,}\\+[\w.$-]+"  # \\server\share
    r"|(?<![\w\\.:)\]}])\\(?!u[\da-f]{4}|x[\da-f]{2}|[nrt]\w*\\[nrt])[A-Za-z][\w$-]+\\+[\w.$-]{2}"
)
OTHER_PATHS = (
    r"|(?<=[<\[{|])/[\w .@+-]+/+[\w.]"  # </home/me>
    rf"|(?<![^\W_])(?<!\W\.)(?<!\.\.)[/\\](?:{ROOTS})[/\\][\w.@+-]"
    r"|(?<=[)\]])/+(?:data\b|(?:[\w@+$.-]+/+){2}[\w@+$-]|[\w@+$-]+(?:/+[\w@+$-]+)?\.[a-z])[\w./-]*"
    rf"|(?<!\.\.[/\\])(?:\.\.[/\\]+){{2,}}(?:{ROOTS})[/\\]"
    r"|(?i:(?<![a-z])(?:file:[/\\]|(?:git|s3|gs|hf|https?)://\S+))"  # URLs that `_local` keeps
    rf"|(?<![\w/])~[\w.-]*[/\\]\.?\w{WINDOWS}"
)
# /secret, //nas/share, /(old)/x, x:/y, but not `8 /10` or the commands of Qwen3 and SmolLM3
PATH = re.compile(
    rf"{BEFORE}/+(?:(?!\d+(?![\w./]))(?!(?:no_)?think\b(?!/))\.?[\w@+$-][\w.@+$/-]*"
    rf"|[^\w\s/\\<>{{}}\[\]*?%\"'`|.:][^\s/<>\"'`|]*/+[\w.(!]){OTHER_PATHS}"
)
# Chat templates contain divisions and words with a slash, so a path there is two folders deep. The
# same holds for a vocabulary, in which `/home` is a word.
IN_TEMPLATE = re.compile(rf"{BEFORE}(?:{DEEP}|/+(?:{ROOTS})\b[\w.@+/-]*){OTHER_PATHS}")
IN_VOCABULARY = re.compile(rf"{BEFORE}{DEEP}{WINDOWS}")
IN_QUERY = re.compile(OTHER_PATHS[1:])
BLANKS = dict.fromkeys(map(ord, "ĠĊ▁"), "\n")  # as written in vocabularies
COMMENT = re.compile(r"\{#.*?#\}", re.DOTALL)  # in a template
CODE = re.compile(r"```python\n.*?\n```", re.DOTALL)
ESCAPED = re.compile(r"(?<!\\)((?:\\\\)*)\\[nrt]")  # a line break in code
INVISIBLE = re.compile(  # Unicode's Default_Ignorable_Code_Point
    "[\u00ad\u034f\u061c\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)
MARKS = re.compile(r"<!--.{0,200}?-->|</?[A-Za-z][^<>\n]{0,200}>|[\\*`]", re.DOTALL)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; raise UserError for a link, which may point anywhere, and for a pipe."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        what = "is a link" if path.is_symlink() else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {what}; put the file itself there") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError(f"{path}: is not a regular file; put the file itself there")
    with os.fdopen(handle, "rb") as file:
        yield file


def _own_folders() -> str:
    """Return a pattern for the paths of the working directory and the home folder."""
    folders = [re.escape(str(path)) for path in (Path.cwd(), Path.home()) if len(path.parts) > 1]
    return rf"(?<![\w.])(?:{'|'.join(folders) or '$^'})(?![\w.-])"


def check_file(path: Path, known: Collection[str] = ()) -> None:
    """Raise UserError if a file contains a machine's path, an access token or a password.

    `known`: revisions and hashes in our own records, which look like tokens.
    """
    try:
        with opened(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            matches = [re.search(regex.encode(), content) for regex in TOKENS]
            secret = next((match[0].decode() for match in matches if match), "")
            texts = _texts(path, content)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name}: is not UTF-8 ({error.reason}); save it as UTF-8") from error
    except (ValueError, yaml.YAMLError, SafetensorError) as error:
        raise UserError(f"{path.name}: damaged ({error}); make it again") from error
    fix = "at its source (the recipe, or a file next to the adapter)"
    for _, text in texts:
        secret = secret or next(filter(None, (_secret(x, known) for x in _readings(text))), "")
    if secret:  # first, since a path is printed and may contain one
        raise UserError(
            f"{path.name}: would publish an access token or a password (`{secret[:4]}…`); revoke "
            f"it, and remove it {fix}"
        )
    for pattern, text in texts:
        for reading in _readings(NO_PATH.sub("x", text)):
            rest = URL.sub(_local, f"\n{reading}")
            if match := re.search(_own_folders(), reading) or pattern.search(rest):
                raise UserError(
                    f"{path.name}: would publish the path `{match[0]}`; make it relative {fix}"
                )


def _readings(text: str) -> set[str]:
    """Return a text as written and as a page shows it, with HTML, URLs and Markdown decoded."""
    decoded = INVISIBLE.sub("", normalize("NFKC", unescape(unquote(text))))
    return {text, decoded, MARKS.sub("", decoded)}


def _local(url: re.Match[str]) -> str:
    """Return the part of a URL to search for paths; of a public one only its query."""
    scheme, host, path, query = url.groups("")
    if _is_public(scheme.lower(), host):
        return query if IN_QUERY.search(query) else " "
    return url[0] if path.strip("/.,;:!") else f" {query}"


def _is_public(scheme: str, host: str) -> bool:
    name = re.sub(r":\d*$", "", host.rpartition("@")[2]).strip("[].").partition("%")[0].lower()
    with suppress(ValueError):
        return ip_address(name).is_global
    if scheme in BUCKET_SCHEMES and "." not in name:
        return name not in ("", "localhost")
    _, dot, tld = name.rpartition(".")  # `127.1` is an address too
    is_name = tld.isalpha() or tld.startswith("xn--")
    return bool(dot) and is_name and not PRIVATE_HOST.fullmatch(name)


def _secret(text: str, known: Collection[str]) -> str:
    """Return the first text that looks like a secret; empty if there is none."""
    text = re.sub(" {3,}", "  ", text)  # detect-secrets' IBM patterns are quadratic in them
    secrets = [word for word in RANDOM.findall(text) if word.lower() not in known and _random(word)]
    secrets += [match[0] for kind in (*TOKENS, PASSWORD) for match in re.finditer(kind, text)]
    for line in PASSWORD_WORD.sub("password", text).splitlines():
        line = PROSE.sub("", line) if set(line) & set(":=;") else ""
        secrets += KEYWORDS.analyze_string(line, KEYWORD_GROUPS)
    secrets += [secret for kind in DETECTORS for secret in kind.analyze_string(text)]
    return "".join(map(str, secrets[:1]))


def _random(word: str) -> bool:
    """Whether a word looks random: letters and digits alternate more than in CamelCase."""
    digits, size = len(re.findall(r"\d", word)), len(word)
    if re.fullmatch("[0-9a-fA-F]{32,}", word):
        return True
    changes = len(re.findall(r"[a-z]+|[A-Z]+|\d+|[+/]+", word)) / size
    if word in (word.lower(), word.upper()):
        return size >= 32 and digits >= 5 and changes > 0.25
    return (digits >= 3 and size >= 32) or (digits >= (2 if size < 32 else 1) and changes > 0.4)


def _texts(path: Path, content: mmap.mmap) -> list[tuple[re.Pattern[str], str]]:
    """Return the file's readable texts, each with the pattern that finds paths in it."""
    plain = template = vocabulary = ""
    if path.suffix == ".safetensors":
        with safe_open(path, "numpy"):  # checks that the header is nothing but JSON
            size = int.from_bytes(content[:8], "little")
        # as pairs, since an object may have a key twice
        plain, template = _strings(json.loads(content[8 : 8 + size], object_pairs_hook=list))
    elif path.suffix == ".json":
        value, unread = from_json(content[:]), ""
        if path.name == "tokenizer.json" and isinstance(value, dict):
            vocabulary = "\n".join(_strings(value.pop("model", None))).translate(BLANKS)
            unread = "precompiled_charsmap"  # bytes in base64
        plain, template = _strings(value, unread=unread)
    elif path.suffix == ".yml":  # parsed, so that strings have no escapes
        plain, template = _strings(yaml.safe_load(content[:].decode()))
    elif path.suffix == ".jinja":
        template = content[:].decode()
        plain = "\n".join(COMMENT.findall(template))
    elif path.suffix in TEXT:
        plain = content[:].decode()
        # a line break in the card's code is `\n`, which after `Q:` looks like a folder on drive Q
        template = "\n".join(CODE.findall(plain))
        plain = CODE.sub(lambda code: ESCAPED.sub(r"\1\n", code[0]), plain)
    elif path.name == "tokenizer.model":  # Mistral's contains a public path of its author
        strings = re.findall(rb"[ -~]{6,}", content)
        return [(re.compile("(?!)"), "\n".join(string.decode() for string in strings))]
    else:
        raise UserError(f"{path.name}: is not published; only safetensors, text and JSON are")
    both = (template, ESCAPED.sub(r"\1\n", template))  # unchanged too: `D:\training` has no tab
    return [(PATH, plain), *((IN_TEMPLATE, text) for text in both), (IN_VOCABULARY, vocabulary)]


def _strings(value: Any, key: str = "", unread: str = "") -> tuple[str, str]:
    """Return all keys and texts of a JSON value, each text with its key, and the templates.

    `unread`: a key whose value is skipped.
    """
    is_template = key.startswith("chat_template")
    parts = [("", "")]
    if isinstance(value, dict):
        for name, inner in value.items():
            if not unread or name != unread:
                inner_key = key if is_template else str(name)
                parts += [(str(name), ""), _strings(inner, inner_key, unread)]
    elif isinstance(value, (list, tuple)):
        parts += [_strings(item, key, unread) for item in value]
    elif isinstance(value, str):
        parts += [("", value) if is_template else (f"{key}: {value}", "")]
    plain, template = ("\n".join(filter(None, texts)) for texts in zip(*parts, strict=True))
    return plain, template
