"""The page and its Markdown: every section, and nothing that could do harm."""

from __future__ import annotations

import doctest
import json
import re
import sqlite3
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lossguard.agent.report import escaping, wording
from lossguard.agent.report.gathering import RunData, gather
from lossguard.agent.report.html_page import html_report
from lossguard.agent.report.markdown_page import markdown_report
from lossguard.agent.report.summary import paragraph
from lossguard.detectors import Symptom
from lossguard.detectors.advice import ADVICE
from lossguard.home import Home
from tests.support.kept_runs import (
    RUN,
    add_command,
    add_incident,
    add_run,
    add_steps,
    incident,
    troubled,
)

EVIL = "<script>alert(1)</script>\"'`|![x](http://evil.example)\u202e"


class Page(HTMLParser):
    """All tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def data(home: Home, database: sqlite3.Connection) -> RunData:
    """A run with trouble."""
    troubled(database)
    folder = home.state / "incidents" / f"{RUN}.1"
    folder.mkdir(parents=True)
    (folder / "stacks.txt").write_text("Thread <MainThread>\n  train.py:7")
    (folder / "layers.csv").write_text(
        "metric,layer,newest,median_before,ratio\ngrad_norm,<head>,10,0.2,50\n"
    )
    return gather(home, "", lambda share: None)


@pytest.mark.parametrize(
    "said",
    [
        "The run tiny finished after 300 steps",
        "The best validation loss was 2.503, at step 300.",
        "the loss jumps (critical, step 100)",
        "It dropped 2 updates and rolled the run back once, undoing steps 91 to 103.",
        "1 incident still open",
    ],
)
def test_the_paragraph_tells_the_whole_story(data: RunData, said: str) -> None:
    """State, steps, best validation loss, incidents, what was done, whether it was cured."""
    assert said in paragraph(data)


def test_a_healthy_run_that_was_only_watched_is_told_so(
    home: Home, database: sqlite3.Connection
) -> None:
    """And how it was left where its process is gone."""
    add_run(database, policy="observe", state="running", pid=2**22 + 1, name="calm")
    add_steps(database, ((step, {"loss": 2.0}) for step in range(1, 50)))
    said = paragraph(gather(home, "", lambda share: None))
    assert said.startswith("The run calm is gone, and no agent saw how it ended")
    assert said.endswith("Lossguard only watched; it saw nothing wrong.")


def test_many_incidents_are_counted_by_what_they_are(
    home: Home, database: sqlite3.Connection
) -> None:
    """Nobody forwards a list of seventy; of these the sixty worst have a story."""
    add_run(database, policy="observe")
    add_steps(database, ((step, {"loss": 2.0}) for step in range(1, 500)))
    for number in range(1, 71):
        symptom, severity = ("hang", "critical") if number % 10 == 0 else ("loss_spike", "info")
        line = incident(id=f"{RUN}.{number}", symptom=symptom, severity=severity, actions=[])
        add_incident(database, line)
    data = gather(home, "", lambda share: None)
    said = paragraph(data)
    assert "saw 70 incidents: the loss jumps (63 times) and the run stands still (7 times)" in said
    assert "7 of them critical. It changed nothing in the run. All of it is over." in said
    text = Page(html_report(data)).text
    assert "The 60 worst are told; 10 lesser ones left out." in text
    assert text.count("The run stands stillcritical") == 7


@pytest.mark.parametrize(
    "said",
    [
        "Training loss", "Validation loss", "Gradient norm", "Learning rate", "Time of a step",
        "the loss is 30 where 2 is usual", "Began at step 100, noticed 1 step later",
        "the loss was back where it was before", "It was not over when the run ended.",
        "steps 101 to 102 (2 times)", "restored step 90", "train.py:7", "blocks.2",
        ADVICE[Symptom.LOSS_SPIKE].causes[0].split("`")[0],
        ADVICE[Symptom.NONFINITE].fixes[0].split("`")[0], "update skipped", "policy", "train.py",
    ],
)  # fmt: skip
def test_both_formats_tell_every_part(data: RunData, said: str) -> None:
    """Plots, stories with evidence, deeds, outcome and advice, events, environment."""
    assert said.lower() in Page(html_report(data)).text.lower()
    markdown = markdown_report(data, {}, Path()).replace("\\", "")
    assert said.lower() in markdown.lower()


def test_every_plot_marks_incidents_rollback_and_bound_and_the_map_shows_the_layers(
    data: RunData,
) -> None:
    """The points for the script are exact, the spike among them."""
    text = html_report(data)
    page = Page(text)
    plots = [attrs for tag, attrs in page.tags if attrs.get("class") == "plot"]
    marks = [a for tag, a in page.tags if tag == "a" and "mark" in (a.get("class") or "")]
    assert len(marks) == 3 * len(plots)
    assert sum(a.get("class") == "undone" for _, a in page.tags) == len(plots) + 1
    assert 'class="bound"' in text
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    points = json.loads(found)
    loss = points["panels"]["plot-0"]
    assert loss["v"][loss["s"].index(100)] == 30.0
    assert loss["n"] == [200]
    assert points["heats"]["grad_norm"]["names"] == ["embed", "<head>"]
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert all((a["src"] or "").startswith("data:image/png;base64,") and a["alt"] for a in images)
    assert len(images) == 1


def test_a_run_named_like_a_script_is_harmless(home: Home, database: sqlite3.Connection) -> None:
    """In every place that text from a training process can come to."""
    versions = {EVIL: EVIL}
    troubled(database, name=EVIL, script=[EVIL], versions=versions, host=EVIL, policy=EVIL)
    evil = {"message": EVIL, "where": EVIL, "also": [EVIL], "evidence": {EVIL: 1.0}}
    add_incident(database, incident(id=f"{RUN}.3", symptom=EVIL, severity=EVIL, **evil))
    add_command(database, "stop", 250, EVIL, EVIL)
    add_steps(database, [(301, {EVIL: 1.0, "loss": 1.0})])
    data = gather(home, "", lambda share: None)
    text = html_report(data)
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert not {name for _, attrs in page.tags for name in attrs if name.startswith("on")}
    assert "\u202e" not in text
    markdown = markdown_report(data, {}, Path())
    outside_code = re.sub(r"(?s)(`{3,})text\n.*?\n\1", "", markdown)
    assert not re.search(r"(?<!\\)<script", outside_code)
    assert "](http" not in outside_code.replace("\\]", "")


def test_the_page_asks_nothing_of_any_other_place(data: RunData) -> None:
    """No address in it but those of advice to read, and a policy that forbids all requests."""
    page = Page(html_report(data))
    policy = next(a["content"] or "" for _, a in page.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action"):
            place = attrs.get(name) or ""
            assert not place or place.startswith(("data:", "#")), (tag, place)


def test_a_run_without_steps_is_a_page_that_says_so(
    home: Home, database: sqlite3.Connection
) -> None:
    """And so are its plots."""
    add_run(database, state="died")
    data = gather(home, "", lambda share: None)
    for text in (Page(html_report(data)).text, markdown_report(data, {}, Path())):
        assert "no step of it has been measured" in text
        assert "Nothing was measured." in text
        assert "nothing wrong" in text


def test_a_run_of_nothing_but_nan_is_a_page_too(home: Home, database: sqlite3.Connection) -> None:
    """Without a range to draw."""
    add_run(database)
    add_steps(database, ((step, {"loss": float("nan")}) for step in range(1, 50)))
    data = gather(home, "", lambda share: None)
    assert "no finite value in 49 measurements" in Page(html_report(data)).text


def test_what_could_not_be_read_stands_on_the_page(
    home: Home, database: sqlite3.Connection
) -> None:
    """Before anything else is believed."""
    troubled(database)
    database.execute("UPDATE steps SET metrics = x'c1' WHERE step < 4")
    database.commit()
    data = gather(home, "", lambda share: None)
    assert "3 of the steps" in Page(html_report(data)).text
    assert "3 of the steps" in markdown_report(data, {}, Path())


def test_words_and_escapes_are_as_their_examples_say() -> None:
    """The examples in the docstrings."""
    for module in (wording, escaping):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed
