"""Slack's Socket Mode on this machine: ``apps.connections.open`` and the web socket behind it.

It refuses what Slack refuses: another kind of token, one without ``connections:write``, an address
that was used before; frames of a client that are not masked. It looks how fast envelopes are
acknowledged, and people can press only buttons that messages have. Alone, it keeps what people see
in a file::

    python -m tests.support.slack_socket conversation.json
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.support.slack_server import TOKEN, Refused, SlackServer
from tests.support.waiting import eventually

APP_TOKEN = "xapp-1-A0AAAAAAA-1111-goodgoodgood"
OPERATOR, OTHER = "U0OPERATOR", "U0STRANGER"
ACK_WITHIN_S = 3.0
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


@dataclass
class Envelope:
    """What was sent to the app, and how long it took to say that it came [s]."""

    id: str
    body: dict[str, Any]
    sent_s: float = 0.0
    acked_s: float | None = None

    @property
    def was_acked_in_time(self) -> bool:
        return self.acked_s is not None and self.acked_s - self.sent_s < ACK_WITHIN_S


@dataclass(eq=False)
class Connection:
    """One web socket."""

    sock: socket.socket
    lock: threading.Lock = field(default_factory=threading.Lock)
    pongs: int = 0

    def send(self, opcode: int, payload: bytes) -> None:
        length = len(payload)
        size = bytes([length]) if length < 126 else b"\x7e" + struct.pack("!H", length)
        with self.lock:
            self.sock.sendall(bytes([0x80 | opcode]) + size + payload)

    def drop(self) -> None:
        """Without a word."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)


