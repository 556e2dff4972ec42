"""Over TCP: who gets in, as what, and who does not any more. One agent for all of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
import zmq
from typer.testing import CliRunner

from lossguard.agent import doctor_checks, feed
from lossguard.agent.audit import AuditLine, read_audit
from lossguard.agent.cli import app
from lossguard.agent.client import Client
from lossguard.agent.keyring import Keyring
from lossguard.errors import AgentUnreachable, ConfigError
from lossguard.home import Home, find_home
from lossguard.key_files import KeyFile, Role, read_key_file, write_private
from lossguard.probes import wire
from tests.support.agents import answering
from tests.support.ports import free_port
from tests.support.probe import FakeProbe, hello_of
from tests.support.site import Site
from tests.support.waiting import PATIENCE_S, eventually


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An agent that serves other hosts; every test makes keys of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOSSGUARD_HOME", str(tmp_path_factory.mktemp("site")))
        site = Site(find_home())
        with answering(site.agent):
            yield site


def order(run: str, name: str) -> feed.SendCommand:
    """A harmless command."""
    return feed.SendCommand(run=run, command=name, action="skip")


def audit_of(site: Site, who: str) -> list[AuditLine]:
    """What is written down of one key."""
    return [line for line in read_audit(site.home.audit_path) if f"key {who} " in f"{line.who} "]


def trouble(answer: feed.FromAgent) -> str:
    """Why it was refused."""
    assert isinstance(answer, feed.Trouble), answer
    return answer.why


def test_a_probe_reports_a_viewer_sees_and_an_operator_commands(site: Site) -> None:
    """Each what its role may; a viewer's command is refused before anything is done, and all that
    was commanded is written down with who, what and what came of it."""
    probe = FakeProbe(site.host("t-probe", "probe"), hello_of("run-t"))
    with probe, site.client("t-look", "viewer") as look, site.client("t-op", "operator") as op:
        probe.join()
        probe.send_step(2.0)
        eventually(lambda: _step_seen_by(look, "run-t") == 1)
        assert "may look on and give no commands" in trouble(look.request(order("run-t", "t.1")))
        assert "may look on and give no commands" in trouble(look.request(feed.Shutdown()))
        assert isinstance(op.request(order("run-t", "t.2")), feed.CommandResult)
        command = probe.await_message(wire.Command)
        probe.ack(command, skips_step=2)
        eventually(lambda: _status(op, order("run-t", "t.2")) == "done")
        assert [c.command for c in probe.commands()] == ["t.2"]
    eventually(lambda: len(audit_of(site, "t-op at 127.0.0.1")) == 2)
    told = [(line.verb, line.result, line.command) for line in audit_of(site, "t-op at 127.0.0.1")]
    assert told == [("skip", "accepted", "t.2"), ("skip", "done", "t.2")]
    told = [
        (line.verb, line.result, line.command) for line in audit_of(site, "t-look at 127.0.0.1")
    ]
    assert told == [("skip", "refused", "t.1"), ("shutdown", "refused", "")]
    assert site.home.audit_path.stat().st_mode & 0o777 == 0o600


def _step_seen_by(client: Client, run: str) -> int:
    answer = client.request(feed.ListRuns())
    assert isinstance(answer, feed.RunList)
    return next((one.step for one in answer.runs if one.run == run), -1)


def _status(client: Client, message: feed.SendCommand) -> str:
    answer = client.request(message)
    return answer.status if isinstance(answer, feed.CommandResult) else ""


def with_role(site: Site, name: str, role: str, claimed: str) -> Home:
    """Another host, whose key file lies about its role."""
    key = msgspec.structs.replace(read_key_file(site.file_for(name, role)), role=claimed)  # type: ignore[arg-type]
    file = site.folder / f"{name}-lying.key"
    write_private(file, msgspec.json.encode(key))
    return site.at(file)


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_only_a_probes_key_speaks_as_a_probe(site: Site, role: str) -> None:
    """Its own file says so at once; a file that lies about it gets in at the door no more."""
    with pytest.raises(ConfigError, match=r"is a key of a probe; wanted .* viewer or operator"):
        site.client(f"role-{role}", "probe")
    home = with_role(site, f"liar-{role}", role, "probe")
    with FakeProbe(home, hello_of(f"run-liar-{role}")) as liar, site.agent_client() as owner:
        liar._socket.set(zmq.SNDTIMEO, 500)
        liar.say(liar.hello)
        key = read_key_file(home.key_file or Path()).public
        eventually(lambda: any(key[:8] in line.who for line in read_audit(site.home.audit_path)))
        assert _step_seen_by(owner, f"run-liar-{role}") == -1
        assert not liar.hear(0.2)


def test_a_probes_key_looks_at_nothing(site: Site) -> None:
    """Not at the viewers' door either."""
    home = with_role(site, "curious", "probe", "viewer")
    with Client(home) as curious, pytest.raises(AgentUnreachable, match="does not know this key"):
        curious.request(feed.ListRuns())


