"""When people sleep."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class QuietHours:
    """From a minute of the day to another one, over midnight where it is the smaller."""

    begin: int
    end: int
    zone: tzinfo | None

    @classmethod
    def parse(cls, hours: str, timezone: str) -> QuietHours | None:
        """From ``22:00-07:00``; None for the empty string. Raises ValueError."""
        try:
            zone = ZoneInfo(timezone) if timezone else None
        except (KeyError, OSError, ValueError) as error:
            raise ValueError(f"timezone: there is no {timezone!r}") from error
        if not hours:
            return None
        found = _HOURS.fullmatch(hours)
        if found is None:
            raise ValueError(f"quiet_hours: {hours!r} is not like 22:00-07:00")
        first, second, third, fourth = map(int, found.groups())
        return cls(first * 60 + second, third * 60 + fourth, zone)

    def end_of(self, time_s: float) -> float:
        """When the quiet hours about a moment end; that moment itself outside of them [s]."""
        local = datetime.fromtimestamp(time_s, self.zone)
        minute = local.hour * 60 + local.minute
        over_midnight = self.end <= self.begin
        inside = (
            minute >= self.begin or minute < self.end
            if over_midnight
            else self.begin <= minute < self.end
        )
        if not inside:
            return time_s
        day = local + timedelta(days=1) if over_midnight and minute >= self.begin else local
        end = day.replace(hour=self.end // 60, minute=self.end % 60, second=0, microsecond=0)
        return end.timestamp()
