"""Key files: written for one pair of eyes, and not believed once others have had a look."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq

from lossguard.agent.keyring import PROBES, VIEWERS, Keyring
from lossguard.errors import ConfigError, UsageError
from lossguard.home import Home
from lossguard.key_files import read_key_file, write_private


@pytest.fixture
def ring(home: Home) -> Keyring:
    """A keyring with the agent's key."""
    ring = Keyring(home)
    ring.init()
    return ring


def mode(path: Path) -> int:
    """What ``ls -l`` shows."""
    return stat.S_IMODE(path.stat().st_mode)


def test_all_that_is_secret_is_for_its_owner_only(ring: Keyring, tmp_path: Path) -> None:
    """Whatever the umask is."""
    before = os.umask(0)
    try:
        ring.add("gpu-7", "probe", tmp_path / "gpu-7.key")
    finally:
        os.umask(before)
    files = [tmp_path / "gpu-7.key", *ring.folder.iterdir()]
    assert {mode(path) for path in files} == {0o600}
    assert mode(ring.folder) == 0o700


def test_one_file_is_all_that_a_client_needs(ring: Keyring, tmp_path: Path) -> None:
    """Its own pair, and the public half of the agent's, which keeps the public half of it."""
    ring.add("gpu-7", "probe", tmp_path / "k")
    key = read_key_file(tmp_path / "k")
    assert (key.name, key.role, key.agent) == ("gpu-7", "probe", ring.agent().public)
    assert zmq.curve_public(key.secret.encode()).decode() == key.public
    kept = b"".join(path.read_bytes() for path in ring.folder.iterdir())
    assert key.public.encode() in kept
    assert key.secret.encode() not in kept


def test_a_file_that_is_there_is_never_written_over(ring: Keyring, tmp_path: Path) -> None:
    """Nor is a link followed to another one, and nobody is let in by a key that was not written."""
    (tmp_path / "there").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("there", "link"):
        with pytest.raises(ConfigError):
            ring.add("a", "probe", tmp_path / name)
    assert (tmp_path / "there").read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists()
    assert ring.clients() == []
    with pytest.raises(ConfigError, match="is there already"):
        ring.init()


@pytest.mark.parametrize("wrong", [0o644, 0o640, 0o604, 0o620])
def test_a_key_that_others_may_read_is_refused_with_what_to_type(
    ring: Keyring, tmp_path: Path, wrong: int
) -> None:
    """The client's and the agent's; put right, each is taken."""
    file = tmp_path / "k"
    ring.add("a", "probe", file)
    for path, read in (
        (file, lambda: read_key_file(file)),
        (ring.folder / "agent.key", ring.agent),
    ):
        path.chmod(wrong)
        with pytest.raises(ConfigError, match=f"type: chmod 600 {path}"):
            read()
        path.chmod(0o600)
        assert read()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_a_key_of_somebody_else_is_refused(ring: Keyring, tmp_path: Path) -> None:
    """Whoever owns the file could change it."""
    write_private(tmp_path / "k", b"{}")
    os.chown(tmp_path / "k", 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to uid 65534"):
        read_key_file(tmp_path / "k")


def test_a_key_opens_the_doors_of_its_role_alone(ring: Keyring, tmp_path: Path) -> None:
    """A probe reports, viewers and operators look on; an unknown key opens none."""
    doors = {"probe": {PROBES}, "viewer": {VIEWERS}, "operator": {VIEWERS}}
    for role, opened in doors.items():
        key = ring.add(role, role, tmp_path / role)  # type: ignore[arg-type]
        assert {door for door in (PROBES, VIEWERS) if ring.client(key.public, door)} == opened
    for stranger in ("", "x" * 40, ring.agent().public):
        assert ring.client(stranger, PROBES) is None


def test_what_is_revoked_or_rotated_is_known_no_more_at_once(ring: Keyring, tmp_path: Path) -> None:
    """Also to a keyring that has looked it up before, as the agent has."""
    agents = Keyring(_home_of(ring))
    first = ring.add("a", "probe", tmp_path / "1")
    other = ring.add("b", "probe", tmp_path / "2")
    assert agents.client(first.public, PROBES) is not None
    second = ring.rotate("a", tmp_path / "3")
    assert agents.client(first.public, PROBES) is None
    assert agents.client(second.public, PROBES) is not None
    ring.revoke("a")
    assert agents.client(second.public, PROBES) is None
    assert agents.client(other.public, PROBES) is not None


def test_a_list_of_keys_that_cannot_be_believed_knows_nobody(
    ring: Keyring, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Open to others, broken, or gone: the door is shut, and it is said; put right, it opens."""
    key = ring.add("a", "probe", tmp_path / "k")
    path = ring.folder / "clients.json"
    good = path.read_bytes()
    path.chmod(0o666)
    assert ring.client(key.public, PROBES) is None
    path.chmod(0o600)
    assert ring.client(key.public, PROBES) is not None
    path.write_bytes(b"[{}]" + b" " * len(good))
    assert ring.client(key.public, PROBES) is None
    path.unlink()
    assert ring.client(key.public, PROBES) is None
    assert "nobody from another host is let in" in caplog.text


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 65, "a\n"])
def test_a_name_is_a_plain_word(ring: Keyring, tmp_path: Path, name: str) -> None:
    """And none that stands already, or that there is not."""
    with pytest.raises(UsageError):
        ring.add(name, "probe", tmp_path / "k")
    ring.add("taken", "probe", tmp_path / "k")
    with pytest.raises(UsageError, match="already"):
        ring.add("taken", "viewer", tmp_path / "k2")
    with pytest.raises(UsageError, match="there is no key"):
        ring.revoke("nobody")


def _home_of(ring: Keyring) -> Home:
    root = ring.folder.parent
    return Home(state=root, runtime=root, logs=root, config=root)
