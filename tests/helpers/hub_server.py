"""A Hugging Face hub on this machine: the few addresses that making a repository and committing to it ask for."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the stand-in was asked, and what it keeps."""

    address: str = ""
    refusal: tuple[int, str] | None = None  # status and words, to whoever makes a repository
    asked: list[str] = field(default_factory=list)  # paths, in order
    tokens: set[str] = field(default_factory=set)
    made: list[dict[str, Any]] = field(default_factory=list)  # repositories, as they were asked for
    files: dict[str, bytes] = field(default_factory=dict)  # committed
    stored: dict[str, bytes] = field(default_factory=dict)  # large files, by sha256

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON to a POST."""
        self.asked.append(path)
        if path == "/api/repos/create":
            if self.refusal:
                return self.refusal[0], {"error": self.refusal[1]}
            self.made.append(json.loads(body))
            return 200, {"url": f"{self.address}/ada/birds"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            named = [file["path"] for file in json.loads(body)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in named}
            return 200, {"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._place(one) for one in json.loads(body)["objects"]]}
        if "/commit/" in path:
            return 200, self._commit([json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"the stand-in has no {path}"}

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        where = {"upload": {"href": f"{self.address}/stored/{wanted['oid']}", "header": {}}}
        return {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True, "actions": where}

    def _commit(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                self.files[value["path"]] = self.stored[value["oid"]]
        return {"commitUrl": f"{self.address}/ada/birds/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True}


@contextmanager
def hub_on_this_machine() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._send(200, {})

        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("authorization", ""))
            self._send(*hub.answer(self.path.partition("?")[0], self._body()))

        def do_PUT(self) -> None:
            hub.stored[self.path.rpartition("/")[2]] = self._body()
            self._send(200, {})

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            self._send(404, {"error": "there is no such repository"})

        def _body(self) -> bytes:
            if self.headers.get("transfer-encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("content-length", 0)))

        def _send(self, status: int, content: Any) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
