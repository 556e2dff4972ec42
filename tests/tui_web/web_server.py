"""``lossguard top --web`` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from lossguard.home import Home
from tests.support.waiting import PATIENCE_S


class WebServer:
    """``link`` is one that nobody has used; what it says of troubles is in ``said``."""

    def __init__(self, home: Home, *options: str) -> None:
        self._said = Path(home.logs) / "web.log"
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "lossguard", "top", "--web", "--json", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                text=True,
                env={**os.environ, "LOSSGUARD_HOME": str(home.state.parent)},
            )
        self.link = self._next_link()
        self.origin = self.link.partition("/?")[0]
        self.host = self.origin.removeprefix("http://")

    @property
    def said(self) -> str:
        """All that this and earlier servers wrote to standard error."""
        return self._said.read_text()

    def new_link(self) -> str:
        """As by Ctrl-\\."""
        self.process.send_signal(signal.SIGQUIT)
        self.link = self._next_link()
        return self.link

    def apps(self) -> list[psutil.Process]:
        """The processes behind the open tabs."""
        apps: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return apps

    def end(self, by: int = signal.SIGINT) -> int:
        """As by Ctrl-C; its exit code. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(by)
        code = self.process.wait(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def _next_link(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"no link:\n{self.said}"
        url: str = json.loads(line)["url"]
        return url