def test_who_is_not_let_in_reads_why(site: Site, tmp_path: Path) -> None:
    """A key that nobody has added, an agent that is not the one, nobody there, no such host."""
    good = read_key_file(site.file_for("reads", "viewer"))
    stranger = Keyring(_home(tmp_path))
    stranger.init()
    stranger.add("s", "viewer", tmp_path / "s.key")
    public, secret = (part.decode() for part in zmq.curve_keypair())
    wrong: dict[str, tuple[KeyFile, str]] = {
        r"does not know this key \(reads, viewer\): ask its owner to run `lossguard keys add`": (
            msgspec.structs.replace(good, public=public, secret=secret),
            site.address,
        ),
        "has another key than .* says": (read_key_file(tmp_path / "s.key"), site.address),
        "nothing listens at": (good, f"tcp://127.0.0.1:{free_port()}"),
        "there is no host of the name": (good, "tcp://no-such-host.invalid:7700"),
    }
    for number, (words, (key, address)) in enumerate(wrong.items()):
        file = tmp_path / f"{number}.key"
        write_private(file, msgspec.json.encode(key))
        home = _home(tmp_path / str(number), remote=address, key_file=file)
        with Client(home) as client:
            eventually(partial(_is_told, client, words))
    with Client(site.at(site.folder / "reads.key")) as client:
        assert isinstance(client.request(feed.Ping()), feed.Pong)


def _is_told(client: Client, words: str) -> bool:
    return re.search(words, _why_not(client)) is not None


def _why_not(client: Client) -> str:
    try:
        client.request(feed.Ping(), timeout_s=0.1)
    except AgentUnreachable as error:
        return str(error)
    return ""


def _home(root: Path, remote: str = "", key_file: Path | None = None) -> Home:
    return Home(root, root, root, root, remote=remote, key_file=key_file)


def test_without_a_key_nothing_is_said(site: Site) -> None:
    """Neither to plain ZeroMQ nor to bytes that are none; whoever has a key goes on."""
    endpoint = site.at(site.file_for("plain", "viewer")).viewer_endpoint
    context = zmq.Context()
    plain = context.socket(zmq.DEALER)
    plain.set(zmq.LINGER, 0)
    plain.connect(endpoint)
    plain.send(feed.encode(feed.ListRuns()))
    with Client(site.at(site.folder / "plain.key")) as client:
        for _ in range(3):
            assert isinstance(client.request(feed.Ping()), feed.Pong)
        assert not plain.poll(100)
    plain.close()
    context.term()


def _gets_a_picture(client: Client) -> bool:
    return isinstance(client.receive(0.1), feed.Picture)


def test_a_viewer_that_is_revoked_is_refused_with_its_connection_open(site: Site) -> None:
    """Its next request, and no more pictures; another one's connection is not touched."""
    with site.client("v-gone", "viewer") as gone, site.client("v-stays", "viewer") as stays:
        for client in (gone, stays):
            client.request(feed.Ping())
            assert client.send(feed.Subscribe())
            eventually(partial(_gets_a_picture, client))
        site.ring.revoke("v-gone")
        assert "does not know this key any more" in trouble(gone.request(feed.ListRuns()))
        for _ in range(3):  # three more for the one: a second or so
            eventually(partial(_gets_a_picture, stays))
        assert gone.receive(0.0) is None
        assert isinstance(stays.request(feed.ListRuns()), feed.RunList)


def test_a_probe_that_is_revoked_is_refused_and_told_why(site: Site) -> None:
    """Its next step is not taken in; the other probe's are."""
    gone = FakeProbe(site.host("p-gone", "probe"), hello_of("run-gone"))
    stays = FakeProbe(site.host("p-stays", "probe"), hello_of("run-stays"))
    with gone, stays, site.agent_client() as owner:
        for probe in (gone.join(), stays.join()):
            probe.send_step(1.0)
        eventually(lambda: _step_seen_by(owner, "run-gone") == 1)
        site.ring.revoke("p-gone")
        gone.send_step(1.0)
        refused = gone.await_message(wire.Refused)
        assert "does not know this key any more" in refused.why
        assert refused.ask_again
        stays.send_step(1.0)
        eventually(lambda: _step_seen_by(owner, "run-stays") == 2)
        assert _step_seen_by(owner, "run-gone") == 1


