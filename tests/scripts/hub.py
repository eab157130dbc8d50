"""The few endpoints of the Hub that an upload needs, on localhost: `with Hub() as hub`."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Records every request and keeps what is uploaded, by path, in `files`.

    `refuse`: the status that refuses to create a repository; `private`: whether the repository is
    reported as private.
    """

    def __init__(self, refuse: int | None = None, private: bool = True):
        self.refuse, self.private, self.files = refuse, private, dict[str, bytes]()
        self.requests: list[tuple[str, str]] = []
        self.created: dict[str, Any] = {}
        self.tokens: set[str | None] = set()
        self.objects: dict[str, bytes] = {}

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hub.answer(self)

            do_PUT = do_GET = do_HEAD = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Record and answer one request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        path = request.path.split("?")[0]
        self.requests.append((request.command, path))
        self.tokens.add(request.headers.get("Authorization"))
        status, reply = self._reply(path, body)
        content = json.dumps(reply).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    def _reply(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            self.created = json.loads(body)
            if self.refuse:
                return self.refuse, {"error": "You may not."}
            return 200, {"url": f"{self.address}/user/name"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            return 200, {"files": [self._mode(file["path"]) for file in json.loads(body)["files"]]}
        if path == "/api/models/user/name" and not self.refuse:
            return 200, {"id": "user/name", "private": self.private}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self._action(one) for one in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        if path.startswith("/store/"):
            self.objects[path.removeprefix("/store/")] = body
            return 200, {}
        if "/commit/" in path:
            return 200, self._commit(body)
        return 404, {"error": f"no {path} here"}

    def _mode(self, path: str) -> dict[str, Any]:
        large = path.endswith(".safetensors")
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _action(self, one: dict[str, Any]) -> dict[str, Any]:
        return {**one, "actions": {"upload": {"href": f"{self.address}/store/{one['oid']}"}}}

    def _commit(self, body: bytes) -> dict[str, Any]:
        import base64

        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                self.files[value["path"]] = content
        url = f"{self.address}/user/name/commit/{'0' * 40}"
        return {"success": True, "commitOid": "0" * 40, "commitUrl": url}
