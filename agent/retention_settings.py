"""The table ``[retention]`` of agent.toml."""

from __future__ import annotations

from typing import Annotated

import msgspec

KEPT_RUNS = 200


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[retention]``: what is kept. Runs that go on are never forgotten."""

    runs: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = KEPT_RUNS
    """The newest so many."""
    days: Annotated[float, msgspec.Meta(gt=0.0)] = 365.0
    """A run that is over goes when it was heard of last so long ago."""
    max_mib: Annotated[int, msgspec.Meta(ge=16)] = 4096
    """The database and the folders of incidents together [MiB]: the oldest runs go first."""
