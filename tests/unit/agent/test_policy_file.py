"""A policy file is checked to the last key, and complaints say where and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from lossguard.agent.detector_settings import settings_of
from lossguard.agent.ladder import Rule, Rung
from lossguard.agent.policy_file import find_policy, load_policy, parse_policy, shipped_policy
from lossguard.agent.policy_settings import Policy, detectors_for
from lossguard.agent.policy_text import as_full_toml, as_toml
from lossguard.detectors import (
    CATALOGUE,
    GradSpike,
    Nonfinite,
    Severity,
    Symptom,
    default_detectors,
)
from lossguard.errors import ConfigError, ExitCode
from lossguard.policy_choice import shipped_policies

WHOLE = """\
name = "mine"
base = "guard"
rollback_for = ["divergence"]
nonfinite_tolerance = 3
max_rollbacks = 2
window_steps = 1000
relapse_steps = 0
ladder = [{do = "rollback"}, {do = "lower_lr", factor = 0.5, warmup_steps = 50}]

[[rules]]
symptom = "overfitting"
ladder = [{do = "stop", checkpoint = 1}]

[[rules]]
symptom = ["lr_jump", "loss_scale"]
severity = "warning"
ladder = [{do = "checkpoint"}]

[detectors.grad_spike]
hard_bound = 100      # a whole number where a number is wanted
multiple = 5.5

