"""A `sitecustomize.py` that makes Python refuse and log connections to other hosts.

It uses Python's audit events (docs.python.org/3/library/audit_events.html), which every use of
`socket` raises; child processes inherit PYTHONPATH. It also makes bitsandbytes believe that this
CPU is one for which it downloads compiled code from the Hub.
"""

import importlib.abc
import os
import sys
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

NAMES = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}
ADDRESSES = {"socket.connect", "socket.sendto", "socket.sendmsg"}  # connect_ex raises the first
LOCAL = ("127.", "localhost", "::1", "0.0.0.0")


def refuse(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: refuse a connection to another host, and log it in the file $CONNECTIONS."""
    host = args[0] if event in NAMES else None
    if event in ADDRESSES and isinstance(args[1], tuple):  # else it is a Unix socket
        host = args[1][0]
    if host is None or (host := os.fsdecode(host)).startswith(LOCAL):
        return
    code = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()[-12:-1]]
    with open(os.environ["CONNECTIONS"], "a", encoding="utf-8") as file:
        print(event, host, sys.argv[:1], " < ".join(reversed(code)), file=file)
    raise OSError(101, f"tests refuse connections to {host}")


class WideProcessor(importlib.abc.MetaPathFinder):
    """Import the real `bitsandbytes.functional`, but make it report AVX512-BF16."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "bitsandbytes.functional":
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec and spec.loader
        execute = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            module.has_avx512bf16 = lambda: True

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "CONNECTIONS" in os.environ:
    sys.addaudithook(refuse)
    sys.meta_path.insert(0, WideProcessor())
