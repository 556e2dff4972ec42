"""Plain HTTP to an address that is a secret: where it leads is nobody else's to say."""

from __future__ import annotations

import urllib.request

from lossguard.agent.loopback import is_loopback_url


def reason_of(error: Exception) -> str:
    """Without the address: what urllib says may hold all of it, and it is a secret."""
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    return str(getattr(cause, "strerror", None) or type(cause).__name__)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Where to, is said by whoever set it up; and it goes nowhere else."""

    def redirect_request(self, *_: object) -> None:
        return None


def opener_for(url: str) -> urllib.request.OpenerDirector:
    """With the proxy of the environment, but to this host."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
    if is_loopback_url(url):
        handlers.append(urllib.request.ProxyHandler({}))
    return urllib.request.build_opener(*handlers)
