"""Operating a run from the dashboard: what is asked, what is ordered, and what came of it."""

from __future__ import annotations

import pytest

from lossguard.agent import feed
from lossguard.tui import deeds
from lossguard.tui.deeds import BY_ACTION, DEEDS
from lossguard.tui.source import Glimpse
from tests.tui import pictures
from tests.tui.driving import seat
from tests.tui.pictures import StillSource

RUN = pictures.run_summary()


def why_not(action: deeds.Action, run: feed.RunSummary | None = RUN, **changes: bool) -> str:
    """Why this cannot be done to a run with snapshots."""
    known = {"operator": True, "gone": False, **changes}
    held = [] if changes.pop("bare", False) else pictures.snapshots()
    known.pop("bare", None)
    return deeds.why_not(BY_ACTION[action], run, held, **known)


@pytest.mark.parametrize(
    ("key", "action", "args"),
    [
        ("S", "skip", {}),
        ("X", "stop", {"reason": "stopped by hand in the dashboard", "checkpoint": 1}),
    ],
)
async def test_what_cannot_be_taken_back_is_asked_first(
    key: str, action: str, args: deeds.Args
) -> None:
    """The question says what will happen; enter and esc leave all as it is, y does it."""
    async with seat() as here:
        assert "next step boundary" in await here.press(key) or "cannot be taken back" in here.text
        assert here.dialog == "ConfirmScreen"
        await here.press("enter")
        for no in ("escape", "n"):
            await here.press(key)
            await here.press(no)
        assert not here.source.orders
        assert not here.dialog
        await here.press(key)
        assert "· log" not in await here.press("y")
        (order,) = here.source.orders
        assert (order.run, order.action, order.args) == ("r-8f3a", action, args)


async def test_a_run_can_be_stopped_without_a_checkpoint() -> None:
    """The second answer of the same question."""
    async with seat() as here:
        await here.press("X")
        await here.press("w")
        assert "checkpoint" not in here.source.orders[0].args


async def test_a_checkpoint_harms_nothing_and_is_not_asked_about() -> None:
    """One key."""
    async with seat() as here:
        await here.press("C")
        assert [order.action for order in here.source.orders] == ["checkpoint"]


async def test_a_rollback_goes_to_the_snapshot_that_was_chosen() -> None:
    """The list shows step, age, size, place and health; a proven one is under the cursor."""
    async with seat() as here:
        shown = await here.press("R")
        assert here.dialog == "SnapshotScreen"
        for words in ("11,960", "11,200", "34 s ago", "1.4 GiB", "disk", "not proven yet"):
            assert words in shown
        shown = await here.press("enter")
        assert "back to step 11,820?" in shown
        assert "about 180 steps of training are undone" in shown
        await here.press("y")
        assert here.source.orders[0].args == {"onset": 11_822, "hold_lr": 1}
        await here.press("R")
        assert "NOT proven good yet" in await here.press("k", "enter")
        await here.press("w")
        assert here.source.orders[1].args == {
            "onset": 11_962, "hold_lr": 1, "lr": 0.5, "warmup_steps": 100,
        }  # fmt: skip
        await here.press("R")
        await here.press("escape")
        assert not here.dialog
        assert len(here.source.orders) == 2


async def test_the_rate_and_the_clipping_take_a_number_within_bounds() -> None:
    """What is no such number is said, and asked again."""
    async with seat() as here:
        await here.press("W")
        await here.press("2", "enter")
        assert "a number from 1e-06 to 1, please" in here.text
        shown = await here.press("backspace", "0", "full_stop", "2", "5", "enter")
        assert "0.00024 becomes 6e-05" in shown
        await here.press("y")
        await here.press("P")
        await here.press("0", "full_stop", "7", "enter")
        await here.press("y")
        for key in "WP":
            await here.press(key)
            await here.press("escape")
        assert [(order.action, order.args) for order in here.source.orders] == [
            ("lower_lr", {"factor": 0.25}), ("set_clip", {"max_norm": 0.7}),
        ]  # fmt: skip


async def test_an_incident_is_acknowledged_or_muted_by_one_key_and_the_same_key_undoes_it() -> None:
    """The one under the cursor; what was done shows in the list and in the account."""
    async with seat() as here:
        await here.press("5", "j", "a", "m")
        third = pictures.incidents()[2]
        noted = pictures.changed(third, acked=pictures.NOW_S, muted=True)
        shown = await here.look(incidents=[*pictures.incidents()[:2], noted])
        assert "muted" in shown
        assert "✓ acknowledged" in shown
        await here.press("a", "m")
        assert [(order.action, order.args) for order in here.source.orders] == [
            ("ack", {"incident": third.id}),
            ("mute", {"incident": third.id}),
            ("ack", {"incident": third.id, "undo": 1}),
            ("mute", {"incident": third.id, "undo": 1}),
        ]
        await here.look(incidents=[])
        await here.press("a")
        assert "there is no incident to take note of" in here.toasts


