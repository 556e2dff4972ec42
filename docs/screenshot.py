"""The picture of the dashboard in the README, made from a real run.

lossguard run --guard --name gpt examples/train_gpt.py --trouble --steps 400
python docs/screenshot.py gpt docs/dashboard.png        # needs chromium and Fira Code
python docs/screenshot.py gpt docs/dashboard.svg        # needs neither
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from lossguard.home import find_home
from lossguard.tui.app import LossguardApp
from lossguard.tui.source import LiveSource

COLUMNS, LINES = 130, 40


async def photograph(run: str) -> str:
    """The live app, headless, as SVG."""
    source = LiveSource(run=run, home=find_home())
    app = LossguardApp(source, run=run)
    async with app.run_test(size=(COLUMNS, LINES)) as pilot:
        for _ in range(100):
            await pilot.pause(0.1)
            if source.latest().picture is not None:
                break
        await pilot.pause(1.0)
        return app.export_screenshot(title="lossguard top")


def to_png(svg: str, target: Path) -> None:
    """Render with headless Chromium, with the fonts of this machine only."""
    svg = re.sub(r'url\("https://[^"]*"\)\s*format\("[^"]*"\),?', "", svg)
    svg = re.sub(r'(local\("[^"]*"\)),\s*(?=})', r"\1;", svg)
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    if found is None:
        raise SystemExit("the screenshot has no viewBox: is this another Textual?")
    width, height = (int(float(size)) + 1 for size in found.groups())
    svg = svg.replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f'<body style="margin:0">{svg}</body>')
        subprocess.run(
            [
                "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--disable-background-networking", f"--window-size={width},{height}",
                f"--user-data-dir={folder}/profile", f"--screenshot={target}", str(page),
            ],
            check=True, capture_output=True,
        )  # fmt: skip


def main() -> None:
    run, target = sys.argv[1], Path(sys.argv[2]).absolute()
    svg = asyncio.run(photograph(run))
    if target.suffix == ".png":
        to_png(svg, target)
    else:
        target.write_text(svg)


if __name__ == "__main__":
    main()
