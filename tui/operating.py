"""From a key to an order and its result: ask what is needed, say what will happen, follow it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from lossguard.agent import feed
from lossguard.tui import deeds, figures
from lossguard.tui.dialogs import ConfirmScreen, NumberScreen, SnapshotScreen
from lossguard.tui.plain import plain
from lossguard.tui.source import Answer, PictureSource

if TYPE_CHECKING:
    from lossguard.tui.app import LossguardApp

_MOST_WAITING = 16


class Operating:
    """The orders of one dashboard. Every order has an id of its own, so none is done twice."""

    def __init__(self, app: LossguardApp, source: PictureSource, *, operator: bool) -> None:
        self._app = app
        self._source = source
        self._operator = operator
        self._waiting: dict[str, tuple[deeds.Deed, str]] = {}
        """By id of the order: what it is, and the name of the run."""

    @property
    def pending(self) -> list[str]:
        """What has been ordered and is not answered yet."""
        return [f"{deed.name.lower()} ({name})" for deed, name in self._waiting.values()]

    def why_not(self, deed: deeds.Deed) -> str:
        """Why it cannot be done now."""
        glimpse = self._app.glimpse
        snapshots = glimpse.picture.snapshots if glimpse.picture else []
        return deeds.why_not(
            deed, self._app.run_on_show, snapshots, operator=self._operator, gone=glimpse.gone
        )

    async def carry_out(self, deed: deeds.Deed) -> None:
        """All the way to the order; any dialog that is left ends it."""
        if why := self.why_not(deed):
            self._app.notify(why, title=f"{deed.name}: not now", severity="warning", markup=False)
            return
        run, snapshot = self._app.run_on_show, None
        assert run is not None
        args: deeds.Args | None = {}
        if deed.action == "rollback":
            snapshot = await self._snapshot(run)
            args = deeds.rollback_args(snapshot) if snapshot else None
        elif deed.action in ("lower_lr", "set_clip"):
            args = await self._number(deed, run)
        elif deed.noted:
            args = self._about(deed)
        if args is not None and (asked := deeds.question(deed, run, args, snapshot)) is not None:
            args = await self._app.push_screen_wait(ConfirmScreen(asked))
        if args is not None:
            self._order(deed, run, args)

    async def _snapshot(self, run: feed.RunSummary) -> feed.SnapshotLine | None:
        picture = self._app.glimpse.picture
        known = picture.snapshots if picture else []
        return await self._app.push_screen_wait(SnapshotScreen(run, known))

    async def _number(self, deed: deeds.Deed, run: feed.RunSummary) -> deeds.Args | None:
        if deed.action == "lower_lr":
            words = "Multiply the learning rate by how much? 0.5 is half of it."
            factor = await self._app.push_screen_wait(
                NumberScreen("Lower the learning rate", words, 0.5, 1e-6, 1.0)
            )
            return None if factor is None else {"factor": factor}
        norm = run.last.get("grad_norm")
        words = "Clip the total gradient norm at how much?"
        if norm is not None:
            words += f" The last one was {figures.value(norm)}."
        bound = await self._app.push_screen_wait(
            NumberScreen("Set the clipping", words, 1.0, 1e-12, 1e12)
        )
        return None if bound is None else {"max_norm": bound}

    def _about(self, deed: deeds.Deed) -> deeds.Args | None:
        """The incident under the cursor, or else the newest that is open; again undoes it."""
        incident = self._app.chosen_incident
        if incident is None:
            words = "there is no incident to take note of"
            self._app.notify(words, title=deed.name, severity="warning", markup=False)
            return None
        known = incident.muted if deed.action == "mute" else bool(incident.acked)
        args: deeds.Args = {"incident": incident.id}
        return {**args, "undo": 1} if known else args

    def _order(self, deed: deeds.Deed, run: feed.RunSummary, args: deeds.Args) -> None:
        name = f"top.{secrets.token_hex(6)}"
        self._waiting[name] = (deed, run.name)
        while len(self._waiting) > _MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        order = feed.SendCommand(run=run.run, command=name, action=deed.action, args=args)
        self._source.send(order)

    def take(self, answer: Answer) -> None:
        """Show what came of an order."""
        if isinstance(answer, feed.IncidentStory) or answer.command not in self._waiting:
            return
        deed, name = self._waiting[answer.command]
        title = f"{deed.name}: {plain(name, 30)}"
        if isinstance(answer, feed.Trouble):
            del self._waiting[answer.command]
            self._say(answer.why, title, bad=True)
        elif answer.status == "pending":
            self._say("sent; the loop obeys at its next step boundary", title, timeout_s=2.0)
        else:
            del self._waiting[answer.command]
            done = answer.status == "done"
            at = f"{answer.status} at step {figures.step(answer.step)}: " if answer.step else ""
            self._say(at + answer.result, title, bad=not done)

    def _say(self, words: str, title: str, *, bad: bool = False, timeout_s: float = 6.0) -> None:
        self._app.notify(
            plain(words, 400),
            title=title,
            severity="error" if bad else "information",
            timeout=2 * timeout_s if bad else timeout_s,
            markup=False,
        )
