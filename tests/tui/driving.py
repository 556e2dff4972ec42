"""Driving the dashboard in tests: what a person sees and presses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot
from textual.widgets import ContentSwitcher

from lossguard.tui.app import LossguardApp
from lossguard.tui.source import Glimpse
from tests.tui import pictures
from tests.tui.pictures import StillSource

USUAL = (130, 40)


class Seat:
    """Somebody in front of the dashboard."""

    def __init__(self, app: LossguardApp, source: StillSource, pilot: Pilot[None]) -> None:
        self.app = app
        self.source = source
        self.pilot = pilot

    async def press(self, *keys: str) -> str:
        """Press keys, look at what is new, and read the screen."""
        await self.pilot.press(*keys)
        return await self.look()

    async def look(self, glimpse: Glimpse | None = None, **changes: Any) -> str:
        """Read the screen, with another picture where one is given."""
        if glimpse is not None or changes:
            self.source.glimpse = glimpse or Glimpse(pictures.picture(**changes))
        self.app.refresh_picture()
        await self.pilot.pause()
        return self.text

    @property
    def text(self) -> str:
        """What a person sees, without colours."""
        width, height = self.app.size
        lines = self.app.screen._compositor.render_strips()
        assert len(lines) == height
        assert {strip.cell_length for strip in lines} == {width}
        return "\n".join(strip.text.rstrip() for strip in lines) + "\n"

    @property
    def page(self) -> str:
        """The id of the screen that is seen."""
        return self.app.base.query_one(ContentSwitcher).current or ""

    @property
    def focus(self) -> str:
        """The id of the widget that has the focus."""
        return (self.app.focused.id or "") if self.app.focused else ""

    @property
    def dialog(self) -> str:
        """The kind of what lies over the screen, or empty."""
        return type(self.app.screen).__name__ if len(self.app.screen_stack) > 1 else ""

    @property
    def toasts(self) -> str:
        """What has been said in passing."""
        return " | ".join(f"{one.title}: {one.message}" for one in self.app._notifications)


@asynccontextmanager
async def seat(
    source: StillSource | None = None,
    *,
    size: tuple[int, int] = USUAL,
    run: str = "r-8f3a",
    operator: bool = True,
) -> AsyncIterator[Seat]:
    """The dashboard on a source that stands still, opened on one run."""
    source = source or StillSource()
    app = LossguardApp(source, run, operator=operator)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        here = Seat(app, source, pilot)
        await here.look()
        yield here
