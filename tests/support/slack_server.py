"""Slack on this machine: its Web API and incoming webhooks, as far as they are used here.

It refuses what Slack refuses: tokens, scopes, channels, blocks, too many messages. Point
``LOSSGUARD_SLACK_API_URL`` at ``SlackServer.url``.
"""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.slack_blocks import Invalid, check_blocks

TOKEN = "xoxb-1111-2222-goodgoodgood"
HOOK = "/services/T0AAAAAAA/B0BBBBBBB/goodgoodgoodgood"
GENERAL, PAGES, OLD = "C0GENERAL0", "C0PAGES000", "C0OLDOLD00"
_BURST, _BURST_S = 6, 5.0
"""Messages that a channel takes in so long [s]."""


@dataclass
class Channel:
    """Of the workspace. The app is in it if ``has_app``."""

    id: str
    name: str
    is_archived: bool = False
    has_app: bool = True


@dataclass(frozen=True)
class Fault:
    """What happens to one call instead of, or after, what it asks for."""

    status: int = 200
    error: str = ""
    retry_after: int | None = None
    accepts: bool = False
    """The call is carried out, and then nobody answers."""
    drops: bool = False
    """The connection is closed at once, and nothing carried out."""


@dataclass
class Workspace:
    """What the server knows; tests look at it and change it."""

    tokens: dict[str, set[str]] = field(
        default_factory=lambda: {TOKEN: {"chat:write", "files:write"}}
    )
    channels: list[Channel] = field(
        default_factory=lambda: [
            Channel(GENERAL, "training"),
            Channel(PAGES, "pages"),
            Channel(OLD, "old", is_archived=True),
        ]
    )
    messages: list[dict[str, Any]] = field(default_factory=list)
    """All that anybody sees, files too, oldest first; changed ones as they read now."""
    edits: int = 0
    whispers: list[dict[str, str]] = field(default_factory=list)
    """What one person alone has seen: ``channel``, ``user``, ``text``."""
    calls: list[str] = field(default_factory=list)
    faults: dict[str, deque[Fault]] = field(default_factory=dict)
    limits_rate: bool = True

    def fail(self, method: str, *faults: Fault) -> None:
        """The next calls of a method go wrong so, one after the other."""
        self.faults.setdefault(method, deque()).extend(faults)

    @property
    def roots(self) -> list[dict[str, Any]]:
        """Messages that are no replies."""
        return [message for message in self.messages if "thread_ts" not in message]

    def thread(self, root: dict[str, Any]) -> list[dict[str, Any]]:
        """The replies to a message."""
        return [message for message in self.messages if message.get("thread_ts") == root["ts"]]


class Refused(Exception):
    """The answer is ``ok: false`` with this error."""

    def __init__(self, error: str, **more: Any) -> None:
        super().__init__(error)
        self.answer = {"ok": False, "error": error, **more}


