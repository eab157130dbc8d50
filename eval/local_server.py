"""A Gradio page served to this machine alone, which asks no other host for anything.

Gradio's page names Google's font servers and a script on a CDN, whatever its settings are: they are
taken out of it, and a policy tells the browser to load nothing from elsewhere.
"""

import errno
import os
import re
import socket
from threading import Event
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data_prep.errors import UserError

POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
# Gradio has no web app manifest to give where its page is not made installable: an error otherwise.
FOREIGN = re.compile(rb'<link rel="manifest"[^>]*>|<(?:link|script)\b[^>]*"https?://[^>]*>')
REASONS = {
    errno.EADDRINUSE: "the port is taken; end what uses it or choose another --port",
    errno.EACCES: "this account may not use the port; choose a --port above 1023",
    errno.EADDRNOTAVAIL: "not an address of this machine; leave --host at 127.0.0.1",
}


def check_address(host: str, port: int) -> None:
    """Raise UserError where nothing can be served at this IPv4 address or name, and port."""
    if not 1 <= port <= 65_535:
        raise UserError(f"--port: {port} is no port; use one of 1 to 65535")
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            probe.bind((host, port))
    except OSError as error:
        unknown = isinstance(error, socket.gaierror)
        reason = REASONS.get(errno.EADDRNOTAVAIL if unknown else error.errno or 0, str(error))
        raise UserError(f"--host {host} --port {port}: {reason}") from error


def serve(page: Any, host: str, port: int, **looks: Any) -> None:
    """Serve a `gradio.Blocks` until Ctrl-C; `looks` are theme and style sheets.

    Raises UserError where the address has been taken meanwhile.
    """
    around_proxies = [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), "localhost", host]
    os.environ["no_proxy"] = ",".join(filter(None, around_proxies))  # Gradio calls itself once
    settings: dict[str, Any] = {"share": False, "ssr_mode": False, "mcp_server": False}
    settings |= {"quiet": True, "prevent_thread_lock": True, "enable_monitoring": False}
    settings |= {"app_kwargs": {"middleware": [Middleware(NothingForeign)]}, "footer_links": []}
    try:
        page.launch(server_name=host, server_port=port, **settings, **looks)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {REASONS[errno.EADDRINUSE]}") from error
    print(f"http://{host}:{port} shows the page; Ctrl-C ends it", flush=True)
    try:
        Event().wait()
    except KeyboardInterrupt:
        print(flush=True)
        os._exit(0)  # else a summary in the making, which nobody waits for, would hold it up


class NothingForeign:
    """ASGI middleware: the policy on every answer, and no tag of the page that names a host."""

    def __init__(self, app: ASGIApp):
        """`app`: what answers."""
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; only the page itself is held back until it is whole."""
        head: Message = {}
        body = b""
        is_page = scope.get("path") == "/" and scope.get("method") == "GET"

        async def own(message: Message) -> None:
            nonlocal head, body
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
                head = message
                if is_page:
                    return
            elif is_page:
                body += message.get("body", b"")
                if message.get("more_body"):
                    return
                body = FOREIGN.sub(b"", body)
                MutableHeaders(scope=head)["Content-Length"] = str(len(body))
                await send(head)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self.app(scope, receive, own)
