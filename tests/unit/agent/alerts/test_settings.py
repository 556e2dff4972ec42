"""``[slack]`` and ``[alerts]`` of agent.toml."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from lossguard.agent.alerts.quiet_hours import QuietHours
from lossguard.agent.settings import parse_settings
from lossguard.errors import ConfigError


def test_nothing_has_to_be_set_and_everything_can_be() -> None:
    assert parse_settings("", "x").slack.channel == ""
    found = parse_settings(
        '[slack]\nchannel = "C01"\ncritical_channel = "C02"\nmention_critical = ["here", "U01AB"]\n'
        '[alerts]\nseverities = ["critical"]\nquiet_hours = "22:00-07:00"\n'
        'timezone = "Europe/Berlin"\nmax_per_run_hour = 8\nrun_finished = true\n',
        "x",
    )
    assert found.slack.mention_critical == ("here", "U01AB")
    assert found.alerts.severities == ("critical",)
    assert found.alerts.run_finished


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('[slack]\nchanel = "C01"', r"x:2: slack\.chanel.*'channel'"),
        ('[slack]\nmention_critical = ["everybody!"]', "everybody!"),
        ('[slack]\ntoken_file = "xoxb-1-2-abc"', "a secret stands in the settings"),
        ('[slack]\nwebhook_url_file = "https://hooks.slack.com/services/T/B/x"', "a secret"),
        ('[alerts]\nseverities = ["loud"]', "loud"),
        ('[alerts]\nquiet_hours = "22-7"', "is not like 22:00-07:00"),
        ('[alerts]\nquiet_hours = "22:00-07:00"\ntimezone = "Moon/Crater"', "Moon/Crater"),
        ("[alerts]\nfor_s = -1", "for_s"),
        ("[alerts]\nmax_per_run_hour = 1", "max_per_run_hour"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        parse_settings(text, "x")
    assert "xoxb-1-2-abc" not in str(caught.value)


def at(hour: int, minute: int = 0, day: int = 10) -> float:
    return datetime(2026, 6, day, hour, minute, tzinfo=timezone.utc).timestamp()


@pytest.mark.parametrize(
    ("hours", "now", "end"),
    [
        ("22:00-07:00", at(23), at(7, day=11)),
        ("22:00-07:00", at(3), at(7)),
        ("22:00-07:00", at(7), at(7)),
        ("22:00-07:00", at(21, 59), at(21, 59)),
        ("09:30-17:00", at(9, 30), at(17)),
        ("09:30-17:00", at(9, 29), at(9, 29)),
    ],
)
def test_quiet_hours_end_when_they_say(hours: str, now: float, end: float) -> None:
    found = QuietHours.parse(hours, "UTC")
    assert found is not None
    assert found.end_of(now) == end


def test_quiet_hours_are_those_of_their_time_zone() -> None:
    found = QuietHours.parse("22:00-07:00", "Asia/Tokyo")
    assert found is not None
    assert found.end_of(at(14)) == at(22)  # 23:00 in Tokyo
