"""A page in headless Chromium that tells what it logged and what it asked for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@contextmanager
def watched_page(browser: Any, url: str, width: int, look: str) -> Iterator[tuple[Any, list[str]]]:
    """The open page and the addresses that it asked for; at the end it has logged no error."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=look)
    page = context.new_page()
    trouble: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    yield page, requests
    assert trouble == []
    context.close()