async def test_an_order_is_followed_until_it_is_answered() -> None:
    """Pending, done, failed and refused are all said, and what waits stands in the status line."""
    async with seat() as here:
        for status, result in (("done", "step 12001"), ("failed", "another is being written")):
            assert "… checkpoint (llama-350m-fineweb): waiting" in await here.press("C")
            name = here.source.orders[-1].command
            here.source.heard = [feed.CommandResult(command=name, status="pending")]
            await here.look()
            assert "sent; the loop obeys at its next step boundary" in here.toasts
            answer = {"command": name, "step": 12_001, "result": result}
            here.source.heard = [feed.CommandResult(status=status, **answer)]  # type: ignore[arg-type]
            assert "waiting" not in await here.look()
            assert f"{status} at step 12,001: {result}" in here.toasts
        await here.press("C")
        name = here.source.orders[-1].command
        here.source.heard = [feed.Trouble(why="the run is over", command=name)]
        await here.look()
        assert "the run is over" in here.toasts
        assert len({order.command for order in here.source.orders}) == 3


async def test_the_menu_offers_all_of_it_and_says_why_not() -> None:
    """By its key or by enter; what is impossible gives its reason."""
    async with seat() as here:
        shown = await here.press("o")
        assert here.dialog == "MenuScreen"
        for deed in DEEDS:
            assert deed.name in shown
        await here.press("C")
        assert [order.action for order in here.source.orders] == ["checkpoint"]
        await here.press("o")
        await here.press("enter")
        assert "Skip the next update of llama-350m-fineweb?" in here.text
        await here.press("escape")
        over = pictures.run_summary(state="finished")
        await here.look(runs=[over])
        assert "not now: the run is over (finished)" in await here.press("o")
        await here.press("escape")
        assert not here.dialog


async def test_the_palette_does_it_too() -> None:
    """ctrl+p finds an order by its words."""
    async with seat() as here:
        await here.press("ctrl+p")
        await here.pilot.press(*"checkp")
        await here.pilot.pause(0.3)
        await here.press("enter")
        assert [order.action for order in here.source.orders] == ["checkpoint"]


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.action)
async def test_a_viewer_looks_on_and_is_told_so(deed: deeds.Deed) -> None:
    """Not an operator: no key and no menu orders anything."""
    assert why_not(deed.action, operator=False) == deeds.LOOKS_ON


async def test_keys_of_a_viewer_order_nothing() -> None:
    """All of them in a row."""
    async with seat(operator=False) as here:
        await here.press(*(deed.key for deed in DEEDS))
        assert "you look on here" in here.toasts
        assert not here.source.orders
        assert not here.dialog
        await here.press("o")
        shown = await here.press("C")
        assert not here.source.orders
        assert "MenuScreen" not in shown


async def test_without_an_agent_nothing_is_ordered() -> None:
    """It could be carried out when nobody wants it any more."""
    async with seat() as here:
        await here.look(Glimpse(pictures.picture(), age_s=60.0))
        await here.press("C")
        assert "no agent answers" in here.toasts
        assert not here.source.orders


def test_what_observing_leaves_possible_is_told_truthfully() -> None:
    """One process obeys a person under observe too, but has taken no snapshots; several do not."""
    alone = pictures.run_summary(policy="observe", acts=False, world_size=1)
    assert why_not("skip", alone) == why_not("stop", alone) == why_not("checkpoint", alone) == ""
    assert "takes no snapshots: a checkpoint (C)" in why_not("rollback", alone, bare=True)
    assert why_not("rollback", alone) == ""
    several = pictures.run_summary(policy="observe", acts=False, world_size=8)
    assert "its ranks do not vote" in why_not("stop", several)
    assert why_not("mute", several) == ""
    assert why_not("ack", pictures.run_summary(state="died")) == ""
    assert "no run" in why_not("ack", None)
    assert "no snapshot so far" in why_not("rollback", bare=True)


async def test_names_from_elsewhere_are_no_markup_in_dialogs() -> None:
    """A run may be called anything."""
    runs = [pictures.run_summary(name="[b]evil[/b]\x1b[31m")]
    async with seat(StillSource(Glimpse(pictures.picture(runs=runs)))) as here:
        for key in "oR":
            assert "[b]evil[/b]" in await here.press(key)
            await here.press("escape")
        await here.press("C")
        assert "[b]evil[/b]" in here.text
