"""A local page: paste a chat, see both summaries. `python -m chat.page RECIPE [--port 7860]`.

Served by Starlette, which Axolotl brings along, to this machine alone; nothing leaves the machine.
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
from data_prep.errors import UserError, line_of, printable, run_cli
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
FREE = "CC0-1.0"  # the only licence under which chats of the recipe's data are shown
MOST_CHARACTERS = 200_000  # beyond, nothing is tokenised
MOST_BYTES = 6 * MOST_CHARACTERS + 100  # JSON writes a character in six bytes at most: \u0001
TOO_LONG = f"The chat has more than {MOST_CHARACTERS:,} characters; paste a part of it."
MOST_OF_EXPORT = 10_000_000  # bytes: some 100,000 messages, which are read in seconds
TOO_LARGE = (
    f"The export has more than {MOST_OF_EXPORT:,} bytes; give a part of it, or take "
    "`python -m chat.summarize`."
)
# The browser asks no other host for anything, and no other page may show this one in a frame.
POLICY = "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'"
# Neither is a type that another site's page may send without asking first.
JSON, BYTES = "application/json", "application/octet-stream"
TICK = 0.1  # seconds between two looks at how far a summary is
LOCAL = ("127.0.0.1", "localhost")


class Pair:
    """Both models of a recipe on one copy of the weights: the adapter is switched on and off."""

    def __init__(self, recipe: Recipe, adapter: Path):
        """Load the base model and the adapter; raises UserError where either cannot be used."""
        self.recipe, self.limit = recipe, sequence_len(recipe.config) - 1
        decoding = recipe.summarization.decoding.model_copy(update={"engine": "hf"})
        self.decoding = resolve(decoding)
        self._summarizer = Summarizer(recipe, self.decoding)
        self._prompt = Prompts(recipe, self._summarizer)
        self._prompt("")  # the recipe may name columns that no chat has
        engine: Any = self._summarizer.engine
        self._engine, self._peft = engine, engine.attach_beside(adapter)
        self._lock = Lock()  # the adapter is on or off for the whole process

    def encode(self, dialogue: str) -> Prompt:
        """The prompt of a dialogue, cleaned and made harmless as data preparation does it.

        Raises UserError, to be shown, for an empty dialogue and for one that is too long: at most
        `sequence_len` - 1 tokens, since no row with a longer prompt could be trained on.
        """
        if len(dialogue) > MOST_CHARACTERS:
            raise UserError(TOO_LONG)
        block = self.recipe.summarization
        plain = {"dialogue_column": "dialogue", "summary_column": "summary", "turns": Turns(),
                 "instruction": "{dialogue}"}  # fmt: skip
        row = SourceRow("the chat", {"dialogue": dialogue, "summary": "-"})
        cleaned = Cleaner(block.model_copy(update=plain))("test", "chat", row).dialogue
        if not cleaned.strip():
            raise UserError("There is no chat yet; paste one, a turn a line.")
        prompt = self._prompt(cleaned)
        if prompt.tokens > self.limit:
            raise UserError(
                f"The chat is too long: its prompt has {prompt.tokens:,} tokens, and the recipe's "
                f"sequence_len of {self.limit + 1:,} allows {self.limit:,}; shorten it."
            )
        return prompt

    def cut(self, messages: Messages) -> list[Messages]:
        """The conversations of an export, in parts that `encode` takes."""
        parts, tokens = cut_at_gaps(messages, GAP_HOURS), self._prompt.tokens
        if self.limit - tokens("") < LEAST:
            return parts
        return [piece for part in parts for piece in cut_to_fit(part, tokens, self.limit)]

    def summarize(
        self, model: str, prompt: Prompt, watch: Callable[[str], None] = lambda text: None
    ) -> tuple[Prediction, float]:
        """The summary by `base` or `tuned`, and the seconds that it took.

        `watch` gets what there is of the summary after each token; what it raises ends the work.
        Raises UserError where memory runs out on it.
        """

        def tell(tokens: list[int]) -> None:
            text = self._summarizer.read_output(prompt.example, tokens).prediction
            watch(text.rstrip("\ufffd"))  # the first token of a character that takes several

        with self._lock, self._peft.disable_adapter() if model == "base" else nullcontext():
            watch("")  # others may have been waited for
            self._engine.watch, start = tell, perf_counter()
            (prediction,) = self._summarizer.summaries([prompt.example])
            return prediction, perf_counter() - start


class Question(BaseModel):
    """What the page sends."""

    model: Literal["base", "tuned"]
    dialogue: str


class Answer(BaseModel):
    """What the page shows: an error, or a summary with its facts and a note on the prompt.

    `reference`: of the recipe's test rows, where the chat is one of them.
    """

    error: str = ""
    note: str = ""
    summary: str = ""
    facts: str = ""
    reference: str = ""


class Part(BaseModel):
    """A conversation of an export, as the page's field takes it."""

    title: str
    dialogue: str


