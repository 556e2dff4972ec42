"""JSON lines, arrays of records, and what Hugging Face saves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from lossguard.agent.logs import LogOptions
from lossguard.agent.logs.json_document import JsonDocument
from lossguard.agent.logs.names import Recogniser
from lossguard.errors import InputError
from tests.support.logs import points, read

RECORDS: list[dict[str, object]] = [
    {"loss": 3.0, "learning_rate": 0.1, "epoch": 0.1, "step": 10},
    {"eval_loss": 2.9, "eval_runtime": 1.0, "epoch": 0.1, "step": 10},
    {"loss": 2.0, "learning_rate": 0.2, "epoch": 0.2, "step": 20},
    {"train_runtime": 5.0, "train_loss": 2.5, "epoch": 0.2, "step": 20},
]
EXPECTED = [
    (10, {"loss": 3.0, "lr": 0.1, "epoch": 0.1, "val_loss": 2.9}),
    (20, {"loss": 2.0, "lr": 0.2, "epoch": 0.2}),
]


def lines(records: list[dict[str, object]]) -> str:
    """One a line."""
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (lines(RECORDS), "JSON lines"),
        (json.dumps(RECORDS), "JSON document"),
        (json.dumps(RECORDS, indent=2), "JSON document"),
        (json.dumps({"best": None, "log_history": RECORDS}), "Hugging Face trainer state"),
        (json.dumps({"a": [1], "log_history": RECORDS}, indent=2), "Hugging Face trainer state"),
        (json.dumps({"history": RECORDS}), "JSON document"),
    ],
    ids=["lines", "array", "indented", "state", "indented state", "inside"],
)
def test_losses_and_evaluations_of_one_step_are_one_observation(
    tmp_path: Path, content: str, kind: str
) -> None:
    """Whatever the shape; and the final mean under ``train_loss`` is no loss of a step."""
    log, rows = read(tmp_path, content, "log")
    assert points(rows) == EXPECTED
    assert log.source.format == kind


def test_nested_keys_are_joined(tmp_path: Path) -> None:
    """``{"train": {"loss": 1}}`` is ``train/loss``."""
    record = {"step": 1, "train": {"loss": 2.0, "grad_norm": {"a.weight": 0.5}}, "val": {"loss": 3}}
    _, rows = read(tmp_path, lines([record]), "log")
    assert points(rows) == [(1, {"loss": 2.0, "val_loss": 3.0})]
    assert list(rows[0].families["grad_norm"].names) == ["a.weight"]


def test_what_is_not_finite_is_a_value_however_it_is_written(tmp_path: Path) -> None:
    """As Python writes it, as a string; ``null`` is missing."""
    text = (
        '{"step": 1, "loss": NaN}\n{"step": 2, "loss": "nan"}\n{"step": 3, "loss": -Infinity}\n'
        '{"step": 4, "loss": null}\n{"step": 5, "loss": "tensor(2.5, device=\'cuda:0\')"}\n'
    )
    _, rows = read(tmp_path, text, "log")
    assert math.isnan(rows[0].values["loss"])
    assert math.isnan(rows[1].values["loss"])
    assert rows[2].values["loss"] == -math.inf
    assert rows[3].values == {}
    assert rows[4].values["loss"] == 2.5


def test_the_learning_rate_of_the_first_group_is_taken(tmp_path: Path) -> None:
    """Schedulers give one for each."""
    _, rows = read(tmp_path, '{"step": 1, "loss": 2, "lr": [0.1, 0.2]}\n', "log")
    assert rows[0].values["lr"] == 0.1


def test_lines_that_are_no_records_are_counted(tmp_path: Path) -> None:
    """Cut off, text, another type, a word for a number."""
    text = (
        '{"step": 1, "loss": 2.0}\n{"step": 2, "lo\nTraceback\n[1]\n'
        '{"step": 3, "loss": "high"}\n{"step": 4, "loss": 1.0}\n' + "[" * 100_000 + "\n"
    )
    log, rows = read(tmp_path, text, "log")
    assert [row.step for row in rows] == [1, 4]
    assert [line for line, _ in log.account().troubles.examples] == [2, 3, 4, 5, 7]


def test_a_metric_that_turns_up_late_is_taken_up(tmp_path: Path) -> None:
    """After it was decided which key is which."""
    records: list[dict[str, object]] = [{"step": i, "loss": 2.0} for i in range(1000)]
    records.append({"step": 1000, "val_loss": 1.5, "grad_norm/a": 0.5})
    log, rows = read(tmp_path, lines(records), "log")
    assert rows[-1].values == {"val_loss": 1.5}
    assert rows[-1].families["grad_norm"].values.tolist() == [0.5]
    assert log.account().columns["val_loss"] == "val_loss"


def test_a_key_that_the_user_names_may_turn_up_late(tmp_path: Path) -> None:
    """It is missed only where the whole file is known."""
    records: list[dict[str, object]] = [{"step": i, "loss": 2.0} for i in range(1000)]
    records.append({"step": 1000, "mine": 1.5})
    options = LogOptions(columns={"val_loss": "mine"})
    _, rows = read(tmp_path, lines(records), "log", options)
    assert rows[-1].values == {"val_loss": 1.5}
    with pytest.raises(InputError, match="no column 'mine'"):
        read(tmp_path, lines(records[:5]), "log", options)


@pytest.mark.parametrize("size", [1, 7, 64, 1 << 18])
def test_a_document_may_be_cut_into_pieces_anywhere(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read piece by piece; no record is lost between two."""
    monkeypatch.setattr("lossguard.agent.logs.stream._CHUNK", size)
    records = [{"step": i, "loss": 2.0 + i / 7, "note": 'a "quoted" ]}'} for i in range(200)]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"epoch": 1.0, "log_history": records, "end": [1, 2]}))
    source = JsonDocument(path, Recogniser())
    found = [record for _, record in source.records()]
    assert found == [{"step": r["step"], "loss": r["loss"]} for r in records]
    assert source.troubles.count == 0


