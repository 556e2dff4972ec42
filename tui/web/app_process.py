"""One dashboard in a process of its own, spoken to as Textual's web driver expects.

Both ways go packets: one byte of kind (``D`` terminal data, ``M`` JSON, ``P`` packed), the size
in four bytes, the payload. The process ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress

import msgspec

from lossguard.own_python import own_python

GRACE_S = 3.0
"""An app that has not ended by itself after this is killed."""
_READY = b"__GANGLION__\n"
_LARGEST_PACKET = 16 << 20
WIDEST, TALLEST = 500, 200


class AppProcess:
    """Starts with ``start``, ends with ``end``; in between ``frames`` goes to the browser."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._is_ready = False

    @classmethod
    async def start(cls, run: str, *, operator: bool, width: int, height: int) -> AppProcess:
        """Begin; what the app says of its own troubles goes to our standard error."""
        width, height = _bounded(width, height)
        command = own_python("lossguard.tui.web.shown_app", *(["--operator"] if operator else []))
        process = await asyncio.create_subprocess_exec(
            *command,
            "--",
            run,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "TEXTUAL_DRIVER": "lossguard.tui.web.shown_app:PipeDriver",
                "TEXTUAL_COLOR_SYSTEM": "truecolor",
                "COLUMNS": str(width),
                "ROWS": str(height),
            },
            # Keys of the terminal that the server runs in are the server's.
            start_new_session=True,
        )
        return cls(process)

    async def type(self, keys: str) -> None:
        """Keys, as a terminal sends them."""
        await self._send(b"D", keys.encode())

    async def resize(self, width: int, height: int) -> None:
        """A new size [cells]."""
        width, height = _bounded(width, height)
        await self._tell({"type": "resize", "width": width, "height": height})

    async def focus(self, *, has_focus: bool) -> None:
        """Whether the browser's tab is the one that is typed into."""
        await self._tell({"type": "focus" if has_focus else "blur"})

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """What a terminal would get, until the app ends.

        Files and links that the app wants the browser to open are not passed on.
        """
        try:
            while await self._stdout.readline() != _READY:
                if self._stdout.at_eof():
                    return
            self._is_ready = True
            while True:
                kind = await self._stdout.readexactly(1)
                size = int.from_bytes(await self._stdout.readexactly(4), "big")
                if size > _LARGEST_PACKET:
                    return
                payload = await self._stdout.readexactly(size)
                if kind == b"D":
                    yield payload
        except asyncio.IncompleteReadError:
            return

    async def end(self) -> None:
        """Ask the app to end; kill it where it does not. Nobody may read ``frames`` any more."""
        self._stdin.close()
        try:
            # One that is still starting does not listen yet, and has nothing to lose.
            await asyncio.wait_for(self._read_rest(), GRACE_S if self._is_ready else 0.0)
        except asyncio.TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._read_rest()
        await self._process.wait()

    async def _read_rest(self) -> None:
        # An app that cannot write does not end.
        while await self._stdout.read(1 << 16):
            pass

    async def _tell(self, message: dict[str, str | int]) -> None:
        await self._send(b"M", msgspec.json.encode(message))

    async def _send(self, kind: bytes, payload: bytes) -> None:
        with suppress(ConnectionError):  # It has ended, which ``frames`` tells too.
            self._stdin.write(kind + len(payload).to_bytes(4, "big") + payload)
            await self._stdin.drain()


def _bounded(width: int, height: int) -> tuple[int, int]:
    return min(max(width, 1), WIDEST), min(max(height, 1), TALLEST)