class Export(BaseModel):
    """What the page makes of an export: an error, or its conversations with notes on the file."""

    error: str = ""
    note: str = ""
    parts: list[Part] = []


class Gone(Exception):
    """Whoever asked for a summary no longer waits for it."""


class References:
    """The recipe's test rows by their dialogues, to score a summary as eval.run does."""

    def __init__(self, recipe: Recipe, rows: list[Example]):
        """`rows`: the whole test split, whose letters choose how ROUGE reads words."""
        self._texts = {row.dialogue: row.references or [row.summary] for row in rows}
        block, texts = recipe.summarization, list(self._texts.values())
        self._scoring = resolve_rouge(block.rouge, block.language, texts) if texts else Scoring()

    def of(self, dialogue: str) -> str:
        """The references of a dialogue, a line each; empty where it is no test row."""
        return "\n".join(self._texts.get(dialogue, []))

    def scores(self, dialogue: str, summary: str) -> str:
        """ROUGE F1 of a summary of a test row, as a sentence for the page."""
        if dialogue not in self._texts:
            return ""
        found = mean_f1(score([summary], [self._texts[dialogue]], scoring=self._scoring))
        return ", ".join(f"{HEADERS[name]} {found[name]:.2f}" for name in METRICS[:3])


def answer(
    pair: Pair, references: References, question: Question, watch: Callable[[str], None]
) -> Answer:
    """The summary that the page asks for, or why there is none."""
    try:
        prompt = pair.encode(question.dialogue)
        prediction, seconds = pair.summarize(question.model, prompt, watch)
        dialogue, summary = prompt.example.dialogue, prediction.prediction
        scores = references.scores(dialogue, summary)
    except Gone:
        return Answer()
    except Exception as error:  # a chat and a model may hold anything; the page goes on
        return Answer(error=line_of(error))
    note = f"The prompt has {prompt.tokens:,} tokens, of {pair.limit:,} at most."
    if prompt.neutralized:
        note += f" Control strings in the chat, broken by a blank: {prompt.neutralized:,}."
    end = "stopped by itself" if prediction.stopped else "cut at the limit"
    facts = f"{prediction.tokens:,} new tokens, {seconds:.2f} s, {end}"
    facts += f". {scores}" if scores else ""
    return Answer(note=note, summary=summary, facts=facts, reference=references.of(dialogue))


async def stream(make: Callable[[Callable[[str], None]], Answer]) -> AsyncIterator[str]:
    """Answers as lines of JSON: the summary as far as it is, every `TICK`, and at last the whole.

    `make` gets the function to tell how far it is, which raises `Gone` once no one reads this.
    """
    gone, text, shown = Event(), "", ""

    def watch(now: str) -> None:
        nonlocal text
        if gone.is_set():
            raise Gone
        text = now

    work = asyncio.create_task(run_in_threadpool(make, watch))
    try:
        while not work.done():
            await asyncio.wait([work], timeout=TICK)
            if text != shown and not work.done():
                shown = text
                yield Answer(summary=shown).model_dump_json() + "\n"
        yield (await work).model_dump_json() + "\n"
    finally:  # also where Starlette cancels this, since the browser has closed the connection
        gone.set()


def conversations(pair: Pair, data: bytes, name: str) -> Export:
    """The conversations of a chat export: what a file of that name holds, or text without one."""
    notes, parts = [], []
    try:
        for item in read_upload(data, name):
            if not isinstance(item, Chat):
                notes.append(printable(str(item)))
                continue
            for messages in pair.cut(item.messages):
                time = min((message.time for message in messages if message.time), default=None)
                words = [f"{time:%Y-%m-%d %H:%M}"] if time else []
                words += [", ".join(speakers_of(messages))[:80], f"{len(messages):,} messages"]
                parts.append(Part(title=" · ".join(words), dialogue=dialogue_of(messages)))
    except Exception as error:  # as in `answer`
        return Export(error=line_of(error))
    note = " ".join(notes)
    return Export(note=note, parts=parts) if parts else Export(error=note)