def test_a_document_that_is_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    """A crash while it was saved."""
    text = json.dumps({"log_history": RECORDS})
    log, rows = read(tmp_path, text[: text.index("20}")], "trainer_state.json")
    assert points(rows) == EXPECTED[:1]
    assert log.account().troubles.examples == [(3, "the document is cut off")]


def test_a_broken_record_in_a_document_costs_only_itself(tmp_path: Path) -> None:
    """Reading goes on with the next one."""
    text = '[{"step": 1, "loss": 2.0}, {"step": 2, loss: 5}, {"step": 3, "loss": 1.0}]' + " " * 40
    log, rows = read(tmp_path, text, "log")
    assert points(rows) == [(1, {"loss": 2.0}), (3, {"loss": 1.0})]
    assert log.account().troubles.count == 1


def test_an_object_of_arrays_is_read_by_index(tmp_path: Path) -> None:
    """As a history of Keras is saved."""
    _, rows = read(tmp_path, '{"loss": [3, 2], "val_loss": [4.0, 3.0], "n": 2}', "log")
    assert points(rows) == [
        (0, {"loss": 3.0, "val_loss": 4.0}),
        (1, {"loss": 2.0, "val_loss": 3.0}),
    ]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ('{"step": 1, "mood": 2}\n{"step": 2, "mood": 2}\n', r"none of the keys"),
        ('[{"a": 1}]', r"none of the keys \(a\)"),
        ("[]", "none of the keys"),
        ('{"model": "x", "layers": 2}', "none of the keys"),
        ("{", "not one record could be read|none of the keys"),
    ],
)
def test_json_without_metrics_is_refused(tmp_path: Path, content: str, why: str) -> None:
    """With the keys that there are."""
    with pytest.raises(InputError, match=why):
        read(tmp_path, content, "log.json")
