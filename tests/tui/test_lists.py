"""The screens that are lists: runs, layers, ranks, incidents, events."""

from __future__ import annotations

import numpy as np

from lossguard.agent import feed
from lossguard.tui import heat_map
from lossguard.tui.events_page import EventList
from lossguard.tui.heat import Heat
from lossguard.tui.incidents import Incidents
from lossguard.tui.layers_page import LayersPage
from lossguard.tui.runs import SORTS, Runs
from lossguard.tui.source import Glimpse
from lossguard.tui.spark import spark
from tests.tui import pictures
from tests.tui.driving import seat
from tests.tui.pictures import StillSource


async def test_enter_on_a_run_shows_that_run() -> None:
    """Down and enter ask the source for the next run, and its picture replaces the first."""
    other = pictures.picture(run="r-77c1", incidents=[], rollbacks=[], limits={})
    async with seat(StillSource(runs={"r-77c1": other}), run="") as here:
        shown = await here.press("j", "enter")
        assert here.source.watched == ["r-77c1"]
        assert "vit-b16-imagenet" in shown
        assert "Incidents none" in shown
        for keys in (("k", "enter"), ("down", "down", "enter"), ("G", "enter"), ("g", "enter")):
            await here.press("1", *keys)
        assert here.source.watched[1:] == ["r-8f3a", "r-51d0", "r-1f00", "r-8f3a"]


async def test_runs_can_be_filtered_and_sorted() -> None:
    """By name, id or state; the order goes around."""
    async with seat(run="") as here:
        shown = await here.press("slash", *"unet")
        assert "unet-ddpm" in shown
        assert "llama" not in shown
        assert "1 of 7" in shown
        await here.press("enter")
        assert here.focus == "runs"
        assert "llama" not in here.text
        assert "llama" in await here.press("escape")
        assert "whisper" in await here.press("slash", *"silent")
        assert "unet" not in here.text
        await here.press("escape")
        tops = []
        for order in SORTS:
            assert order in here.text
            tops.append(here.app.query_one(Runs).get_option_at_index(0).id)
            await here.press("s")
        assert tops[1] == "r-39aa"
        assert tops[2] == "r-51d0"
        assert tops[3] == "r-77c1"


async def test_the_cursor_stays_on_its_run_when_the_list_changes() -> None:
    """A new run on top does not move what enter would choose."""
    async with seat(run="") as here:
        await here.press("down")
        runs = [
            pictures.run_summary("r-new", name="newcomer", started=pictures.NOW_S),
            *pictures.all_runs(),
        ]
        assert "newcomer" in await here.look(runs=runs)
        assert here.app.query_one(Runs).cursor_key == "r-77c1"


def test_a_run_in_little_keeps_its_spike() -> None:
    """The one bucket that is high reaches the top, and what was not measured is blank."""
    pairs = np.ones((60, 2), "<f4") + np.linspace(0, 0.1, 60, dtype="<f4")[:, None]
    pairs[30, 1] = 50.0
    (line,) = spark(pairs.tobytes(), 30, 1)
    at_the_top = [x for x, char in enumerate(line) if (ord(char) - 0x2800) & 0x09]
    assert 15 in at_the_top
    assert set(at_the_top) <= {15, *range(25, 30)}
    assert spark(b"", 10, 2) == (" " * 10, " " * 10)


async def test_layers_by_time_for_each_family() -> None:
    """f goes through the families that there are, each of which is asked for."""
    async with seat() as here:
        shown = await here.press("3")
        assert "layers.0.attn.q_proj" in shown
        assert "step 0" in shown
        for family in ("act_rms", "update_ratio", "grad_norm"):
            await here.press("f")
            assert here.source.wanted.strips == (family,)
            await here.look(strips=[pictures.strip(family)])
        await here.press("F")
        assert here.source.wanted.strips == ("update_ratio",)


async def test_layers_can_be_sorted_filtered_and_looked_at_one_by_one() -> None:
    """The cursor has a chart of its own; NaN and Inf are signs, not colours."""
    async with seat() as here:
        await here.press("3")
        heat = here.app.query_one(Heat)
        assert heat.selected == "embed"
        await here.press("G")
        assert heat.selected == "head"
        await here.press("g", "j", "j", "k", "pagedown", "pageup", "home")
        assert heat.selected == "embed"
        await here.press("s", "s")
        assert "largest ever" in here.text
        await here.press("g")
        assert heat.selected == "layers.3.attn.q_proj"
        assert "✗" in here.text
        await here.press("s", "s")
        shown = await here.press("slash", *"2.mlp")
        assert "layers.2.mlp.up" in shown
        assert "layers.1" not in shown
        await here.press("enter")
        assert here.focus == "layers"
        assert heat.selected.startswith("layers.2.mlp")
        assert "no layer has that" in await here.press("slash", *"zzz")
        await here.press("escape", "y")
        assert "· log" not in here.text


async def test_a_run_without_layers_says_so() -> None:
    """Not an empty screen."""
    async with seat() as here:
        await here.look(families=[], strips=[])
        assert "no layers have been measured in this run so far" in await here.press("3")
        assert here.app.query_one(LayersPage).query_one(Heat).curve is None


