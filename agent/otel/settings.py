"""The table ``[otel]`` of agent.toml. No secret stands in it."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from lossguard.agent.loopback import is_in_the_clear

HEADERS = "LOSSGUARD_OTEL_HEADERS"


class OtelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where metrics are sent. Without ``endpoint`` they are not."""

    endpoint: str = ""
    """A collector's URL for metrics, say https://collector.example:4318/v1/metrics."""
    interval_s: Annotated[float, msgspec.Meta(ge=1.0, le=3600.0)] = 15.0
    """Between two times [s]."""
    headers_file: str = ""
    """Holds headers to send along, one ``Name: value`` a line, where LOSSGUARD_OTEL_HEADERS does
    not. Mode 0600."""
    allow_plain: bool = False
    """Also over http to other hosts. Whoever listens on the way reads the names of runs, how they
    do, and the headers."""

    def __post_init__(self) -> None:
        if self.endpoint:
            _check(self.endpoint, self.allow_plain)


def _check(endpoint: str, allow_plain: bool) -> None:
    """Raises ValueError, which does not repeat the endpoint: a password may stand in it."""
    example = "say https://collector.example:4318/v1/metrics"
    try:
        parts = urlsplit(endpoint)
        host, is_sound = parts.hostname or "", parts.port != 0
    except ValueError:
        raise ValueError(f"endpoint: is no URL; {example}") from None
    if parts.scheme not in ("http", "https") or not host or not is_sound:
        raise ValueError(f"endpoint: is no http or https URL; {example}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError(
            "endpoint: more than a host, a port and a path stands there; put keys and passwords "
            "into headers_file"
        )
    if not parts.path.strip("/"):
        raise ValueError(f"endpoint: names no path; {example}")
    if is_in_the_clear(endpoint) and not allow_plain:
        raise ValueError(
            f"endpoint: metrics and headers would go to {host} in the clear: take https, or set "
            "allow_plain = true in the table [otel] of agent.toml"
        )