class SocketMode:
    """Belongs to a ``SlackServer``; ``close`` it before that."""

    def __init__(self, server: SlackServer) -> None:
        self.server = server
        server.workspace.tokens[APP_TOKEN] = {"connections:write"}
        server.methods["apps.connections.open"] = self._open
        self.connections: list[Connection] = []
        """Those that are open, oldest first."""
        self.said_hello = 0
        self.envelopes: dict[str, Envelope] = {}
        self.broken_rules: list[str] = []
        self._tickets: set[str] = set()
        self._numbers = itertools.count(1)
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self.connections):
            connection.drop()

    # --- what people and Slack do ---------------------------------------------------------

    def press(
        self, action: str, user: str = OPERATOR, *, value: str = "", message: Any = None
    ) -> Envelope:
        """A button of the newest message that has it, or of ``message`` as it was; ``value``: what
        it is made to say in its place."""
        shown = message or self.message_with(action)
        button = buttons_of(shown)[action]
        stamp = f"{time.time():.6f}"
        payload = {
            "type": "block_actions",
            "user": {"id": user, "username": "somebody", "team_id": "T0AAAAAAA"},
            "api_app_id": "A0AAAAAAA",
            "token": "not-to-be-used",
            "container": {"type": "message", "message_ts": shown["ts"],
                          "channel_id": shown["channel"], "is_ephemeral": False},
            "trigger_id": "1.2.3",
            "team": {"id": "T0AAAAAAA", "domain": "lab"},
            "channel": {"id": shown["channel"], "name": "training"},
            "message": {name: shown[name] for name in ("ts", "text", "blocks")},
            "response_url": f"{self.server.origin}/actions/hidden",
            "actions": [{"type": "button", "action_id": button["action_id"], "block_id": "b",
                         "text": button["text"], "value": value or button["value"],
                         "action_ts": stamp}],
        }  # fmt: skip
        number = next(self._numbers)
        name = f"00000000-0000-4000-8000-{number:012d}"
        body: dict[str, Any] = {
            "envelope_id": name,
            "type": "interactive",
            "accepts_response_payload": False,
            "payload": payload,
        }
        envelope = self.envelopes[name] = Envelope(name, body)
        self.deliver(envelope)
        return envelope

    def deliver(self, envelope: Envelope) -> None:
        """To the newest connection; also once more."""
        envelope.sent_s, envelope.acked_s = time.monotonic(), None
        eventually(lambda: self.connections)[-1].send(_TEXT, json.dumps(envelope.body).encode())

    def disconnect(self, reason: str) -> None:
        """Ask for another connection, as Slack does every few hours."""
        body = {"type": "disconnect", "reason": reason, "debug_info": {"host": "wss-111"}}
        self.connections[-1].send(_TEXT, json.dumps(body).encode())

    def message_with(self, action: str) -> dict[str, Any]:
        """A copy of the newest message that has this button."""
        with self.server.lock:
            known = [m for m in self.server.workspace.messages if action in buttons_of(m)]
            assert known, f"no message has a button {action}"
            found: dict[str, Any] = json.loads(json.dumps(known[-1]))
        return found

    # --- the protocol ---------------------------------------------------------------------

    def _open(self, arguments: dict[str, Any], token: str) -> dict[str, Any]:
        if not token.startswith("xapp-"):
            raise Refused("not_allowed_token_type")
        self.server.need(token, "connections:write")
        ticket = f"ticket-{next(self._numbers)}"
        self._tickets.add(ticket)
        host, port = self._listener.getsockname()
        return {"url": f"ws://{host}:{port}/link/?ticket={ticket}&app_id=A0AAAAAAA"}

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as stream, contextlib.suppress(OSError, ValueError):
            if not self._shake_hands(sock, stream):
                return
            connection = Connection(sock)
            hello = {"type": "hello", "num_connections": 1, "debug_info": {"host": "wss-111"},
                     "connection_info": {"app_id": "A0AAAAAAA"}}  # fmt: skip
            connection.send(_TEXT, json.dumps(hello).encode())
            connection.send(_PING, b"Ping from wss-111")
            self.connections.append(connection)
            self.said_hello += 1
            try:
                while self._take(connection, stream):
                    continue
            finally:
                self.connections.remove(connection)

    def _shake_hands(self, sock: socket.socket, stream: Any) -> bool:
        target = stream.readline().split()[1].decode()
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        ticket = parse_qs(urlsplit(target).query).get("ticket", [""])[0]
        if ticket not in self._tickets or headers.get(b"sec-websocket-version") != b"13":
            sock.sendall(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            return False
        self._tickets.remove(ticket)
        proof = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + _GUID).digest())
        sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + proof + b"\r\n\r\n"
        )
        return True

    def _take(self, connection: Connection, stream: Any) -> bool:
        head = stream.read(2)
        if len(head) < 2:
            return False
        opcode, length = head[0] & 15, head[1] & 127
        if not head[1] & 128:
            self.broken_rules.append("a frame of the client is not masked")
        if length == 126:
            (length,) = struct.unpack("!H", stream.read(2))
        mask = stream.read(4)
        payload = bytes(byte ^ mask[i % 4] for i, byte in enumerate(stream.read(length)))
        if opcode == _PING:
            connection.send(_PONG, payload)
        elif opcode == _PONG:
            connection.pongs += 1
        elif opcode == _TEXT:
            self._acknowledged(json.loads(payload))
        return bool(opcode != _CLOSE)

    def _acknowledged(self, answer: dict[str, Any]) -> None:
        envelope = self.envelopes.get(answer.get("envelope_id", ""))
        if envelope is None or set(answer) - {"envelope_id", "payload"}:
            self.broken_rules.append(f"no answer to anything: {answer}")
        else:
            envelope.acked_s = time.monotonic()


def buttons_of(message: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By what they do: ``ack``, ``rollback`` ..."""
    return {
        element["action_id"].removeprefix("lossguard."): element
        for block in message.get("blocks") or ()
        if block["type"] == "actions"
        for element in block["elements"]
    }


def main() -> None:
    server = SlackServer()
    SocketMode(server)
    sys.stdout.write(
        f"export LOSSGUARD_SLACK_API_URL={server.url} LOSSGUARD_SLACK_BOT_TOKEN={TOKEN} "
        f'LOSSGUARD_SLACK_APP_TOKEN={APP_TOKEN}   # [slack] operators = ["{OPERATOR}"]\n'
    )
    sys.stdout.flush()
    while True:
        time.sleep(0.5)
        Path(sys.argv[1]).write_text(json.dumps(server.conversation(), indent=1))


if __name__ == "__main__":
    main()
