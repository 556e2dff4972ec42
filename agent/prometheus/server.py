"""Who answers ``GET /metrics``: a few threads of their own, patient with nobody."""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from lossguard.agent.loopback import is_loopback
from lossguard.agent.prometheus.settings import host_and_port
from lossguard.errors import ConfigError

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 8
_PATIENCE_S = 5.0
"""For a client that says nothing or does not read [s]."""


class Server:
    """Serves until closed. Raises ConfigError where the address cannot be had."""

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        host, port = host_and_port(address)
        handler = type(
            "Handler", (_Handler,), {"registry": registry, "is_local": is_loopback(host)}
        )
        kind = type("Listener", (_Listener,), {"address_family": _family_of(host)})
        try:
            self._server = kind((host, port), handler)
        except OSError as error:
            raise ConfigError(
                f"metrics cannot be served at {address}: {error.strerror or error}; "
                "name another address with --metrics, or in the table [prometheus] of agent.toml"
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="lossguard-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more; whoever is being answered is left to it."""
        self._server.shutdown()
        self._server.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, *arguments: Any) -> None:
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Without asking a name server for the name of the address, as http.server would."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a scrape failed", exc_info=True)


class _Handler(MetricsHandler):
    timeout = _PATIENCE_S
    is_local = True

    def do_GET(self) -> None:
        """Only the one page; and to a browser that was led here under a foreign name, nothing."""
        asked = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if self.is_local and not is_loopback(asked):
            self.send_error(403, "this is for clients of this host: ask for localhost")
        elif urlsplit(self.path).path != "/metrics":
            self.send_error(404, "the metrics are at /metrics")
        else:
            super().do_GET()


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
