"""When the terminal's bell rings: a critical incident that is new, and that nobody has answered."""

from __future__ import annotations

from lossguard.agent import feed


class Bell:
    """Rings once an incident of the run on show, and once a run whose trouble is elsewhere."""

    def __init__(self) -> None:
        self._run: str | None = None
        self._known: set[str] = set()

    def rings(self, picture: feed.Picture) -> bool:
        """Whether there is something new. What is there as a run is opened is seen anyway."""
        critical = {
            one.id
            for one in picture.incidents
            if one.state == "open" and one.severity == "critical" and not (one.acked or one.muted)
        }
        critical |= {
            run.run for run in picture.runs if run.worst == "critical" and run.run != picture.run
        }
        is_new = picture.run == self._run and not critical <= self._known
        self._run, self._known = picture.run, critical
        return is_new
