"""A local page: paste a chat, see both summaries. `python -m chat.page RECIPE [--port 7860]`.

Served by Starlette, an Axolotl dependency, by default to this machine only; no data leaves it.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from threading import Event, Lock, Thread
from time import perf_counter
from typing import Any, Literal

import psutil
from jinja2 import Environment
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from chat.chat import Chat, dialogue_of, speakers_of
from chat.read import read_upload
from chat.summarize import GAP_HOURS, LEAST, Messages, Prompt, Prompts, cut_at_gaps, cut_to_fit
from data_prep.clean import Cleaner
from data_prep.errors import UserError, as_one_line, printable, run_cli
from data_prep.formats import SourceRow
from data_prep.options import Options
from data_prep.prepare import check_prepared
from data_prep.prompt import Example, read_examples
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe, sequence_len
from data_prep.settings import Turns
from eval.adapter import find_adapter
from eval.diagnosis import speakers
from eval.generate import Prediction, Summarizer, resolve
from eval.language import Scoring
from eval.language import resolve as resolve_rouge
from eval.metrics import METRICS, mean_f1, score
from eval.report import HEADERS

TEMPLATE = Path(__file__).parent / "page.html"
MODELS = {"base": "Base model", "tuned": "Tuned model"}
EXAMPLES = 4
FREE = "CC0-1.0"  # chats from the recipe's data are shown only under this licence
MAX_CHARACTERS = 200_000  # longer chats are refused before they are tokenised
MAX_BYTES = 6 * MAX_CHARACTERS + 100  # JSON needs at most six bytes per character: \u0001
TOO_LONG = f"The chat has more than {MAX_CHARACTERS:,} characters; paste a part of it."
MAX_EXPORT_BYTES = 10_000_000  # bytes: about 100,000 messages, read in seconds
TOO_LARGE = (
    f"The export has more than {MAX_EXPORT_BYTES:,} bytes; open a part of it, or use "
    "`python -m chat.summarize`."
)
# The browser loads nothing from other hosts, and no other page may show this one in a frame.
POLICY = "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'"
# Pages of other sites cannot send either type without a CORS preflight request.
JSON, BYTES = "application/json", "application/octet-stream"
TICK = 0.1  # seconds between updates of an unfinished summary
LOCAL = ("127.0.0.1", "localhost")


class Pair:
    """A recipe's base and tuned model on one copy of the weights: the adapter is switched."""

    def __init__(self, recipe: Recipe, adapter: Path):
        """Load the base model and the adapter; raises UserError if either cannot be used."""
        self.recipe, self.limit = recipe, sequence_len(recipe.config) - 1
        decoding = recipe.summarization.decoding.model_copy(update={"engine": "hf"})
        self.decoding = resolve(decoding)
        self._summarizer = Summarizer(recipe, self.decoding)
        self._prompt = Prompts(recipe, self._summarizer)
        self._prompt("")  # raises if the instruction names columns that no chat has
        engine: Any = self._summarizer.engine
        self._engine, self._peft = engine, engine.attach_beside(adapter)
        self._lock = Lock()  # switching the adapter affects the whole process

    def encode(self, dialogue: str) -> Prompt:
        """Return a dialogue's prompt, cleaned and neutralised as in data preparation.

        Raises UserError, for the page to show, if the dialogue is empty or its prompt has more than
        `sequence_len` - 1 tokens: no row with a longer prompt could be trained on.
        """
        if len(dialogue) > MAX_CHARACTERS:
            raise UserError(TOO_LONG)
        block = self.recipe.summarization
        plain = {"dialogue_column": "dialogue", "summary_column": "summary", "turns": Turns(),
                 "instruction": "{dialogue}"}  # fmt: skip
        row = SourceRow("the chat", {"dialogue": dialogue, "summary": "-"})
        cleaned = Cleaner(block.model_copy(update=plain))("test", "chat", row).dialogue
        if not cleaned.strip():
            raise UserError("There is no chat yet; paste one, with one turn per line.")
        prompt = self._prompt(cleaned)
        if prompt.tokens > self.limit:
            raise UserError(
                f"The chat is too long: its prompt has {prompt.tokens:,} tokens, and the recipe's "
                f"sequence_len of {self.limit + 1:,} allows {self.limit:,}; shorten it."
            )
        return prompt

    def cut(self, messages: Messages) -> list[Messages]:
        """Split an export into conversations, in parts short enough for `encode`."""
        parts, tokens_of = cut_at_gaps(messages, GAP_HOURS), self._prompt.tokens
        if self.limit - tokens_of("") < LEAST:
            return parts
        return [piece for part in parts for piece in cut_to_fit(part, tokens_of, self.limit)]

    def summarize(
        self, model: str, prompt: Prompt, watch: Callable[[str], None] = lambda text: None
    ) -> tuple[Prediction, float]:
        """Return the summary by `base` or `tuned`, and the seconds it took.

        `watch` is called with the unfinished summary after each token; if it raises, generation
        stops. Raises UserError if memory runs out.
        """

        def watch_tokens(tokens: list[int]) -> None:
            text = self._summarizer.read_output(prompt.example, tokens).prediction
            watch(text.rstrip("\ufffd"))  # a character of which not all tokens are there yet

        with self._lock, self._peft.disable_adapter() if model == "base" else nullcontext():
            watch("")  # the client may have left while this waited for the lock
            self._engine.watch, start = watch_tokens, perf_counter()
            (prediction,) = self._summarizer.summaries([prompt.example])
            return prediction, perf_counter() - start