[detectors.loss_spike]
enabled = false
"""


def complaint(text: str, label: str = "my.toml") -> str:
    """What is said about a document that is wrong."""
    with pytest.raises(ConfigError) as raised:
        parse_policy(text, label)
    assert raised.value.exit_code == ExitCode.CONFIG
    return str(raised.value)


def configs(policy: Policy) -> list[object]:
    """The settings of all its detectors."""
    return [getattr(detector, "config", None) for detector in detectors_for(policy)]


def test_every_key_is_taken_over() -> None:
    """What is written is what the policy says."""
    policy = parse_policy(WHOLE, "my.toml")
    assert policy == Policy(
        name="mine",
        acts=True,
        rollback_for=frozenset({Symptom.DIVERGENCE}),
        nonfinite_tolerance=3,
        max_rollbacks=2,
        window_steps=1000,
        relapse_steps=0,
        ladder=(Rung("rollback"), Rung("lower_lr", {"factor": 0.5, "warmup_steps": 50})),
        rules=(
            Rule(frozenset({Symptom.OVERFITTING}), (Rung("stop", {"checkpoint": 1}),)),
            Rule(
                frozenset({Symptom.LR_JUMP, Symptom.LOSS_SCALE}),
                (Rung("checkpoint"),),
                Severity.WARNING,
            ),
        ),
        disabled=frozenset({Symptom.LOSS_SPIKE}),
        settings={"grad_spike": {"hard_bound": 100.0, "multiple": 5.5}},
    )


def test_an_empty_file_is_the_default() -> None:
    """Observe, and every detector as it comes."""
    policy = parse_policy("", "my.toml")
    assert policy == Policy(name="custom", acts=False)
    kinds = [type(detector) for detector in detectors_for(policy)]
    assert kinds == [type(detector) for detector in default_detectors()]


def test_settings_reach_the_detectors_and_disabled_ones_do_not_run() -> None:
    """All others are built as they come."""
    detectors = {type(detector): detector for detector in detectors_for(parse_policy(WHOLE, "x"))}
    assert set(CATALOGUE.values()) - set(detectors) == {CATALOGUE["loss_spike"]}
    spike = detectors[GradSpike]
    assert isinstance(spike, GradSpike)
    assert (spike.config.hard_bound, spike.config.multiple) == (100.0, 5.5)
    assert spike.config.window == GradSpike().config.window


@pytest.mark.parametrize(("tolerance", "steps"), [(1, 2), (3, 3), (9, 9)])
def test_one_number_says_how_long_nan_is_tolerated(tolerance: int, steps: int) -> None:
    """The detector renews its finding just when the policy wants to act on it."""
    policy = parse_policy(f"nonfinite_tolerance = {tolerance}", "x")
    (nonfinite,) = (d for d in detectors_for(policy) if isinstance(d, Nonfinite))
    assert nonfinite.config.persistent_steps == steps


def test_the_tolerance_may_be_written_at_the_detector() -> None:
    """It is the same number, and two different ones are refused."""
    text = "[detectors.nonfinite]\npersistent_steps = 8\n"
    assert parse_policy(text, "x").nonfinite_tolerance == 8
    said = complaint("nonfinite_tolerance = 3\n" + text)
    assert said.startswith("my.toml:3: detectors.nonfinite.persistent_steps: is 8 where")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nme = 'x'", "my.toml:1: nme: there is no such setting; did you mean 'name'?"),
        ("\nfrobnicate = 1", "my.toml:2: frobnicate: there is no such setting"),
        ("base = 'gard'", 'my.toml:1: base: must be "observe" or "guard", got \'gard\''),
        ("base = true", 'my.toml:1: base: must be "observe" or "guard", got True'),
        ("name = 'a b'", "my.toml:1: name: must be 1 to 40 of A-Z a-z 0-9 . _ -, got 'a b'"),
        ("max_rollbacks = 0", "my.toml:1: max_rollbacks: must be from 1 to"),
        ("window_steps = 1.5", "my.toml:1: window_steps: must be a whole number, got 1.5"),
        ("relapse_steps = true", "my.toml:1: relapse_steps: must be a whole number, got True"),
        ("rollback_for = 'all'", "my.toml:1: rollback_for: must be a list of symptoms"),
        (
            "rollback_for = ['lossspike']",
            "my.toml:1: rollback_for: there is no symptom 'lossspike'; did you mean 'loss_spike'?",
        ),
        ("ladder = 3", "my.toml:1: ladder: must be a list of rungs, got 3"),
        ("ladder = ['rollback']", 'my.toml:1: ladder: a rung is a table like {do = "rollback"}'),
        ("ladder = [{do = 'pray'}]", "my.toml:1: ladder: do must be one of rollback, lower_lr,"),
        ("ladder = [{do = 'rollback', lr = 2}]", "my.toml:1: ladder: lr must be a number from"),
        (
            "ladder = [{do = 'rollback', factor = 2}]",
            "my.toml:1: ladder: factor: rollback takes deeper, lr, warmup_steps",
        ),
        ("rules = [1]", "my.toml:1: rules: must be tables, got 1"),
        ("\n[[rules]]\nladder = [{do = 'stop'}]", "my.toml:2: rules: symptom must name at least"),
        ("[[rules]]\nsymptom = 'plateau'", "my.toml:1: rules: ladder must have at least one rung"),
        (
            "[[rules]]\nsymptom = 'platau'\nladder = [{do = 'stop'}]",
            "my.toml:2: rules.symptom: there is no symptom 'platau'; did you mean 'plateau'?",
        ),
        (
            "[[rules]]\nsymptom = 'plateau'\nseverity = 'bad'\nladder = [{do = 'stop'}]",
            "my.toml:3: rules.severity: must be a severity, got 'bad'",
        ),
        (
            "[[rules]]\nsymptoms = 'plateau'",
            "my.toml:2: rules.symptoms: there is no such setting; did you mean 'symptom'?",
        ),
        ("detectors = 3", "my.toml:1: detectors: must be a table, got 3"),
        (
            "# a\n[detectors.gradspike]",
            "my.toml:2: detectors.gradspike: there is no such detector; did you mean 'grad_spike'?",
        ),
        ("[detectors]\ngrad_spike = 1", "my.toml:2: detectors.grad_spike: must be a table, got 1"),
        (
            "[detectors.grad_spike]\nmultipl = 3",
            "my.toml:2: detectors.grad_spike.multipl: there is no such setting; "
            "did you mean 'multiple'?",
        ),
        (
            "[detectors.grad_spike]\n\nhard_bound = 'a'",
            "my.toml:3: detectors.grad_spike.hard_bound: must be a number, got 'a'",
        ),
        (
            "[detectors.grad_spike]\nwindow = 8.5",
            "my.toml:2: detectors.grad_spike.window: must be a whole number, got 8.5",
        ),
        (
            "[detectors.grad_spike]\nmultiple = true",
            "my.toml:2: detectors.grad_spike.multiple: must be a number, got true",
        ),
        (
            "[detectors.grad_spike]\nmultiple = nan",
            "my.toml:2: detectors.grad_spike.multiple: must be a number, got nan",
        ),
        (
            "[detectors.grad_spike]\nenabled = 'no'",
            "my.toml:2: detectors.grad_spike.enabled: must be true or false, got 'no'",
        ),
        (
            "[detectors.grad_spike]\ntail = 64\nwindow = 2",
            "my.toml:3: detectors.grad_spike.window: window must be >= 8, got 2",
        ),
        (
            "detectors.grad_spike = { window = 2 }",
            "my.toml:1: detectors.grad_spike.window: window must be >= 8, got 2",
        ),
        ("a = \n", "my.toml:1: is no TOML: "),
        ('a = 1\nb = "\n', "my.toml:2: is no TOML: "),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_was_meant(text: str, said: str) -> None:
    """The file, the line, the key, the value."""
    assert complaint(text).startswith(said)


def test_all_mistakes_are_named_at_once() -> None:
    """Nobody has to run it again for the next one."""
    said = complaint("nme = 1\nbase = 2\n[detectors.loss_spike]\nwindow = 1\nno = 2")
    assert [line.split(":")[1] for line in said.splitlines()] == ["1", "2", "5"]


@pytest.mark.parametrize("depth", [100, 20_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    """A policy may come from another machine."""
    assert complaint("a = " + "[" * depth).startswith("my.toml:")


@pytest.mark.parametrize("name", shipped_policies())
def test_a_policy_reads_back_as_it_was_written(name: str) -> None:
    """As it travels, and in full."""
    policy = shipped_policy(name)
    assert parse_policy(as_toml(policy), "x") == policy
    assert configs(parse_policy(as_full_toml(policy), "x")) == configs(policy)


def test_a_policy_with_everything_reads_back() -> None:
    """Also what is disabled, and settings."""
    policy = parse_policy(WHOLE, "x")
    assert parse_policy(as_toml(policy), "x") == policy
    full = parse_policy(as_full_toml(policy), "x")
    assert (configs(full), full.disabled) == (configs(policy), policy.disabled)


def test_the_full_text_has_every_setting() -> None:
    """Of every detector, also those that are off."""
    text = as_full_toml(parse_policy("", "x"))
    for symptom, kind in CATALOGUE.items():
        assert f"[detectors.{symptom}]" in text
        for setting in settings_of(kind):
            assert f"{setting.name} = " in text or f"# {setting.name} is not set" in text


def test_guard_and_observe_are_the_defaults() -> None:
    """The shipped files say what the code says."""
    assert shipped_policy("guard") == Policy(name="guard", acts=True)
    assert shipped_policy("observe") == Policy(name="observe", acts=False)


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    """Where it does not name itself; ``lossguard.toml`` is no name for a policy."""
    (tmp_path / "night-shift.toml").write_text("base = 'guard'")
    (tmp_path / "lossguard.toml").write_text("base = 'guard'")
    assert find_policy(str(tmp_path / "night-shift.toml")).name == "night-shift"
    assert find_policy(str(tmp_path / "lossguard.toml")).name == "custom"


def test_the_table_of_a_pyproject_is_read_and_nothing_else_of_it(tmp_path: Path) -> None:
    """Errors name the line in that file."""
    project = tmp_path / "pyproject.toml"
    project.write_text("[project]\nname = 'theirs'\n\n[tool.lossguard]\nbase = 'guard'\n")
    assert load_policy(project) == Policy(name="custom", acts=True)
    project.write_text("base = 1\n[tool.lossguard]\n[tool.lossguard.detectors.grad_spike]\nx = 1")
    with pytest.raises(ConfigError, match=r"pyproject.toml:4: detectors.grad_spike.x: there is"):
        load_policy(project)
    project.write_text("[tool.other]\n")
    with pytest.raises(ConfigError, match=r"there is no table \[tool.lossguard\]"):
        load_policy(project)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff\xfe", "is not UTF-8"), (b"# " + b"x" * 70_000, "is longer than 64 KiB")],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    """By name."""
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_policy(path)


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path: Path) -> None:
    """With what the system says."""
    with pytest.raises(ConfigError, match=r"nowhere.toml: cannot be read \(No such file"):
        find_policy(str(tmp_path / "nowhere.toml"))
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        load_policy(tmp_path)


def test_a_switch_of_a_rung_may_be_true_or_false() -> None:
    """It travels as 1 or 0, as it does from the command line."""
    policy = parse_policy('base = "guard"\nladder = [{do = "rollback", replay = true}]', "my.toml")
    assert policy.ladder == (Rung("rollback", {"replay": 1}),)
    assert parse_policy(as_toml(policy), "again").ladder == policy.ladder
    assert "deeper must be a whole number" in complaint(
        'base = "guard"\nladder = [{do = "rollback", deeper = true}]'
    )
