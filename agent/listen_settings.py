"""Where other hosts reach the agent, as ``agent.toml`` says it."""

from __future__ import annotations

import msgspec


class ListenSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[listen]``: whether other hosts are served. Without ``tcp`` they are not."""

    tcp: str = ""
    """tcp://HOST:PORT of this host: probes connect there, viewers to the port after it."""
    anywhere: bool = False
    """Also at addresses like 0.0.0.0, which are those of every network that this host is in."""
