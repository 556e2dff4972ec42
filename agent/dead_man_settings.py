"""The table ``[dead_man]`` of agent.toml."""

from __future__ import annotations

from typing import Annotated

import msgspec

URL = "LOSSGUARD_DEAD_MAN_URL"


class DeadManSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The URL is a secret, and stands in a file or in LOSSGUARD_DEAD_MAN_URL. Without one
    nothing is pinged."""

    url_file: str = ""
    """Holds the URL, where LOSSGUARD_DEAD_MAN_URL does not. Mode 0600."""
    interval_s: Annotated[float, msgspec.Meta(ge=1.0, le=86_400.0)] = 60.0
    """Between two pings. The other side should wait for two or three of them."""