def build(pair: Pair, rows: list[Example], host: str) -> ASGIApp:
    """The page as an ASGI application of three routes, which answers to this machine's names alone.

    `rows`: of the recipe's test split, the first of which are offered as examples. `host`: the name
    or address that it is served at.
    """
    recipe, decoding, references = pair.recipe, pair.decoding, References(pair.recipe, rows)
    facts = (
        f"{recipe.path}: {recipe.config['base_model']}, and the same with the adapter of "
        f"{recipe.output_dir}. At most {decoding.max_new_tokens} new tokens, {decoding.dtype}."
    )
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8"))
    named = [(", ".join(speakers(row.dialogue)), row.dialogue) for row in rows[:EXAMPLES]]
    html = template.render(
        facts=facts, examples=named, models=MODELS, most=MOST_OF_EXPORT, too_large=TOO_LARGE
    )

    async def body(request: Request, kind: str, most: int, too_much: str) -> bytearray | Response:
        header = request.headers.get
        # A browser tells whose page asks, and asks first before it sends these for another site's.
        asks = {header("origin"), header("sec-fetch-site")}
        own = {None, "same-origin", f"http://{header('host')}"}
        if not asks <= own or (header("content-type") or "").partition(";")[0].lower() != kind:
            return PlainTextResponse("Only the page itself may ask.", 403)
        data = bytearray()
        try:
            async for chunk in request.stream():  # whose length need not be announced
                data += chunk
                if len(data) > most:
                    return PlainTextResponse(too_much, 413)
        except ClientDisconnect:
            return Response(status_code=400)  # which no one reads
        return data

    async def summary(request: Request) -> Response:
        data = await body(request, JSON, MOST_BYTES, TOO_LONG)
        if isinstance(data, Response):
            return data
        try:
            question = Question.model_validate_json(data)
        except ValidationError:
            return PlainTextResponse("The chat cannot be read; is it whole, and Unicode?", 422)
        make = partial(answer, pair, references, question)
        return StreamingResponse(stream(make), media_type="application/x-ndjson")

    async def chats(request: Request) -> Response:
        data = await body(request, BYTES, MOST_OF_EXPORT, TOO_LARGE)
        if isinstance(data, Response):
            return data
        name = request.query_params.get("name", "")
        found = await run_in_threadpool(conversations, pair, bytes(data), name)
        return JSONResponse(found.model_dump())

    page = HTMLResponse(html, headers={"Content-Security-Policy": POLICY})
    routes = [
        Route("/", page, methods=["GET"]),
        Route("/summary", summary, methods=["POST"]),
        Route("/chats", chats, methods=["POST"]),
    ]
    # A page of another site whose name was pointed at this machine sends that name as Host.
    names = [host.lower(), *LOCAL]
    if host == "0.0.0.0":
        cards = chain.from_iterable(psutil.net_if_addrs().values())
        names += [socket.gethostname().lower(), *(card.address for card in cards)]
    return TrustedHostMiddleware(Router(routes, redirect_slashes=False), names, www_redirect=False)


def example_rows(recipe: Recipe) -> list[Example]:
    """The prepared test rows, where their licence allows showing them."""
    if recipe.summarization.license != FREE:
        return []
    try:
        check_prepared(recipe)
    except UserError as error:
        print(f"note: the page has no example chats: {error}", file=sys.stderr)
        return []
    return read_examples(recipe.data_dir / "test.jsonl")


def serve(app: ASGIApp, bound: socket.socket) -> None:
    """Answer requests in a thread, where uvicorn leaves Ctrl-C to the caller."""
    import uvicorn

    bound.listen()
    # h11 bounds the headers, as the page bounds the body; ws: there are no other ways in
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", http="h11", ws="none"))
    Thread(target=server.run, args=([bound],), daemon=True).start()


def bind(host: str, port: int) -> socket.socket:
    """A socket at an IPv4 address or name; raises UserError where nothing can be served there."""
    bound = socket.socket()
    try:
        # as uvicorn: a port whose last connections are just ending is free
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: {reason}; choose another --port above 1023, and leave "
            "--host at 127.0.0.1 for this machine alone"
        ) from error
    return bound


def main() -> None:
    """Check what can be checked without a model, load the models, serve until Ctrl-C."""
    parser = Options(
        "chat.page", "A local page: paste a chat, see the summaries of base and tuned model.",
        "recipes/smollm2_samsum.yml", "recipes/smollm2_samsum.yml --port 8080 --host 0.0.0.0",
    )  # fmt: skip
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE, help="its file")
    parser.add_argument("--port", type=int, default=7860, help="0: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1: this machine alone")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    bound = bind(args.host, args.port)
    adapter = find_adapter(recipe)
    rows = example_rows(recipe)
    app = build(Pair(recipe, adapter), rows, args.host)
    if args.host not in LOCAL:
        print(f"note: whoever reaches {args.host} can use the page", file=sys.stderr)
    serve(app, bound)
    print(f"http://{args.host}:{bound.getsockname()[1]} shows the page; Ctrl-C ends it", flush=True)
    try:
        Event().wait()
    except (KeyboardInterrupt, SystemExit) as end:
        print(flush=True)
        # a summary being made, which no request waits for, would delay the end
        os._exit(int(end.code or 0) if isinstance(end, SystemExit) else 0)


if __name__ == "__main__":
    run_cli(main)
