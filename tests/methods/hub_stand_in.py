"""A program on this machine that answers what the Hugging Face hub answers to an upload."""

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
    """What was asked of it."""

    address: str = ""
    created: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    """Of all commits, by ``kind/user/name/path``."""
    tokens: set[str] = field(default_factory=set)
    refuse: bool = False


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    hub = Hub()

    class Answers(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(size) if size else self._chunks()
            hub.tokens.add(self.headers.get("Authorization", ""))
            if hub.refuse:
                return self._answer({"error": "no right to write there"}, 403)
            if self.path == "/api/repos/create":
                asked = json.loads(content)
                hub.created.append(asked)
                return self._answer(
                    {"url": f"{hub.address}/{asked['organization']}/{asked['name']}"}
                )
            if self.path == "/api/validate-yaml":
                return self._answer({"errors": [], "warnings": []})
            if "/preupload/" in self.path:
                files = json.loads(content)["files"]
                ways = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]
                return self._answer({"files": ways})
            if "/commit/" in self.path:
                place = self.path.removeprefix("/api/").partition("/commit/")[0]
                for line in map(json.loads, content.splitlines()):
                    if line["key"] == "file":
                        value = line["value"]
                        hub.files[f"{place}/{value['path']}"] = base64.b64decode(value["content"])
                return self._answer(
                    {"commitUrl": f"{hub.address}/c/1", "commitOid": "1" * 40, "success": True}
                )
            return self._answer({"error": f"not known here: {self.path}"}, 404)

        def do_GET(self) -> None:
            self._answer({"siblings": [], "sha": "0" * 40, "id": "a/b", "tags": []})

        def _chunks(self) -> bytes:
            content = b""
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            return content

        def _answer(self, content: dict[str, Any], status: int = 200) -> None:
            made = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(made)))
            self.end_headers()
            self.wfile.write(made)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
