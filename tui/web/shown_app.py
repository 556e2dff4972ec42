"""The dashboard that one browser tab sees: the program ``AppProcess`` starts."""

from __future__ import annotations

import gc
import sys
from typing import Any, BinaryIO, TextIO

from textual.drivers.web_driver import WebDriver

from lossguard.agent import feed
from lossguard.tui.app import LossguardApp
from lossguard.tui.source import LiveSource, Question


class PipeDriver(WebDriver):
    """Ends the app when the server goes away, in whatever way."""

    def run_input_thread(self) -> None:
        """Until the pipe or the app ends."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            self._loop.call_soon_threadsafe(self._app.exit)

    def deliver_binary(self, binary: BinaryIO | TextIO, **_: Any) -> None:
        """No file goes to the browser; the palette of Textual has one to offer."""
        binary.close()
        self._app.notify("pictures are saved by `lossguard top` in a terminal", severity="warning")


class LookingSource(LiveSource):
    """Lets no order out, whatever key was found."""

    def send(self, question: Question) -> None:
        """Questions only."""
        if not isinstance(question, feed.SendCommand):
            super().send(question)


def main() -> None:
    """``[--operator] -- RUN``."""
    *options, run = sys.argv[1:]
    operator = "--operator" in options
    source = LiveSource(run) if operator else LookingSource(run)
    gc.freeze()
    LossguardApp(source, run, operator=operator).run()


if __name__ == "__main__":
    main()
