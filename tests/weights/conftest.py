"""A checkpoint server on 127.0.0.1, a registry that points to it and an empty home for the cache."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from amsam_cli.weights import cache, registry

BYTES = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BYTES).hexdigest()


@dataclass
class Server:
    """What the fake checkpoint host does and what it was asked."""

    url: str = ""
    content: bytes = BYTES
    ranges: bool = True
    cut_after: int | None = None
    requests: list[dict[str, str]] = field(default_factory=list)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append({"path": self.path, **dict(self.headers)})
            if "missing" in self.path:
                return self.send_error(404)
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
            if not server.ranges:
                start = 0
            if start >= len(server.content):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(server.content) - start))
            self.end_headers()
            self.wfile.write(server.content[start : server.cut_after])
            return None

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    host = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{host.server_port}"
    thread = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    host.shutdown()
    thread.join()
    host.server_close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("AMSAM_HOME", str(folder))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("AMSAM_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def published(server: Server, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, registry.Checkpoint]:
    """Two checkpoints at the fake host: "hashed" with a published hash, "unhashed" without."""
    base = replace(registry.CHECKPOINTS["sam-vit-b"], name="hashed", url=f"{server.url}/hashed.pth", sha256=SHA256)
    table = {"hashed": base, "unhashed": replace(base, name="unhashed", url=f"{server.url}/unhashed.pt", sha256=None)}
    monkeypatch.setattr(registry, "CHECKPOINTS", table)
    monkeypatch.setattr(cache, "CHECKPOINTS", table)
    return table
