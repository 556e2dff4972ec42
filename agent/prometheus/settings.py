"""The table ``[prometheus]`` of agent.toml."""

from __future__ import annotations

import re

import msgspec

from lossguard.agent.loopback import is_loopback

_ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")


class PrometheusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the agent answers ``GET /metrics``. Without ``listen`` it does not."""

    listen: str = ""
    """HOST:PORT, say 127.0.0.1:9464."""
    allow_remote: bool = False
    """Also at an address that other hosts reach. Whoever does can read names of runs and how they
    do, without a password and in the clear."""

    def __post_init__(self) -> None:
        if not self.listen:
            return
        host, _ = host_and_port(self.listen)
        if not (self.allow_remote or is_loopback(host)):
            raise ValueError(
                f"listen: {host} can be reached by other hosts, and metrics have no password: take "
                "127.0.0.1, or set allow_remote = true in the table [prometheus] of agent.toml"
            )


def host_and_port(address: str) -> tuple[str, int]:
    """Raises ValueError."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"listen: {address!r} is not HOST:PORT, say 127.0.0.1:9464")
    return match["host"].strip("[]"), int(match["port"])
