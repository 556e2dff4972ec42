"""Who is let in."""

from __future__ import annotations

import pytest

from lossguard.tui.web.gate import MOST_BROWSERS, Gate

PORT = 8123


def token_of(link: str) -> str:
    """What the link has to show."""
    return link.partition("token=")[2]


def enter(gate: Gate) -> str:
    """The cookie for a new link."""
    cookie = gate.exchange(token_of(gate.new_link()))
    assert cookie is not None
    return cookie


def test_a_link_opens_once() -> None:
    """The cookie it gives is valid from then on, the link no more."""
    gate = Gate(PORT)
    link = gate.new_link()
    cookie = gate.exchange(token_of(link))
    assert cookie is not None
    assert gate.knows(cookie)
    assert gate.exchange(token_of(link)) is None
    assert gate.knows(cookie)


def test_a_new_link_ends_the_one_before_and_no_session() -> None:
    """Whoever is in stays in."""
    gate = Gate(PORT)
    cookie = enter(gate)
    old = gate.new_link()
    new = gate.new_link()
    assert gate.exchange(token_of(old)) is None
    assert gate.exchange(token_of(new)) is not None
    assert gate.knows(cookie)


@pytest.mark.parametrize("offered", ["", "x", "é" * 43, "\udcff", "0" * 100_000])
def test_nothing_else_opens(offered: str) -> None:
    """Neither as a token nor as a cookie, before and after a link was used."""
    gate = Gate(PORT)
    assert gate.exchange(offered) is None
    enter(gate)
    assert gate.exchange(offered) is None
    assert not gate.knows(offered)


def test_a_token_is_no_cookie_and_gates_share_nothing() -> None:
    """What one server gave opens no other."""
    gate, other = Gate(PORT), Gate(PORT)
    link = gate.new_link()
    other.new_link()
    assert not gate.knows(token_of(link))
    assert other.exchange(token_of(link)) is None
    assert not other.knows(enter(gate))
    assert gate.place != other.place


def test_the_oldest_browser_is_forgotten() -> None:
    """There are never more than ``MOST_BROWSERS``."""
    gate = Gate(PORT)
    cookies = [enter(gate) for _ in range(MOST_BROWSERS + 1)]
    assert [gate.knows(cookie) for cookie in cookies] == [False] + [True] * MOST_BROWSERS


OWN = "127.0.0.1:8123"


@pytest.mark.parametrize(
    ("hosts", "origins", "page", "socket"),
    [
        ([OWN], [f"http://{OWN}"], True, True),
        (["localhost:8123"], ["http://localhost:8123"], True, True),
        ([OWN], [], True, False),
        ([OWN], ["http://localhost:8123"], False, False),
        ([OWN], ["http://127.0.0.1:9000"], False, False),
        ([OWN], [f"https://{OWN}"], False, False),
        ([OWN], ["http://evil.example"], False, False),
        ([OWN], ["null"], False, False),
        ([OWN], [f"http://{OWN}", "http://evil.example"], False, False),
        (["evil.example:8123"], ["http://evil.example:8123"], False, False),
        (["evil.example:8123"], [], False, False),
        (["127.0.0.1"], [], False, False),
        ([f"{OWN}.evil.example"], [], False, False),
        ([OWN, "evil.example"], [], False, False),
        ([], [], False, False),
    ],
)
def test_only_our_own_page_may_ask(
    hosts: list[str], origins: list[str], page: bool, socket: bool
) -> None:
    """By a name of ours, and from a page of ours; a page may also come from nowhere."""
    gate = Gate(PORT)
    assert gate.is_own_page(hosts, origins, socket=False) is page
    assert gate.is_own_page(hosts, origins, socket=True) is socket
