"""The picture of the dashboard in a browser, docs/web.png, made from a real run.

lossguard run --guard --name gpt examples/train_gpt.py --trouble --steps 400
python docs/screenshot_web.py gpt docs/web.png          # needs chromium and lossguard[web]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from lossguard.home import find_home
from tests.tui_web.chromium import Chromium, Tab
from tests.tui_web.web_server import WebServer

WIDTH, HEIGHT = 1280, 800


async def photograph(link: str, browser: Chromium) -> bytes:
    """The page, as soon as it has shown a curve for a moment."""
    async with Tab(browser, WIDTH, HEIGHT) as tab:
        await tab.open(link)
        await tab.until("[\u2801-\u28ff]{6}")
        await asyncio.sleep(3.0)
        return await tab.screenshot()


def main() -> None:
    """Serve, look, end."""
    run, target = sys.argv[1], Path(sys.argv[2])
    server = WebServer(find_home(), run)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Chromium(Path(profile))
        try:
            target.write_bytes(asyncio.run(photograph(server.link, browser)))
        finally:
            browser.close()
            server.end()


if __name__ == "__main__":
    main()
