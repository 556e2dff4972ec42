"""The tables ``[webhook]`` and ``[apprise]`` of agent.toml. No secret stands in them."""

from __future__ import annotations

import msgspec

URL, KEY = "LOSSGUARD_WEBHOOK_URL", "LOSSGUARD_WEBHOOK_SECRET"
APPRISE = "LOSSGUARD_APPRISE_URLS"
_NO_FILE = "a URL stands in the settings: put it into a file of mode 0600, and its path here"


class WebhookSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Events as signed JSON, for programs."""

    url_file: str = ""
    """Holds the URL, where LOSSGUARD_WEBHOOK_URL does not. Mode 0600."""
    secret_file: str = ""
    """Holds the key of the signatures, where LOSSGUARD_WEBHOOK_SECRET does not. Mode 0600."""

    def __post_init__(self) -> None:
        if "://" in self.url_file:
            raise ValueError(f"url_file: {_NO_FILE}")
        if self.secret_file.startswith("whsec_"):
            raise ValueError("secret_file: the key itself stands there; name a file that holds it")


class AppriseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """E-mail, Discord, Teams, PagerDuty and whatever else Apprise knows."""

    urls_file: str = ""
    """Holds Apprise's URLs, one a line, where LOSSGUARD_APPRISE_URLS does not. Mode 0600."""

    def __post_init__(self) -> None:
        if "://" in self.urls_file:
            raise ValueError(f"urls_file: {_NO_FILE}")