class Question(BaseModel):
    """A request of the page."""

    model: Literal["base", "tuned"]
    dialogue: str


class Answer(BaseModel):
    """The answer to the page: an error, or a summary with its facts and a note on the prompt.

    `reference` is set if the chat is one of the recipe's test rows.
    """

    error: str = ""
    note: str = ""
    summary: str = ""
    facts: str = ""
    reference: str = ""


class Part(BaseModel):
    """A conversation of an export, as it goes into the page's text field."""

    title: str
    dialogue: str


class Export(BaseModel):
    """An export that was read: an error, or its conversations with notes on the file."""

    error: str = ""
    note: str = ""
    parts: list[Part] = []


class Gone(Exception):
    """The client that asked for a summary has disconnected."""


class References:
    """The references of the recipe's test rows, to score a summary as eval.run does."""

    def __init__(self, recipe: Recipe, rows: list[Example]):
        """`rows`: the whole test split; its script decides how ROUGE tokenises."""
        self._texts = {row.dialogue: row.references or [row.summary] for row in rows}
        block, texts = recipe.summarization, list(self._texts.values())
        self._scoring = resolve_rouge(block.rouge, block.language, texts) if texts else Scoring()

    def of(self, dialogue: str) -> str:
        """Return a dialogue's references, one per line; empty if it is not a test row."""
        return "\n".join(self._texts.get(dialogue, []))

    def scores(self, dialogue: str, summary: str) -> str:
        """Return ROUGE F1 of a test row's summary as text for the page; else an empty string."""
        if dialogue not in self._texts:
            return ""
        means = mean_f1(score([summary], [self._texts[dialogue]], scoring=self._scoring))
        return ", ".join(f"{HEADERS[name]} {means[name]:.2f}" for name in METRICS[:3])


def answer(
    pair: Pair, references: References, question: Question, watch: Callable[[str], None]
) -> Answer:
    """Return the summary that the page asks for, or an error."""
    try:
        prompt = pair.encode(question.dialogue)
        prediction, seconds = pair.summarize(question.model, prompt, watch)
        dialogue, summary = prompt.example.dialogue, prediction.prediction
        scores = references.scores(dialogue, summary)
    except Gone:
        return Answer()
    except Exception as error:  # a chat or a model may fail in any way; the page must keep running
        return Answer(error=as_one_line(error))
    note = f"The prompt has {prompt.tokens:,} of at most {pair.limit:,} tokens."
    if prompt.neutralized:
        note += f" Control strings in the chat, broken up with a space: {prompt.neutralized:,}."
    end = "complete" if prediction.stopped else "cut off at the limit"
    facts = f"{prediction.tokens:,} new tokens, {seconds:.2f} s, {end}"
    facts += f". {scores}" if scores else ""
    return Answer(note=note, summary=summary, facts=facts, reference=references.of(dialogue))


async def stream(make: Callable[[Callable[[str], None]], Answer]) -> AsyncIterator[str]:
    """Yield answers as JSON lines: the unfinished summary every `TICK`, then the final answer.

    `make` is given a function to report the text so far, which raises `Gone` once the client left.
    """
    gone, text, shown = Event(), "", ""

    def watch(new_text: str) -> None:
        nonlocal text
        if gone.is_set():
            raise Gone
        text = new_text

    task = asyncio.create_task(run_in_threadpool(make, watch))
    try:
        while not task.done():
            await asyncio.wait([task], timeout=TICK)
            if text != shown and not task.done():
                shown = text
                yield Answer(summary=shown).model_dump_json() + "\n"
        yield (await task).model_dump_json() + "\n"
    finally:  # also when Starlette cancels this because the browser closed the connection
        gone.set()


def conversations(pair: Pair, data: bytes, name: str) -> Export:
    """Return the conversations of an uploaded file, or of pasted text if `name` is empty."""
    notes, parts = [], []
    try:
        for item in read_upload(data, name):
            if not isinstance(item, Chat):
                notes.append(printable(str(item)))
                continue
            for messages in pair.cut(item.messages):
                start = min((message.time for message in messages if message.time), default=None)
                title = [f"{start:%Y-%m-%d %H:%M}"] if start else []
                title += [", ".join(speakers_of(messages))[:80], f"{len(messages):,} messages"]
                parts.append(Part(title=" · ".join(title), dialogue=dialogue_of(messages)))
    except Exception as error:  # as in `answer`
        return Export(error=as_one_line(error))
    note = " ".join(notes)
    return Export(note=note, parts=parts) if parts else Export(error=note)