def test_no_probe_speaks_for_the_rank_of_another_key(site: Site) -> None:
    """Whatever id its socket gives itself, and whatever run it names."""
    mine = FakeProbe(site.host("c-mine", "probe"), hello_of("run-mine"))
    theirs = FakeProbe(site.host("c-theirs", "probe"), hello_of("run-mine", pid=1))
    with mine, theirs, site.agent_client() as owner:
        mine.join()
        theirs.say(theirs.hello)
        assert "speaks with another key" in theirs.await_message(wire.Refused).why
        theirs.bye()
        mine.send_step(1.0)
        eventually(lambda: _step_seen_by(owner, "run-mine") == 1)
        answer = owner.request(feed.ListRuns())
        assert isinstance(answer, feed.RunList)
        assert [one.state for one in answer.runs if one.run == "run-mine"] == ["running"]


def test_a_message_of_too_many_or_too_large_frames_is_not_kept(site: Site) -> None:
    """Each frame is small enough; all of them together are not. The probe itself may go on."""
    with FakeProbe(site.host("big", "probe"), hello_of("run-big")) as probe:
        probe.join()
        probe.raw(*[b"x" * 900] * 10_000)
        probe.raw(b"x" * wire.MAX_FRAME_BYTES, b"y" * wire.MAX_FRAME_BYTES)
        probe.send_step(1.0)
        with site.agent_client() as owner:
            eventually(lambda: _step_seen_by(owner, "run-big") == 1)
    assert re.search(r"10000 frames, 9000000 bytes", site.agent.log)
    assert re.search(rf"2 frames, {2 * wire.MAX_FRAME_BYTES} bytes", site.agent.log)


def test_the_command_line_speaks_with_the_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's ``send`` is refused by the run alone; a viewer's by the agent; ``doctor`` says
    what is wrong with a key that is not known."""
    monkeypatch.setenv("LOSSGUARD_AGENT", site.address)
    monkeypatch.setenv("LOSSGUARD_HOME", str(site.folder / "cli"))

    def typed(key: str, *words: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("LOSSGUARD_KEY_FILE", str(site.folder / f"{key}.key"))
        command = [sys.executable, "-m", "lossguard", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    site.file_for("cli-op", "operator")
    site.file_for("cli-gone", "viewer")
    site.ring.revoke("cli-gone")
    refused = typed("cli-op", "send", "no-such-run", "stop")
    assert (refused.returncode, "no run 'no-such-run'" in refused.stderr) == (1, True)
    gone = typed("cli-gone", "doctor", "--json")
    said = {one["check"]: one for one in map(json.loads, gone.stdout.splitlines())}
    assert gone.returncode == 1
    assert said["agent"]["status"] == "fail"
    assert "does not know this key" in said["agent"]["said"]
    assert not list((site.folder / "cli").rglob("agent.lock"))  # none was started here instead


@pytest.mark.parametrize("role", ["probe", "viewer"])
def test_the_doctor_finds_a_host_with_a_good_key_well(site: Site, role: Role) -> None:
    """A key of either kind, for a host that only trains has none but a probe's."""
    at_home = site.host(f"d-{role}", role)
    assert [one.status for one in doctor_checks.agent(at_home)] == ["ok"]
    site.ring.revoke(f"d-{role}")
    (refused,) = doctor_checks.agent(at_home)
    assert (refused.status, "does not know this key" in refused.said) == ("fail", True)


def test_a_new_key_of_the_agent_cuts_off_who_has_the_old_one(site: Site) -> None:
    """Also over open connections, without a restart; with a new file all is as before."""
    old = site.host("r-old", "viewer")
    with Client(old) as client:
        client.request(feed.Ping())
        site.ring.rotate_agent()

        eventually(lambda: "has another key" in _why_not(client))
        site.ring.rotate("r-old", site.folder / "r-new.key")
        with Client(site.at(site.folder / "r-new.key")) as renewed:
            assert isinstance(renewed.request(feed.Ping(), timeout_s=PATIENCE_S), feed.Pong)
    assert isinstance(site.agent.ask(feed.Ping()), feed.Pong)


def test_the_audit_log_is_read_on_the_host_of_the_agent(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From elsewhere it is not called empty; at home it names runs by their ids."""
    probe = FakeProbe(site.host("u-probe", "probe"), hello_of("u-1122-1", name="u-run"))
    with probe, site.agent_client() as owner:
        probe.join()
        owner.request(order("u-run", "u.1"))
    monkeypatch.setenv("LOSSGUARD_HOME", str(site.home.config.parent))
    told = CliRunner().invoke(app, ["audit", "u-1122", "--json"]).stdout.splitlines()
    assert [json.loads(line)["run"] for line in told][:1] == ["u-1122-1"]
    monkeypatch.setenv("LOSSGUARD_AGENT", site.address)
    away = CliRunner().invoke(app, ["audit"])
    assert "lossguard audit` there" in str(away.exception)
