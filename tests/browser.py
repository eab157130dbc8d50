"""A page in headless Chromium whose log and requests are recorded."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@contextmanager
def watched_page(browser: Any, url: str, width: int, look: str) -> Iterator[tuple[Any, list[str]]]:
    """Yield the open page and the addresses it requests; fail at the end if it logged anything."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=look)
    page = context.new_page()
    logged: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(url)
    yield page, requests
    assert logged == []
    context.close()
