"""A headless Chromium, driven over its debugging protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.waiting import PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FOREIGN_NAME = "evil.example"
_SWITCHES = (
    "--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader",
    # No other host can be found, and one foreign name points here.
    f"--host-resolver-rules=MAP {FOREIGN_NAME} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
_CODES = re.compile(r"\x1b\[[0-9;:?]*[a-zA-Z]")
"""Colours and movements, between the letters that are seen."""
_SAID = "document.title + '\\n' + document.body?.innerText"


class Chromium:
    """The browser; ``endpoint`` is where ``Tab`` connects."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [CHROMIUM, *_SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        self._said = self._process.stderr
        for line in self._said:
            if found := re.search(r"DevTools listening on (ws://\S+)", line):
                self.endpoint = found[1]
                return
        raise AssertionError(f"Chromium ended with {self._process.wait()}")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


class Tab:
    """A tab with cookies of its own. ``requests`` and ``complaints`` hold all there were."""

    def __init__(self, browser: Chromium, width: int = 1280, height: int = 800) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.terminal = b""
        """All that the app has sent to the terminal so far."""
        self._endpoint = browser.endpoint
        self.other_port = "http" + browser.endpoint.partition("/devtools")[0][2:] + "/json/version"
        """A page on this host that has nothing to do with us."""
        self._size = {"width": width, "height": height}
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._news = asyncio.Event()

    async def __aenter__(self) -> Tab:
        self._client = aiohttp.ClientSession()
        self._socket = await self._client.ws_connect(self._endpoint, max_msg_size=0)
        self._session: dict[str, str] = {}
        self._listening = asyncio.create_task(self._listen())
        context = await self.call("Target.createBrowserContext", disposeOnDetach=True)
        target = await self.call("Target.createTarget", url="about:blank", **self._size, **context)
        attached = await self.call("Target.attachToTarget", flatten=True, **target)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, mobile=False, **self._size
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()
        await self._listening
        await self._client.close()

    async def call(self, method: str, **parameters: Any) -> Any:
        """One command; its result."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        command = {"id": self._number, "method": method, "params": parameters, **self._session}
        await self._socket.send_json(command)
        return await asyncio.wait_for(answer, PATIENCE_S)

    async def open(self, url: str) -> None:
        """Go there."""
        await self.call("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        """What the script comes to, on the page."""
        found = await self.call("Runtime.evaluate", expression=script, awaitPromise=True)
        return found["result"].get("value")

    async def until_page(self, words: str) -> None:
        """Wait until the page says this, in its title or outside of the terminal."""
        said, deadline_s = "", time.monotonic() + PATIENCE_S
        while words not in said:
            assert time.monotonic() < deadline_s, f"never said: {words}, but: {said}"
            with suppress(RuntimeError):  # One page was just replaced by the next.
                said = str(await self.evaluate(_SAID))
            await asyncio.sleep(0.02)

    async def press(self, key: str) -> None:
        """One key, after a click into the terminal."""
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=640, y=2, button="left", clickCount=1
            )
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def complained(self, words: str) -> None:
        """Wait until the browser has complained so."""
        while not any(words in complaint for complaint in self.complaints):
            await self._something_new(words)

    async def screenshot(self) -> bytes:
        """A PNG."""
        taken = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])

    async def until(self, pattern: str, since: int = 0) -> None:
        """Wait until the app has painted this, in what came after the first ``since`` bytes."""
        while not re.search(
            pattern, _CODES.sub("", self.terminal[since:].decode(errors="replace"))
        ):
            await self._something_new(pattern)

    async def _something_new(self, wanted: str) -> None:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), PATIENCE_S)
        except asyncio.TimeoutError:
            raise AssertionError(f"in vain: {wanted}; {self.complaints}") from None

    async def _listen(self) -> None:
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if "error" in said:
                    answer.set_exception(RuntimeError(said["error"]["message"]))
                elif not answer.done():
                    answer.set_result(said["result"])
            else:
                self._hear(said["method"], said["params"])

    def _hear(self, method: str, said: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(said["url"])
        elif method == "Network.webSocketFrameReceived":
            frame = said["response"]
            if frame["opcode"] == 2:
                self.terminal += base64.b64decode(frame["payloadData"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.complaints.append(f"{said['entry']['text']} {said['entry'].get('url', '')}")
        self._news.set()
