"""A chat endpoint on this machine that does what a test tells it: answer, refuse, dawdle, talk nonsense, hang up."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, bytes, dict[str, str]]
"""Status, body, headers."""


def answer(text: str | None, tokens_in: int = 10, tokens_out: int = 5, **more: Any) -> Reply:
    usage = {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}
    body = {"choices": [{"message": {"role": "assistant", "content": text}}], "usage": usage} | more
    return 200, json.dumps(body).encode(), {}


def status(code: int, text: str = "", **headers: str) -> Reply:
    return code, text.encode(), headers


def asked(request: dict[str, Any]) -> str:
    """The last message's content."""
    return str(request["messages"][-1]["content"])


@dataclass
class Server:
    """`behave` gets the number of the request, from 0, and its body."""

    behave: Callable[[int, dict[str, Any]], Reply]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    delay_s: float = 0.0
    drip_s: float = 0.0
    """Between the bytes of a body."""
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.headers.append({"path": handler.path, **dict(handler.headers)})
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self.delay_s)
            self._reply(handler, *self.behave(number, body))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self._at_once -= 1

    def _reply(self, handler: BaseHTTPRequestHandler, code: int, data: bytes, headers: dict[str, str]) -> None:
        if code == 0:  # hangs up in the middle of a promised body
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(data) + 100))
            handler.end_headers()
            handler.wfile.write(data)
            handler.close_connection = True
            return
        handler.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        for i in range(0, len(data), 1 if self.drip_s else max(len(data), 1)):
            handler.wfile.write(data[i : i + 1] if self.drip_s else data)
            handler.wfile.flush()
            time.sleep(self.drip_s)


@contextmanager
def serving(behave: Callable[[int, dict[str, Any]], Reply]) -> Iterator[Server]:
    server = Server(behave)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            server.handle(self)

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
