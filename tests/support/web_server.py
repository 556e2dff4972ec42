"""A web server that notes what it is asked, and answers as it is told."""

from __future__ import annotations

import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.support.waiting import eventually


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes


class WebServer:
    """``asked`` holds every request so far. ``answers`` are statuses (and headers) for the next
    ones; with none left it is 200. ``body`` goes with each."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: deque[tuple[int, dict[str, str]]] = deque()
        self.body = b""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(length)
                outer.asked.append(Asked(self.command, self.path, headers, body))
                status, extra = outer.answers.popleft() if outer.answers else (200, {})
                self.send_response(status)
                for name, value in extra.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def __enter__(self) -> WebServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def await_asked(self, count: int) -> list[Asked]:
        """As soon as there were so many requests."""
        return eventually(lambda: self.asked if len(self.asked) >= count else None)
