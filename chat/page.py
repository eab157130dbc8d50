"""A local page: paste a chat, see both summaries. `python -m chat.page RECIPE [--port 7860]`.

Served by Starlette, which Axolotl brings along, to this machine alone; nothing leaves the machine.
"""

import argparse
import os
import socket
import sys
from contextlib import nullcontext
from dataclasses import dataclass
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
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from data_prep.clean import Cleaner
from data_prep.errors import UserError, run_cli
from data_prep.formats import SourceRow
from data_prep.prepare import check_prepared
from data_prep.prompt import Example, read_examples
from data_prep.recipe import DEFAULT_RECIPE, Recipe, load_recipe, sequence_len
from data_prep.settings import Turns
from eval.adapter import find_adapter
from eval.diagnosis import speakers
from eval.generate import Prediction, Summarizer, resolve

TEMPLATE = Path(__file__).parent / "page.html"
MODELS = {"base": "Base model", "tuned": "Tuned model"}
EXAMPLES = 4
FREE = "CC0-1.0"  # the only licence under which chats of the recipe's data are shown
MOST_CHARACTERS = 200_000  # beyond, nothing is tokenised
MOST_BYTES = 6 * MOST_CHARACTERS + 100  # JSON writes a character in six bytes at most: \u0001
TOO_LONG = f"The chat has more than {MOST_CHARACTERS:,} characters; paste a part of it."
# The browser asks no other host for anything, and no other page may show this one in a frame.
POLICY = "default-src 'self' 'unsafe-inline' data:; frame-ancestors 'none'"
JSON = "application/json"
LOCAL = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Prompt:
    """A dialogue as data preparation makes it, its prompt's tokens, and broken control strings."""

    example: Example
    tokens: int
    neutralized: int


class Pair:
    """Both models of a recipe on one copy of the weights: the adapter is switched on and off."""

    def __init__(self, recipe: Recipe, adapter: Path):
        """Load the base model and the adapter; raises UserError where either cannot be used."""
        self.recipe, self.limit = recipe, sequence_len(recipe.config) - 1
        decoding = recipe.summarization.decoding.model_copy(update={"engine": "hf"})
        self.decoding = resolve(decoding)
        self._summarizer = Summarizer(recipe, self.decoding)
        self._neutralize = self._summarizer.encoder.neutralizer()
        engine: Any = self._summarizer.engine
        self._peft = engine.attach_beside(adapter)
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
        text, neutralized = self._neutralize(cleaned)
        example = Example.build("chat", text, "", block.instruction, system=block.system)
        neutralized += self._neutralize.joins(example)
        tokens = len(self._summarizer.encoder.prompt_ids(example))
        if tokens > self.limit:
            raise UserError(
                f"The chat is too long: its prompt has {tokens:,} tokens, and the recipe's "
                f"sequence_len of {self.limit + 1:,} allows {self.limit:,}; shorten it."
            )
        return Prompt(example, tokens, neutralized)

    def summarize(self, model: str, prompt: Prompt) -> tuple[Prediction, float]:
        """The summary by `base` or `tuned`, and the seconds that it took.

        Raises UserError where memory runs out on it.
        """
        with self._lock, self._peft.disable_adapter() if model == "base" else nullcontext():
            start = perf_counter()
            (prediction,) = self._summarizer.summaries([prompt.example])
            return prediction, perf_counter() - start


class Question(BaseModel):
    """What the page sends."""

    model: Literal["base", "tuned"]
    dialogue: str


class Answer(BaseModel):
    """What the page shows: an error, or a summary with its facts and a note on the prompt."""

    error: str = ""
    note: str = ""
    summary: str = ""
    facts: str = ""


def answer(pair: Pair, question: Question) -> Answer:
    """The summary that the page asks for, or why there is none."""
    try:
        prompt = pair.encode(question.dialogue)
        prediction, seconds = pair.summarize(question.model, prompt)
    except UserError as error:
        return Answer(error=str(error))
    note = f"The prompt has {prompt.tokens:,} tokens, of {pair.limit:,} at most."
    if prompt.neutralized:
        note += f" Control strings in the chat, broken by a blank: {prompt.neutralized:,}."
    end = "stopped by itself" if prediction.stopped else "cut at the limit"
    facts = f"{prediction.tokens:,} new tokens, {seconds:.2f} s, {end}"
    return Answer(note=note, summary=prediction.prediction, facts=facts)


def build(pair: Pair, examples: list[str], host: str) -> ASGIApp:
    """The page as an ASGI application of two routes, which answers to this machine's names alone.

    `host`: the name or address that it is served at.
    """
    recipe, decoding = pair.recipe, pair.decoding
    facts = (
        f"{recipe.path}: {recipe.config['base_model']}, and the same with the adapter of "
        f"{recipe.output_dir}. At most {decoding.max_new_tokens} new tokens, {decoding.dtype}."
    )
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text("utf-8"))
    named = [(", ".join(speakers(dialogue)), dialogue) for dialogue in examples]
    html = template.render(facts=facts, examples=named, models=MODELS)

    async def summary(request: Request) -> Response:
        header = request.headers.get
        # A browser tells whose page asks, and asks first before it sends JSON for another site's.
        asks = {header("origin"), header("sec-fetch-site")}
        own = {None, "same-origin", f"http://{header('host')}"}
        if not asks <= own or (header("content-type") or "").partition(";")[0].lower() != JSON:
            return PlainTextResponse("Only the page itself may ask for a summary.", 403)
        body = bytearray()
        try:
            async for chunk in request.stream():  # whose length need not be announced
                body += chunk
                if len(body) > MOST_BYTES:
                    return PlainTextResponse(TOO_LONG, 413)
            question = Question.model_validate_json(body)
        except (ClientDisconnect, ValidationError):
            return PlainTextResponse("The chat cannot be read; is it whole, and Unicode?", 422)
        made = await run_in_threadpool(answer, pair, question)
        return JSONResponse(made.model_dump())

    page = HTMLResponse(html, headers={"Content-Security-Policy": POLICY})
    routes = [Route("/", page, methods=["GET"]), Route("/summary", summary, methods=["POST"])]
    # A page of another site whose name was pointed at this machine sends that name as Host.
    names = [host.lower(), *LOCAL]
    if host == "0.0.0.0":
        cards = chain.from_iterable(psutil.net_if_addrs().values())
        names += [socket.gethostname().lower(), *(card.address for card in cards)]
    return TrustedHostMiddleware(Router(routes, redirect_slashes=False), names, www_redirect=False)


def example_chats(recipe: Recipe) -> list[str]:
    """A few dialogues of the prepared test rows, where their licence allows showing them."""
    if recipe.summarization.license != FREE:
        return []
    try:
        check_prepared(recipe)
    except UserError as error:
        print(f"note: the page has no example chats: {error}", file=sys.stderr)
        return []
    examples = read_examples(recipe.data_dir / "test.jsonl")[:EXAMPLES]
    return [example.dialogue for example in examples]


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
    parser = argparse.ArgumentParser(
        prog="python -m chat.page",
        description="A local page: paste a chat, see the summaries of base and tuned model.",
    )
    parser.add_argument("recipe", type=Path, nargs="?", default=DEFAULT_RECIPE)
    parser.add_argument("--port", type=int, default=7860, help="default: 7860; 0: any free one")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    args = parser.parse_args()
    recipe = load_recipe(args.recipe)
    bound = bind(args.host, args.port)
    adapter = find_adapter(recipe)
    examples = example_chats(recipe)
    app = build(Pair(recipe, adapter), examples, args.host)
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
