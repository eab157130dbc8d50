"""Attacks on the page's server: host names, origins, routes, bodies, files; with a tiny model."""

import io
import json
import socket
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from chat.page import MAX_BYTES, MAX_CHARACTERS, MAX_EXPORT_BYTES, Pair, bind, build, serve
from chat.summarize import Prompt, Prompts
from data_prep.errors import UserError
from data_prep.recipe import load_recipe
from eval.generate import Prediction
from tests.chat.fixtures import tiny_recipe

QUESTION = {"model": "base", "dialogue": "Anna: hi\nBen: yo"}
BODY = json.dumps(QUESTION).encode()
JSON = {"Content-Type": "application/json"}
BYTES = {"Content-Type": "application/octet-stream"}
POSTS = [("/summary", JSON), ("/chats", BYTES)]
OWN = "http://127.0.0.1:{port}"


class Counting(Pair):
    """A pair that counts the summaries it was asked for."""

    asked = 0

    def summarize(self, model: str, prompt: Prompt, *watch: Any) -> tuple[Prediction, float]:
        Counting.asked += 1
        return super().summarize(model, prompt, *watch)


def last(answer: httpx.Response) -> dict[str, str]:
    """Return the last line of a streamed answer: the whole summary or an error."""
    return dict(json.loads(answer.text.splitlines()[-1]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, tiny_smollm2: Path) -> Pair:
    path = tiny_recipe(tmp_path_factory.mktemp("page"), tiny_smollm2, 200, max_new_tokens=4)
    recipe = load_recipe(path)
    return Counting(recipe, recipe.output_dir)


def start(app: Any) -> int:
    bound = bind("127.0.0.1", 0)
    serve(app, bound)
    return int(bound.getsockname()[1])


@pytest.fixture(scope="module")
def port(pair: Pair) -> int:
    return start(build(pair, [], "127.0.0.1"))


@pytest.fixture
def client(port: int) -> Iterator[httpx.Client]:
    """A client of a real server."""
    with httpx.Client(base_url=OWN.format(port=port), trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture
def nothing_asked() -> Iterator[None]:
    before = Counting.asked
    yield
    assert Counting.asked == before


@pytest.mark.parametrize("headers", [
    {}, {"Origin": OWN}, {"Sec-Fetch-Site": "same-origin"}, {"Host": "localhost:{port}"},
    {"Host": "localhost:{port}", "Origin": "http://localhost:{port}"},
], ids=str)  # fmt: skip
def test_requests_of_the_page_itself_are_answered(
    client: httpx.Client, port: int, headers: dict[str, str]
) -> None:
    sent = JSON | {name: value.format(port=port) for name, value in headers.items()}
    before = Counting.asked
    answer = client.post("/summary", content=BODY, headers=sent)
    assert answer.status_code == 200 and last(answer)["facts"] and Counting.asked == before + 1
    answer = client.post("/chats", content=b"Anna: hi\nBen: yo", headers=sent | BYTES)
    assert [part["dialogue"] for part in answer.json()["parts"]] == ["Anna: hi\nBen: yo"]


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example",
    "evil@127.0.0.1", "www.localhost", "localhost.", "10.0.0.1", "[::ffff:127.0.0.1]", "*", "",
])  # fmt: skip
def test_host_names_of_other_sites_are_refused(client: httpx.Client, port: int, host: str) -> None:
    """DNS rebinding: the site's name now points at this machine, so the origin is the same."""
    name = host.format(port=port)
    sent = {"Host": name, "Origin": f"http://{name}", "Sec-Fetch-Site": "same-origin"}
    assert client.get("/", headers=sent).status_code == 400
    for path, kind in POSTS:
        assert client.post(path, content=BODY, headers=sent | kind).status_code == 400


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize("headers", [
    {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""},
    {"Origin": "http://127.0.0.1"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": OWN + ".evil"},
    {"Origin": "http://localhost:{port}"}, {"Origin": "file://"}, {"Origin": "http://[:{port}"},
    {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"}, {"Origin": OWN, "Sec-Fetch-Site": "cross-site"},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
    {"Content-Type": "text/plain"}, {"Content-Type": ""},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=x"},
], ids=str)  # fmt: skip
def test_requests_from_other_origins_are_refused(
    client: httpx.Client, port: int, headers: dict[str, str]
) -> None:
    sent = {name: value.format(port=port) for name, value in headers.items()}
    for path, kind in POSTS:
        assert client.post(path, content=BODY, headers=kind | sent).status_code == 403


def test_cors_allows_no_other_origin(client: httpx.Client) -> None:
    sent = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [client.options(path, headers=sent) for path, _ in POSTS]
    answers += [client.get("/", headers=sent)]
    answers += [client.post(path, headers=sent | kind) for path, kind in POSTS]
    assert [answer.status_code for answer in answers] == [405, 405, 200, 403, 403]
    assert not [name for answer in answers for name in answer.headers if "access-control" in name]


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize("path", [
    "/upload", "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/file=/etc/passwd",
    "/proxy=http://evil.example/", "/gradio_api/proxy=http://evil.example/", "/redirect",
    "/?url=http://evil.example/", "/docs", "/openapi.json", "/summary/", "//summary",
    "/chats/", "/chats/export.txt",
    "//evil.example/%2f..%2f", "/%2e%2e/%2e%2e/etc/passwd", "/static/../page.py",
    "/config", "/queue/join", "/login/huggingface", "/_vercel",
])  # fmt: skip
def test_there_are_only_three_routes(client: httpx.Client, path: str) -> None:
    """None of them stores a file, returns one, fetches a URL or redirects."""
    url = str(client.base_url) + path
    answers = [client.request(way, url, content=b"x") for way in ("GET", "POST", "PUT", "DELETE")]
    home = path.startswith("/?")
    wanted = [200 if home else 404] + [405 if home else 404] * 3
    assert [answer.status_code for answer in answers] == wanted
    assert not [answer for answer in answers if {"location", "set-cookie"} & {*answer.headers}]


def test_no_websocket_is_opened(client: httpx.Client) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    answers = [client.get(path, headers=upgrade) for path in ("/", "/summary", "/chats")]
    assert [answer.status_code for answer in answers] == [200, 405, 405]


# ---- bodies ----


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("path", "kind"), POSTS)
def test_a_body_that_is_too_large_is_neither_stored_nor_read_to_the_end(
    client: httpx.Client, chunked: bool, path: str, kind: dict[str, str]
) -> None:
    """The chunked body declares no length."""
    process, sent = psutil.Process(), 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        while sent < 200_000_000:
            yield b"[" * 1_000_000
            sent += 1_000_000

    before = process.memory_info().rss
    length = {} if chunked else {"Content-Length": "200000000"}
    answer = client.post(path, content=chunks(), headers=kind | length)
    most = f"{MAX_CHARACTERS:,} characters" if kind == JSON else f"{MAX_EXPORT_BYTES:,} bytes"
    assert answer.status_code == 413 and most in answer.text
    assert process.memory_info().rss - before < 50_000_000


def test_a_chat_that_is_too_long_gets_that_error_in_any_encoding(client: httpx.Client) -> None:
    for character in ("a", "\x01", "😅"):
        body = json.dumps(QUESTION | {"dialogue": character * MAX_CHARACTERS}, ensure_ascii=False)
        answer = client.post("/summary", content=body.encode(), headers=JSON)
        assert len(body.encode()) < MAX_BYTES and "too long" in last(answer)["error"]
    body = json.dumps(QUESTION | {"dialogue": "a" * (MAX_CHARACTERS + 1)})
    answer = client.post("/summary", content=body, headers=JSON)
    assert "more than 200,000" in last(answer)["error"]


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize("body", [
    b"", b"\xff", b"null", b"[]", b"[" * 100_000, b'{"a":' * 100_000, b"NaN", b"1" * 100_000,
    b'{"model": NaN, "dialogue": "A: hi"}', b'{"model": "base", "dialogue": "A: \\ud83d"}',
    b'{"model": "evil", "dialogue": "A: hi"}', b'{"model": "base", "dialogue": ["A: hi"]}',
], ids=lambda body: str(body[:30]))  # fmt: skip
def test_invalid_bodies_get_one_error(
    client: httpx.Client, body: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = client.post("/summary", content=body, headers=JSON)
    assert answer.status_code == 422 and answer.text.startswith("The chat cannot be read")
    assert capfd.readouterr().err == ""


def bomb() -> bytes:
    """Return a 5 kB archive that claims to contain 1 GB of text."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_chat.txt", b"[1/2/24, 20:15:01] Anna: hi\n" * 9)
        archive.getinfo("_chat.txt").file_size = 10**9
    return packed.getvalue()


@pytest.mark.usefixtures("nothing_asked")
@pytest.mark.parametrize(("data", "name", "said"), [
    (b"", "a.txt", "a.txt: is empty"), (b"", "", "the text: is empty"),
    (b"\xff", "a.txt", "a.txt: is not UTF-8"), (b"x", "/etc/passwd", "/etc/passwd: no line is"),
    (b"x", "../../a.pdf", "a.pdf: unknown file"), (b"x", "a.zip", "a.zip: cannot be unpacked"),
    (b"x", "..", "..: no line"), (b"x", "a\0.txt", "no line"), (b"x", "a" * 5000, "no line"),
    (b"[" * 100_000, "a.json", "a.json: is not JSON"), (bomb(), "b.zip", "has 1,000,000,000"),
    (b"<script>alert(1)</script>", "a.html", "a.html: "),
], ids=range(12))  # fmt: skip
def test_files_that_are_not_exports_get_one_error(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str], data: bytes, name: str, said: str,
) -> None:  # fmt: skip
    """A file's name is never used as a path, and temporary files are removed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = client.post("/chats", content=data, headers=BYTES, params={"name": name})
    assert answer.status_code == 200 and answer.json()["parts"] == []
    assert said in answer.json()["error"] and str(tmp_path) not in answer.text
    assert not list(tmp_path.iterdir()) and capfd.readouterr().err == ""


def nested(levels: int) -> str:
    return '[{"text":' * levels + '"Anna: hi"' + "}]" * levels


@pytest.mark.parametrize("path", ["/summary", "/chats"])
def test_a_bug_of_ours_is_one_line_too(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    path: str,
) -> None:  # fmt: skip
    def fails(*_: object) -> None:
        raise KeyError("\ud800")

    monkeypatch.setattr(Prompts, "__call__", fails)
    answer = client.post(path, content=BODY if path == "/summary" else b"A: hi\nB: yo",
                         headers=dict(POSTS)[path])  # fmt: skip
    assert answer.status_code == 200 and "KeyError: '\\ud800'" in last(answer)["error"]
    assert capfd.readouterr().err == ""


def test_nested_turns_and_half_a_surrogate_pair(client: httpx.Client) -> None:
    body = json.dumps(QUESTION | {"dialogue": nested(900)})
    answer = client.post("/summary", content=body, headers=JSON)
    assert answer.status_code == 200 and last(answer)["facts"] + last(answer)["error"]
    rows = json.dumps([{"id": 1, "\ud800": "A: hi"}])
    answer = client.post("/chats", content=rows, headers=BYTES, params={"name": "a.json"})
    assert answer.status_code == 200 and "\\ud800" in answer.json()["error"]


def test_an_instruction_that_needs_other_columns_is_refused(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair.recipe.summarization, "instruction", "On {topic}: {dialogue}")
    with pytest.raises(UserError, match="{topic} is a column"):
        Pair(pair.recipe, pair.recipe.output_dir)


def test_a_client_that_disconnects_leaves_no_traceback(
    client: httpx.Client, port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    head = f"POST /summary HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    for rest in ("Content-Length: 99\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        with socket.create_connection(("127.0.0.1", port)) as sender:
            sender.sendall((head + rest).encode())
    assert client.get("/").status_code == 200
    assert "Traceback" not in capfd.readouterr().err


# ---- for other machines ----


def test_with_host_0_0_0_0_only_this_machines_names_are_answered(pair: Pair) -> None:
    from starlette.testclient import TestClient

    client = TestClient(build(pair, [], "0.0.0.0"), base_url="http://0.0.0.0:7860")
    cards = [card for cards in psutil.net_if_addrs().values() for card in cards]
    own = [card.address for card in cards if card.family == socket.AF_INET]
    for host in ("127.0.0.1", "localhost", socket.gethostname(), *own):
        assert client.get("/", headers={"Host": f"{host.lower()}:7860"}).status_code == 200
    for host in ("evil.example", "203.0.113.7", "*", ""):
        assert client.get("/", headers={"Host": host}).status_code == 400


# ---- in a browser ----

EVIL = """<form method=post action="{url}summary" enctype="text/plain" target=frame>
<input name='{"model":"base","dialogue":"A: hi' value='"}'></form><iframe name=frame></iframe>
<script>
async function attack() {
  document.forms[0].submit();
  const body = '{"model":"base","dialogue":"A: hi"}', method = "POST", mode = "no-cors";
  const ways = [
    {method, mode, body}, {method, mode, body: new Blob([body])},
    {method, mode, body: new Blob([body], {type: "text/plain"})},
    {method, body, headers: {"Content-Type": "application/json"}},
  ];
  const read = await Promise.all(ways.map(way => fetch("{url}summary", way).then(
    answer => answer.text(), () => "refused")));
  const bytes = {"Content-Type": "application/octet-stream"};
  for (const headers of [{}, bytes])
    read.push(await fetch("{url}chats", {method, headers, body: new Blob([body])}).then(
      answer => answer.text(), () => "refused"));
  navigator.sendBeacon("{url}summary", new Blob([body]));
  return read;
}
</script>"""


@pytest.mark.usefixtures("nothing_asked")
def test_a_page_of_another_site_cannot_use_the_server(browser: Any, port: int) -> None:
    html = EVIL.replace("{url}", f"http://127.0.0.1:{port}/")
    other = start(Starlette(routes=[Route("/", HTMLResponse(html))]))
    for host in ("localhost", "127.0.0.1"):  # another site; another origin of the same site
        page = browser.new_page()
        page.goto(f"http://{host}:{other}/")
        # requests without a CORS preflight are sent, but their answers cannot be read
        read = page.evaluate("attack()")
        assert read in (["", "", "", *["refused"] * 3], ["refused"] * 6)
        page.wait_for_timeout(200)
        page.close()


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_asked")
def test_dns_rebinding_in_a_browser(browser: Any, port: int) -> None:
    from tests.browser import CHROMIUM

    rules = ["--no-sandbox", "--host-resolver-rules=MAP evil.example 127.0.0.1"]
    rebound = browser.browser_type.launch(executable_path=CHROMIUM, args=rules)
    page = rebound.new_page()
    answer = page.goto(f"http://evil.example:{port}/")
    assert answer.status == 400 and "Invalid host header" in page.content()
    posted = page.evaluate(
        "body => fetch('/summary', {method: 'POST', body, "
        "headers: {'Content-Type': 'application/json'}}).then(answer => answer.status)",
        BODY.decode(),
    )
    assert posted == 400
    rebound.close()
