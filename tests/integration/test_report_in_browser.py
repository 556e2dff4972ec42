"""The report in a real Chromium: on phone and desk, in the dark, on paper, without scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lossguard.agent.database import open_database
from lossguard.agent.report.writing import write_report
from lossguard.home import Home

pytest.importorskip("aiohttp", reason="drives Chromium over a web socket")
from tests.support.kept_runs import troubled
from tests.tui_web.chromium import CHROMIUM, Chromium, Tab

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

SIZES = {"phone": (360, 740), "desk": (1100, 900)}
DARK = [{"name": "prefers-color-scheme", "value": "dark"}]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One for all tests."""
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture
def page(home: Home, tmp_path: Path) -> str:
    """The address of a report of a run with trouble, whose name is a script."""
    with closing(open_database(home.database_path)) as database:
        troubled(database, name="<script>document.title = 'owned'</script>")
    write_report(home, "", str(tmp_path / "report.html"), None, None)
    return (tmp_path / "report.html").as_uri()


async def ask(tab: Tab, expression: str) -> Any:
    """What an expression is worth on the page."""
    found = await tab.call("Runtime.evaluate", expression=expression, returnByValue=True)
    assert "exceptionDetails" not in found, found
    return found["result"].get("value")


async def visit(tab: Tab, address: str) -> None:
    """Go there, and wait until it is all there."""
    await tab.open(address)
    ready = (
        "new Promise(done => document.readyState === 'complete' && document.querySelector('main')"
        " ? done(1) : addEventListener('load', () => done(1)))"
    )
    await tab.call("Runtime.evaluate", expression=ready, awaitPromise=True)


async def picture(tab: Tab) -> Image.Image:
    return Image.open(io.BytesIO(await tab.screenshot())).convert("RGB")


@pytest.mark.parametrize("size", SIZES)
async def test_it_fits_the_screen_asks_nothing_and_has_no_complaints(
    browser: Chromium, page: str, size: str
) -> None:
    """Nothing is wider than the screen, every plot has its curve, only the file is loaded."""
    width, height = SIZES[size]
    async with Tab(browser, width, height) as tab:
        await visit(tab, page)
        assert await ask(tab, "document.documentElement.scrollWidth") <= width
        assert await ask(tab, "document.title") != "owned"
        curves = await ask(
            tab, "[...document.querySelectorAll('.curve')].map(c => c.getAttribute('d').length)"
        )
        assert len(curves) == 6
        assert min(curves) > 50
        await ask(tab, "document.querySelector('.plot').scrollIntoView()")
        colours = {colour for _, colour in (await picture(tab)).getcolors(1 << 20) or []}
        assert {(127, 180, 216), (0, 114, 178), (255, 255, 255)} <= colours
        assert not tab.complaints
        assert [asked for asked in tab.requests if not asked.startswith("data:")] == [page]


async def test_the_pointer_reads_exact_values_and_zooms_all_plots(
    browser: Chromium, page: str
) -> None:
    """Over the spike stands its step and value; a drag goes closer, a double click back."""
    async with Tab(browser, *SIZES["desk"]) as tab:
        await visit(tab, page)
        await ask(tab, "document.querySelector('.plot').scrollIntoView()")
        box = await ask(tab, "document.querySelector('.frame').getBoundingClientRect().toJSON()")

        async def mouse(kind: str, step: float, **more: Any) -> None:
            x = box["x"] + (step - 1) / 299 * box["width"]
            y = box["y"] + box["height"] / 2
            await tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

        await mouse("mouseMoved", 100)
        said = await ask(tab, "document.querySelector('.cross').innerText")
        assert said.startswith("step 100   30\n")
        assert "validation 2.51 at 100" in said
        await mouse("mousePressed", 80, button="left", clickCount=1)
        await mouse("mouseMoved", 100, button="left", buttons=1)
        await mouse("mouseReleased", 120, button="left", clickCount=1)
        below = "[...document.querySelectorAll('section:not(.minor) .plot .x')]"
        labels = f"{below}.map(x => x.firstChild.innerText)"
        assert set(await ask(tab, labels)) == {"80"}
        for click in (1, 2):
            await mouse("mousePressed", 100, button="left", clickCount=click)
            await mouse("mouseReleased", 100, button="left", clickCount=click)
        assert set(await ask(tab, labels)) == {"50"}
        assert not tab.complaints


async def test_the_scale_can_be_switched(browser: Chromium, page: str) -> None:
    """The button says what it leads to, and the labels change."""
    async with Tab(browser, *SIZES["desk"]) as tab:
        await visit(tab, page)
        button = "document.querySelector('[data-do=scale]')"
        first = await ask(tab, "document.querySelector('.y').innerText")
        assert await ask(tab, f"{button}.innerText") == "log scale"
        await ask(tab, f"{button}.click()")
        assert await ask(tab, "document.querySelector('.y').innerText") != first
        assert await ask(tab, f"{button}.innerText") == "linear scale"
        await ask(tab, f"{button}.click()")
        assert await ask(tab, "document.querySelector('.y').innerText") == first
        assert not tab.complaints


async def test_without_scripts_it_is_complete(browser: Chromium, page: str) -> None:
    """Some mail programs and viewers run none."""
    async with Tab(browser, *SIZES["desk"]) as tab:
        await tab.call("Emulation.setScriptExecutionDisabled", value=True)
        await tab.open(page)
        html = ""
        for _ in range(1000):
            found = await tab.call("DOM.getDocument", depth=0)
            with suppress(RuntimeError):  # the page has come in place of the blank one just now
                shown = await tab.call("DOM.getOuterHTML", nodeId=found["root"]["nodeId"])
                html = shown["outerHTML"]
            if "</footer>" in html:
                break
        assert html.count('class="curve') == 6
        assert 'class="tools" hidden' in html
        colours = {colour for _, colour in (await picture(tab)).getcolors(1 << 20) or []}
        assert (0, 114, 178) in colours


async def test_it_is_dark_where_people_like_it_dark_and_white_on_paper(
    browser: Chromium, page: str
) -> None:
    """On paper all that is folded and belongs to an incident is unfolded."""
    async with Tab(browser, *SIZES["desk"]) as tab:
        await tab.call("Emulation.setEmulatedMedia", features=DARK)
        await visit(tab, page)
        assert (await picture(tab)).getpixel((5, 5)) == (16, 21, 28)
        printed = await tab.call("Page.printToPDF", printBackground=True)
        assert base64.b64decode(printed["data"]).startswith(b"%PDF")
        folded = "document.querySelectorAll('details.print:not([open])').length"
        assert await ask(tab, folded) == 0
        await tab.call("Emulation.setEmulatedMedia", media="print", features=DARK)
        assert (await picture(tab)).getpixel((5, 5)) == (255, 255, 255)
