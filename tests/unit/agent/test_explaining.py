"""``lossguard explain``: by any name, in any width, and the page that is made of the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from lossguard.agent.detector_settings import settings_of
from lossguard.agent.explaining import explain_symptom, list_symptoms, symptom_named
from lossguard.agent.symptom_page import page
from lossguard.detectors import CATALOGUE, Symptom
from lossguard.detectors.advice import ADVICE
from lossguard.errors import ExitCode, UsageError

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize(
    ("name", "symptom"),
    [
        ("nonfinite", Symptom.NONFINITE),
        ("NaN", Symptom.NONFINITE),
        ("loss-spike", Symptom.LOSS_SPIKE),
        ("Loss Spike", Symptom.LOSS_SPIKE),
        ("oscil", Symptom.OSCILLATION),
        ("dying relu", Symptom.DEAD_UNITS),
        ("oom", Symptom.MEMORY_GROWTH),
    ],
)
def test_a_symptom_is_found_by_what_people_call_it(name: str, symptom: Symptom) -> None:
    """Its name with dashes or blanks, the start of it, another word for it."""
    assert symptom_named(name) is symptom


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("los_spike", "did you mean loss_spike"),
        ("plato", "did you mean plateau"),
        ("loss", "did you mean loss_spike or loss_scale"),
        ("xyzzy", "`lossguard explain` lists them all"),
        ("", "`lossguard explain` lists them all"),
    ],
)
def test_an_unknown_one_is_answered_with_the_nearest(name: str, said: str) -> None:
    """It is a mistake in the command line."""
    with pytest.raises(UsageError, match=said) as raised:
        symptom_named(name)
    assert raised.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("symptom", list(Symptom))
@pytest.mark.parametrize("width", [60, 80, 300])
def test_it_fits_the_terminal_and_says_everything(
    symptom: Symptom,
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No line is too long, none ends in blanks, no word of the advice is lost."""
    monkeypatch.setenv("COLUMNS", str(width))
    explain_symptom(symptom.value, as_json=False)
    shown = capsys.readouterr().out
    assert max(map(cell_len, shown.splitlines())) <= min(width, 100)
    assert not any(line.endswith(" ") for line in shown.splitlines())
    advice = ADVICE[symptom]
    words = shown.split()
    for sentence in (advice.meaning, advice.looks, advice.guard, *advice.causes, *advice.fixes):
        assert set(sentence.split()) <= set(words), sentence


def test_colours_are_for_terminals_that_want_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code stands between backticks where it has no colour."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    explain_symptom("nonfinite", as_json=False)
    coloured = capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    explain_symptom("nonfinite", as_json=False)
    plain = capsys.readouterr().out
    assert "\x1b[32m" in coloured
    assert "`" not in coloured
    assert "\x1b[3" not in plain
    assert "`ignore_index`" in plain


def test_defaults_are_the_detectors_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting, its default and what its docstring says."""
    explain_symptom("grad_spike", as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in told["settings"]] == [
        setting.name for setting in settings_of(CATALOGUE["grad_spike"])
    ]
    by_name = {s["name"]: s for s in told["settings"]}
    assert by_name["multiple"]["default"] == 10.0
    assert by_name["multiple"]["doc"].startswith("Multiple of the median that makes a hit")
    assert by_name["hard_bound"]["default"] is None
    assert told["needs"] == list(CATALOGUE["grad_spike"].inputs)


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    """For people and for scripts."""
    list_symptoms(as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(Symptom)]] == [str(s) for s in Symptom]
    list_symptoms(as_json=True)
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [o["symptom"] for o in objects] == [str(s) for s in Symptom]


def test_the_page_in_the_docs_is_the_one_that_is_made() -> None:
    """After a change of advice or thresholds: python docs/make_symptoms.py."""
    assert (DOCS / "symptoms.md").read_text(encoding="utf-8") == page(DOCS)


def test_a_picture_is_shown_where_there_is_one(tmp_path: Path) -> None:
    """And nowhere else: no dead links."""
    assert "![" not in page(tmp_path)
    (tmp_path / "symptoms").mkdir()
    (tmp_path / "symptoms" / "plateau.png").write_bytes(b"")
    assert page(tmp_path).count("![") == 1
    assert "](symptoms/plateau.png)" in page(tmp_path)