def test_one_step_is_seen_among_any_number_of_columns() -> None:
    """Columns that share a cell show the largest of them; Inf is never lost."""
    values = np.full((128, 3), 0.1, "<f4")
    values[77, 1] = 40.0
    values[13, 2] = np.inf
    line = feed.LayerStrip(
        family="grad_norm",
        names=["a", "b", "c"],
        steps=np.arange(0, 12_800, 100, dtype="<i8").tobytes(),
        values=values.tobytes(),
    )
    strip = heat_map.decode(line)
    assert strip is not None
    for cells in (8, 40, 128, 300):
        grid = heat_map.levels(strip, cells)
        assert grid[1].max() == heat_map.LEVELS
        assert (grid[2] == -1).any()
        assert not (grid[:2] == -1).any()
    assert heat_map.order(strip, heat_map.SORTS[2], "") == [2, 1, 0]
    assert heat_map.order(strip, heat_map.SORTS[0], "B") == [1]


def test_a_strip_that_contradicts_itself_is_none() -> None:
    """Buffers of the wrong length are not read."""
    torn = feed.LayerStrip(family="grad_norm", names=["a"], steps=b"\0" * 8, values=b"\0" * 12)
    assert heat_map.decode(torn) is None
    empty = feed.LayerStrip(family="grad_norm", names=["a"], steps=b"", values=b"")
    assert heat_map.decode(empty) is None


async def test_ranks_side_by_side() -> None:
    """Who is behind, who waits for data, whose GPU idles; and their times over the run."""
    async with seat() as here:
        shown = await here.press("4")
        late = next(line for line in shown.splitlines() if "node-1:41005" in line)
        for words in ("11,997", "-3", "151 ms", "31 %", "data"):
            assert words in late
        await here.press("f")
        assert here.source.wanted.strips == ("rank_own_time",)
        await here.press("F", "s")
        assert "largest now" in here.text
        assert "none: the run is over" in await here.look(
            runs=[pictures.run_summary(state="finished")], ranks=[]
        )


async def test_a_single_process_has_nothing_to_be_compared_with() -> None:
    """It is shown all the same."""
    async with seat() as here:
        alone = pictures.run_summary(world_size=1)
        await here.look(runs=[alone], ranks=pictures.ranks(1), strips=[])
        shown = await here.press("4")
        assert "node-0:41000" in shown
        assert "nothing to compare it with" in shown


async def test_the_account_of_an_incident_tells_all_that_is_known() -> None:
    """Onset and detection, evidence, what was done; and asked for: meaning, causes, stacks."""
    async with seat(size=(130, 70)) as here:
        shown = await here.press("5", "j")
        for words in (
            "critical, resolved  40 min ago", "step 9,726 (636 steps later)",
            "14.7 MADs above its trend", "exploding_gradient, clipping", "5.41",
            "done: back to 9,000", "lossguard explain divergence",
        ):  # fmt: skip
            assert words in shown
        asked = [one.incident for one in here.source.sent if isinstance(one, feed.TellIncident)]
        assert asked == ["inc-0004", "inc-0003"]
        here.source.heard = [pictures.story("inc-0003")]
        shown = await here.look()
        for words in ("What it means", "Usual causes", "the learning rate is too high",
                      "What helps", "stacks.txt", "[b]not markup[/b]"):  # fmt: skip
            assert words in shown
        await here.press("enter")
        assert here.focus == "details"
        await here.press("G", "g", "j", "k", "h")
        assert here.focus == "incidents"


async def test_an_open_account_follows_its_incident() -> None:
    """An action that is answered meanwhile appears in it, and the story is asked for anew."""
    async with seat() as here:
        assert "nothing; it was only watched" in await here.press("5")
        lines = pictures.incidents()
        action = feed.ActionLine(action="set_clip", step=11_700, result="failed: no clipping seen")
        lines[3] = pictures.changed(lines[3], actions=[action])
        shown = await here.look(incidents=lines)
        assert "✗ set_clip" in shown
        assert "failed: no clipping seen" in shown
        await here.look()
        assert len(here.source.sent) >= 2


async def test_incidents_can_be_filtered_and_the_newest_comes_first() -> None:
    """By symptom, severity, place or words; from the screen of the run enter leads here."""
    async with seat() as here:
        await here.press("tab", "tab", "tab", "tab", "tab")
        assert here.focus == "run-incidents"
        await here.press("j", "enter")
        assert here.page == "incidents-page"
        assert here.app.query_one("#incidents", Incidents).cursor_key == "inc-0003"
        shown = await here.press("slash", *"softmax")
        assert "nonfinite" in shown
        assert "divergence" not in shown
        await here.press("escape")
        newest = pictures.changed(
            pictures.incidents()[0], id="inc-0005", opened=pictures.NOW_S, symptom="loss_spike"
        )
        await here.look(Glimpse(pictures.picture(incidents=[*pictures.incidents(), newest])))
        assert here.app.query_one("#incidents", Incidents).keys[0] == "inc-0005"


async def test_events_newest_first_with_a_filter() -> None:
    """s turns them around."""
    async with seat() as here:
        shown = await here.press("6")
        lines = shown.splitlines()[3:]
        assert "11,610" in lines[0]
        assert "hello" in shown
        shown = await here.press("slash", *"rollback")
        assert "1 of 8" in shown
        assert "hello" not in shown
        await here.press("escape", "s")
        assert "hello" in here.text.splitlines()[3]
        assert "oldest first" in here.text
        assert here.app.query_one(EventList).option_count == 8
