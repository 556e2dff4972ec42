"""An agent that serves other hosts, and what those have: a home each, and a key file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from lossguard.agent.client import Client
from lossguard.agent.keyring import Keyring
from lossguard.home import Home
from lossguard.key_files import Role
from tests.support.agents import AgentProcess
from tests.support.ports import free_port


class Site:
    """The host of the agent, with its keys; ``agent`` serves it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.ring = Keyring(home)
        self.ring.init()
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-", dir=home.config))
        self.agent = AgentProcess(home, "--listen", self.address)

    def file_for(self, name: str, role: Role) -> Path:
        """A new key's file."""
        self.ring.add(name, role, self.folder / f"{name}.key")
        return self.folder / f"{name}.key"

    def at(self, key_file: Path) -> Home:
        """Another host, whose user has this file."""
        elsewhere = self.folder / f"{key_file.stem}-home"
        return replace(
            self.home,
            state=elsewhere,
            runtime=elsewhere,
            logs=elsewhere,
            config=elsewhere,
            remote=self.address,
            key_file=key_file,
        )

    def host(self, name: str, role: Role) -> Home:
        """Another host, whose user has a new key."""
        return self.at(self.file_for(name, role))

    def client(self, name: str, role: Role) -> Client:
        """Somebody who looks on from another host."""
        return Client(self.host(name, role))

    def agent_client(self) -> Client:
        """The owner, on the host of the agent."""
        return Client(self.home)