class SlackServer:
    """Serves a ``Workspace`` on a loopback port until ``close``.

    ``methods`` are the Web API's, by name: more may be added.
    """

    def __init__(self) -> None:
        self.workspace = Workspace()
        self.methods: dict[str, Callable[[dict[str, Any], str], dict[str, Any]]] = {
            "auth.test": self._auth_test,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "chat.postEphemeral": self._whisper,
            "files.getUploadURLExternal": self._upload_url,
            "files.completeUploadExternal": self._complete_upload,
        }
        self.lock = threading.RLock()
        self._stamps = itertools.count(1)
        self._uploads: dict[str, dict[str, Any]] = {}
        self._posted: dict[str, deque[float]] = {}
        self._released = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def url(self) -> str:
        """Of the Web API."""
        return f"{self.origin}/api/"

    @property
    def webhook(self) -> str:
        return f"{self.origin}{HOOK}"

    def close(self) -> None:
        self._released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # --- what comes in --------------------------------------------------------------------

    def answer(
        self, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, dict[str, str], bytes] | None:
        """Status, headers and body; None where nobody answers."""
        if path.startswith("/upload/"):
            with self.lock:
                self._uploads[path.rpartition("/")[2]]["data"] = body
            return 200, {}, f"OK - {len(body)}".encode()
        if path.startswith("/services/"):
            return self._hook(path, body)
        method = path.removeprefix("/api/")
        fault = self._fault(method)
        if fault is not None and fault.drops:
            return None
        if fault is not None and not fault.accepts:
            more = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return fault.status, more, json.dumps({"ok": False, "error": fault.error}).encode()
        token = headers.get("authorization", "").removeprefix("Bearer ")
        scopes = {"X-OAuth-Scopes": ",".join(sorted(self.workspace.tokens.get(token, ())))}
        try:
            with self.lock:
                answer = {"ok": True, **self._call(method, _arguments(body, headers), token)}
        except Refused as refused:
            answer = refused.answer
        except Invalid as invalid:
            answer = {"ok": False, "error": invalid.code, "errors": [str(invalid)]}
        if answer.get("error") == "ratelimited":
            return 429, {"Retry-After": "1"}, json.dumps(answer).encode()
        if fault is not None:
            self._released.wait()
            return None
        return 200, scopes, json.dumps(answer).encode()

    def _fault(self, method: str) -> Fault | None:
        with self.lock:
            self.workspace.calls.append(method)
            waiting = self.workspace.faults.get(method)
            return waiting.popleft() if waiting else None

    def _call(self, method: str, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        if method not in self.methods:
            raise Refused("unknown_method", req_method=method)
        if not token:
            raise Refused("not_authed")
        if token not in self.workspace.tokens:
            raise Refused("invalid_auth")
        return self.methods[method](arguments, token)

    def need(self, token: str, scope: str) -> None:
        """Raises Refused where a token has no such scope."""
        scopes = self.workspace.tokens[token]
        if scope not in scopes:
            raise Refused("missing_scope", needed=scope, provided=",".join(sorted(scopes)))

    # --- methods --------------------------------------------------------------------------

    def _auth_test(self, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        return {"user": "lossguard", "team": "Lab", "user_id": "U0BOT", "team_id": "T0AAAAAAA"}

    def _post(self, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        self.need(token, "chat:write")
        channel = self._channel(arguments.get("channel", ""), by_name=True)
        _check_message(arguments, most_text=40_000)
        thread = arguments.get("thread_ts")
        if thread is not None and self._find(channel, thread) is None:
            raise Refused("thread_not_found")
        self._limit(channel.id)
        kept = {name: arguments[name] for name in ("text", "blocks", "thread_ts", "reply_broadcast")
                if arguments.get(name) is not None}  # fmt: skip
        message = {"channel": channel.id, "ts": self._stamp(), **kept}
        self.workspace.messages.append(message)
        return {"channel": channel.id, "ts": message["ts"], "message": message}

    def _update(self, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        self.need(token, "chat:write")
        channel = self._channel(arguments.get("channel", ""), by_name=False)
        _check_message(arguments, most_text=4000)
        message = self._find(channel, arguments.get("ts", ""))
        if message is None:
            raise Refused("message_not_found")
        message.update({name: arguments[name] for name in ("text", "blocks") if name in arguments})
        message["edited"] = True
        self.workspace.edits += 1
        return {"channel": channel.id, "ts": message["ts"], "text": message["text"]}

    def _whisper(self, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        self.need(token, "chat:write")
        channel = self._channel(arguments.get("channel", ""), by_name=False)
        _check_message(arguments, most_text=40_000)
        if not arguments.get("user"):
            raise Refused("user_not_found")
        self.workspace.whispers.append(
            {"channel": channel.id, "user": arguments["user"], "text": arguments["text"]}
        )
        return {"message_ts": self._stamp()}

    def _upload_url(self, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        self.need(token, "files:write")
        if not arguments.get("filename") or int(arguments.get("length", 0)) <= 0:
            raise Refused("invalid_arguments")
        name = f"F{next(self._stamps):09d}"
        self._uploads[name] = {"name": arguments["filename"], "length": int(arguments["length"])}
        return {"upload_url": f"{self.origin}/upload/v1/{name}", "file_id": name}

    def _complete_upload(self, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        self.need(token, "files:write")
        channel = self._channel(arguments.get("channel_id", ""), by_name=False)
        files = json.loads(arguments["files"])
        for file in files:
            upload = self._uploads.get(file["id"], {})
            if len(upload.get("data", b"")) != upload.get("length"):
                raise Refused("file_not_found")
            message = {
                "channel": channel.id,
                "ts": self._stamp(),
                "text": file.get("title") or upload["name"],
                "file": {"name": upload["name"], "data": upload["data"]},
            }
            if thread := arguments.get("thread_ts"):
                if self._find(channel, thread) is None:
                    raise Refused("thread_not_found")
                message["thread_ts"] = thread
            self.workspace.messages.append(message)
        return {"files": [{"id": file["id"], "title": file.get("title")} for file in files]}

    def _hook(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        fault = self._fault("webhook")
        if fault is not None:
            more = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            return fault.status, more, fault.error.encode()
        if path != HOOK:
            return 403, {}, b"invalid_token"
        try:
            message = json.loads(body)
            _check_message(message, most_text=40_000)
        except (ValueError, Refused):
            return 400, {}, b"invalid_payload"
        except Invalid as invalid:
            return 400, {}, invalid.code.encode()
        with self.lock:
            sent = {"channel": GENERAL, "ts": self._stamp(), **message}
            self.workspace.messages.append(sent)
        return 200, {}, b"ok"

    # --- what there is --------------------------------------------------------------------

    def _channel(self, name: str, *, by_name: bool) -> Channel:
        for channel in self.workspace.channels:
            if name == channel.id or (by_name and name.lstrip("#") == channel.name):
                if channel.is_archived:
                    raise Refused("is_archived")
                if not channel.has_app:
                    raise Refused("not_in_channel")
                return channel
        raise Refused("channel_not_found")

    def _find(self, channel: Channel, ts: str) -> dict[str, Any] | None:
        found = (m for m in self.workspace.messages if (m["channel"], m["ts"]) == (channel.id, ts))
        return next(found, None)

    def _limit(self, channel: str) -> None:
        now = time.monotonic()
        posted = self._posted.setdefault(channel, deque(maxlen=_BURST))
        if self.workspace.limits_rate and len(posted) == _BURST and now - posted[0] < _BURST_S:
            raise Refused("ratelimited")
        posted.append(now)

    def _stamp(self) -> str:
        return f"1700000000.{next(self._stamps):06d}"

    def conversation(self) -> list[dict[str, Any]]:
        """All messages as plain data, files in base64."""
        with self.lock:
            plain = [dict(message) for message in self.workspace.messages]
        for message in plain:
            if "file" in message:
                data = base64.b64encode(message["file"]["data"]).decode()
                message["file"] = {**message["file"], "data": data}
        return plain


def _check_message(arguments: dict[str, Any], most_text: int) -> None:
    text, blocks = arguments.get("text") or "", arguments.get("blocks")
    if not text and not blocks:
        raise Refused("no_text")
    if len(text) > most_text:
        raise Refused("msg_too_long")
    if blocks is not None:
        check_blocks(json.loads(blocks) if isinstance(blocks, str) else blocks)


def _arguments(body: bytes, headers: dict[str, str]) -> dict[str, Any]:
    if headers.get("content-type", "").startswith("application/json"):
        found: dict[str, Any] = json.loads(body or b"{}")
        return found
    return {name: values[0] for name, values in parse_qs(body.decode()).items()}


def _handler(server: SlackServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = server.answer(urlsplit(self.path).path, self.rfile.read(length), headers)
            if answer is None:
                return
            status, more, body = answer
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **more}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """It is silent."""

    return Handler
