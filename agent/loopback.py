"""Which addresses nobody else reaches, and which URLs a network can listen to."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether only this host is there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Whether it leads to this host. Raises ValueError where it is no URL."""
    return is_loopback(urlsplit(url).hostname or "")


def is_in_the_clear(url: str) -> bool:
    """Whether it is neither https nor http to this host. Raises ValueError where it is no URL."""
    scheme = urlsplit(url).scheme
    return scheme != "https" and not (scheme == "http" and is_loopback_url(url))
