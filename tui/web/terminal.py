"""One WebSocket, one app: keys and sizes go in, what the terminal shows comes out."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from lossguard.errors import LossguardError
from lossguard.tui.web.app_process import AppProcess

MOST_APPS = 8
"""Tabs at once; each is a process of some 65 MB."""
LARGEST_MESSAGE = 64 << 10
"""From a browser [bytes]: more than anybody pastes into a filter."""
_FROM_BROWSER = msgspec.json.Decoder(list[str | dict[str, int]])


class Terminals:
    """Every open tab, up to ``MOST_APPS``. ``prepare`` is called before each, in a thread."""

    def __init__(self, run: str, prepare: Callable[[], object], *, operator: bool) -> None:
        self._run = run
        self._prepare = prepare
        self._operator = operator
        self._free = asyncio.Semaphore(MOST_APPS)
        self._open: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Until the tab is closed or the app has ended; then both have."""
        if self._free.locked():
            raise web.HTTPServiceUnavailable(text="too many dashboards are open; close one")
        async with self._free:
            socket = web.WebSocketResponse(
                heartbeat=15.0, timeout=2.0, compress=False, max_msg_size=LARGEST_MESSAGE
            )
            await socket.prepare(request)
            self._open.add(socket)
            with suppress(LossguardError):  # The app says it better than a closed tab.
                await asyncio.to_thread(self._prepare)
            app = await AppProcess.start(
                self._run,
                operator=self._operator,
                width=_number(request.query.get("width", ""), 80),
                height=_number(request.query.get("height", ""), 24),
            )
            showing = asyncio.create_task(_show(app, socket))
            try:
                await _obey(app, socket)
            finally:
                showing.cancel()
                try:
                    await asyncio.wait([showing])
                finally:
                    await app.end()
            if not showing.cancelled():
                showing.result()
            return socket

    async def close(self) -> None:
        """Hang up on every browser, which ends their apps."""
        going = [socket.close(code=WSCloseCode.GOING_AWAY) for socket in set(self._open)]
        await asyncio.gather(*going)


async def _show(app: AppProcess, socket: web.WebSocketResponse) -> None:
    try:
        async for data in app.frames():
            await socket.send_bytes(data)
    except ConnectionError:
        return  # ``_obey`` sees it too.
    await socket.close()


async def _obey(app: AppProcess, socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is not WSMsgType.TEXT or not await _obey_one(app, socket, message.data):
            await socket.close(code=WSCloseCode.UNSUPPORTED_DATA)
            return


async def _obey_one(app: AppProcess, socket: web.WebSocketResponse, data: str) -> bool:
    try:
        said = _FROM_BROWSER.decode(data)
    except msgspec.MsgspecError:
        return False
    match said:
        case ["stdin", str(keys)]:
            await app.type(keys)
        case ["resize", {"width": int(width), "height": int(height)}]:
            await app.resize(width, height)
        case ["focus" | "blur" as which]:
            await app.focus(has_focus=which == "focus")
        case ["ping", str(sent)]:
            await socket.send_str(msgspec.json.encode(["pong", sent]).decode())
        case _:
            return False
    return True


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else otherwise