def build(pair: Pair, rows: list[Example], host: str) -> ASGIApp:
    """Return the page as an ASGI app with three routes; it only answers to this machine's names.

    `rows`: the recipe's test split; the first ones are offered as examples. `host`: the name or
    address to serve it at.
    """
    recipe, decoding, references = pair.recipe, pair.decoding, References(pair.recipe, rows)
    facts = (
        f"{recipe.path}: {recipe.config['base_model']}, without and with the adapter in "
        f"{recipe.output_dir}. At most {decoding.max_new_tokens} new tokens, {decoding.dtype}."
    )
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8"))
    examples = [(", ".join(speakers(row.dialogue)), row.dialogue) for row in rows[:EXAMPLES]]
    html = template.render(
        facts=facts, examples=examples, models=MODELS, most=MAX_EXPORT_BYTES, too_large=TOO_LARGE
    )

    async def body(request: Request, kind: str, limit: int, error: str) -> bytearray | Response:
        header = request.headers.get
        # Browsers say which site sends a request, and ask first before sending these cross-site.
        sites = {header("origin"), header("sec-fetch-site")}
        allowed = {None, "same-origin", f"http://{header('host')}"}
        if not sites <= allowed or (header("content-type") or "").partition(";")[0].lower() != kind:
            return PlainTextResponse("Only the page itself may send requests.", 403)
        data = bytearray()
        try:
            async for chunk in request.stream():  # the request need not declare its length
                data += chunk
                if len(data) > limit:
                    return PlainTextResponse(error, 413)
        except ClientDisconnect:
            return Response(status_code=400)  # the client is gone
        return data

    async def summary(request: Request) -> Response:
        data = await body(request, JSON, MAX_BYTES, TOO_LONG)
        if isinstance(data, Response):
            return data
        try:
            question = Question.model_validate_json(data)
        except ValidationError:
            return PlainTextResponse("The chat cannot be read; send valid Unicode text.", 422)
        make = partial(answer, pair, references, question)
        return StreamingResponse(stream(make), media_type="application/x-ndjson")

    async def chats(request: Request) -> Response:
        data = await body(request, BYTES, MAX_EXPORT_BYTES, TOO_LARGE)
        if isinstance(data, Response):
            return data
        name = request.query_params.get("name", "")
        export = await run_in_threadpool(conversations, pair, bytes(data), name)
        return JSONResponse(export.model_dump())

    page = HTMLResponse(html, headers={"Content-Security-Policy": POLICY})
    routes = [
        Route("/", page, methods=["GET"]),
        Route("/summary", summary, methods=["POST"]),
        Route("/chats", chats, methods=["POST"]),
    ]
    # A site whose own name was pointed at this machine (DNS rebinding) sends that name as Host.
    names = [host.lower(), *LOCAL]
    if host == "0.0.0.0":
        cards = chain.from_iterable(psutil.net_if_addrs().values())
        names += [socket.gethostname().lower(), *(card.address for card in cards)]
    return TrustedHostMiddleware(Router(routes, redirect_slashes=False), names, www_redirect=False)


def example_rows(recipe: Recipe) -> list[Example]:
    """Return the prepared test rows; none if their licence does not allow showing them."""
    if recipe.summarization.license != FREE:
        return []
    try:
        check_prepared(recipe)
    except UserError as error:
        print(f"note: the page has no example chats: {error}", file=sys.stderr)
        return []
    return read_examples(recipe.data_dir / "test.jsonl")


def serve(app: ASGIApp, bound: socket.socket) -> None:
    """Answer requests in a thread, so that uvicorn leaves Ctrl-C to the caller."""
    import uvicorn

    bound.listen()
    # h11 limits the size of headers, the page that of bodies; no websockets
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http="h11", ws="none"))
    Thread(target=server.run, args=([bound],), daemon=True).start()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at an IPv4 address or name; raise UserError if it cannot be bound."""
    bound = socket.socket()
    try:
        # like uvicorn: allow a port whose old connections are still closing
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: {reason}; choose another --port above 1023, and leave "
            "--host at 127.0.0.1 to serve only this machine"
        ) from error
    return bound


def main() -> None:
    """Check everything that needs no model, load the models, serve until Ctrl-C."""
    parser = Options(
        "chat.page", "A local page: paste a chat, see the base and the tuned model's summary.",
        "recipes/smollm2_samsum.yml", "recipes/smollm2_samsum.yml --port 8080 --host 0.0.0.0",
    )  # fmt: skip
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE, help="recipe file")
    parser.add_argument("--port", type=int, default=7860, help="0: any free port")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1: this machine only")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    bound = bind(args.host, args.port)
    adapter = find_adapter(recipe)
    rows = example_rows(recipe)
    app = build(Pair(recipe, adapter), rows, args.host)
    if args.host not in LOCAL:
        print(f"note: anyone who can reach {args.host} can use the page", file=sys.stderr)
    serve(app, bound)
    print(f"http://{args.host}:{bound.getsockname()[1]} is ready; press Ctrl-C to stop", flush=True)
    try:
        Event().wait()
    except (KeyboardInterrupt, SystemExit) as end:
        print(flush=True)
        # a summary that is still being generated would delay the exit
        os._exit(int(end.code or 0) if isinstance(end, SystemExit) else 0)


if __name__ == "__main__":
    run_cli(main)
