"""Slack's Web API and its incoming webhooks, through slack_sdk, without its sleeping retries."""

from __future__ import annotations

import http.client
import logging
import os
from typing import Any

from lossguard.agent.alerts.journal import Place
from lossguard.agent.alerts.picture import picture_of
from lossguard.agent.alerts.rendering import Edit, Outgoing, Picture, Post, Whisper
from lossguard.agent.alerts.secrecy import TOKEN, WEBHOOK, secret
from lossguard.agent.alerts.settings import SlackSettings
from lossguard.agent.alerts.transport import Never, NotNow
from lossguard.agent.loopback import is_in_the_clear, is_loopback_url
from lossguard.errors import ConfigError

API_URL = "LOSSGUARD_SLACK_API_URL"
_TIMEOUT_S = 15
BAD_TOKEN = frozenset((
    "invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired",
    "not_allowed_token_type", "no_permission", "org_login_required", "access_denied",
))  # fmt: skip
_BAD_CHANNEL = {
    "channel_not_found": "Slack knows no channel {0!r}, or the app is not in it: check "
    "[slack] channel, and say /invite @your-app in the channel",
    "not_in_channel": "the app is not in the channel {0!r}: say /invite @your-app in it",
    "is_archived": "the channel {0!r} is archived: name another one in [slack], or unarchive it",
    "restricted_action": "the workspace does not let the app write to {0!r}",
}
_TRY_AGAIN = frozenset((
    "internal_error", "fatal_error", "service_unavailable", "request_timeout", "ratelimited",
    "rate_limited", "team_added_to_org", "accesslimited", "upload_failed",
))  # fmt: skip


class SlackBot:
    """By bot token: threads, changes, pictures."""

    has_threads = True

    def __init__(self, settings: SlackSettings) -> None:
        self._settings = settings
        self._client: Any = None
        self._has_files = True

    def connect(self) -> str:
        from slack_sdk import WebClient
        from slack_sdk.errors import SlackClientError

        token = needed_secret(TOKEN, self._settings.token_file)
        if not self._settings.channel:
            why = "there is no channel: set channel in the table [slack] of agent.toml"
            raise NotNow(why, is_setup=True)
        base_url = api_url()
        client = WebClient(
            token, base_url=base_url, timeout=_TIMEOUT_S, retry_handlers=[], logger=quiet_logger()
        )
        if is_loopback_url(base_url):
            client.proxy = None
        try:
            answer = client.auth_test()
        except (SlackClientError, OSError, http.client.HTTPException, ValueError) as error:
            raise trouble_of(error, "", "chat:write") from error
        scopes = _header(answer.headers, "x-oauth-scopes")
        if scopes and "chat:write" not in scopes.split(","):
            raise NotNow(_missing("chat:write"), is_setup=True)
        self._has_files = not scopes or "files:write" in scopes.split(",")
        self._client = client
        return f"Slack, as {answer.get('user')} in {answer.get('team')}"

    def channel_for(self, *, is_critical: bool) -> str:
        critical = self._settings.critical_channel
        return critical if is_critical and critical else self._settings.channel

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        from slack_sdk.errors import SlackClientError

        scope = "files:write" if isinstance(what, Picture) else "chat:write"
        if self._client is None:
            self.connect()
        try:
            return self._call(what, channel, place)
        except (SlackClientError, OSError, http.client.HTTPException, ValueError) as error:
            trouble = trouble_of(error, channel, scope)
            if isinstance(trouble, NotNow) and trouble.channel and isinstance(what, Whisper):
                raise Never(str(trouble)) from error
            if isinstance(trouble, NotNow) and trouble.is_setup and not trouble.channel:
                self._client = None  # the next try reads the token anew
            raise trouble from error

    def _call(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        if isinstance(what, Picture):
            self._upload(what, place)
            return None
        if isinstance(what, Whisper):
            self._client.chat_postEphemeral(channel=what.channel, user=what.user, text=what.text)
            return None
        if isinstance(what, Edit):
            if place is not None:
                self._client.chat_update(
                    channel=place.channel, ts=place.ts, text=what.text, blocks=what.blocks
                )
            return None
        answer = self._client.chat_postMessage(
            channel=place.channel if place is not None else channel,
            text=what.text,
            blocks=what.blocks or None,
            thread_ts=place.ts if place is not None else None,
            reply_broadcast=True if place is not None and what.is_loud else None,
            unfurl_links=False,
            unfurl_media=False,
        )
        return Place(str(answer["channel"]), str(answer["ts"]))

    def _upload(self, what: Picture, place: Place | None) -> None:
        if place is None or not self._has_files:
            raise Never(_missing("files:write") if place else "the thread of a picture is gone")
        line = what.news.line
        title = f"{line.metric} about step {line.onset_step:,}"
        self._client.files_upload_v2(
            channel=place.channel,
            thread_ts=place.ts,
            content=picture_of(what.news),
            filename=f"{line.id}.png",
            title=title,
            alt_txt=f"{title}: {line.message}"[:1000],
        )


class SlackWebhook:
    """By incoming webhook: messages to one channel, which cannot be answered or changed."""

    has_threads = False

    def __init__(self, settings: SlackSettings) -> None:
        self._settings = settings

    def connect(self) -> str:
        _webhook_url(self._settings)
        return "Slack, by an incoming webhook"

    def channel_for(self, *, is_critical: bool) -> str:
        return "webhook"

    def deliver(self, what: Outgoing, channel: str, place: Place | None) -> Place | None:
        from slack_sdk.errors import SlackClientError
        from slack_sdk.webhook import WebhookClient

        if not (isinstance(what, Post) and what.stands_alone):
            return None
        url = _webhook_url(self._settings)
        client = WebhookClient(url, timeout=_TIMEOUT_S, retry_handlers=[], logger=quiet_logger())
        if is_loopback_url(url):
            client.proxy = None
        try:
            body = {"text": what.text, **({"blocks": what.blocks} if what.blocks else {})}
            answer = client.send_dict(body)
        except (SlackClientError, OSError, http.client.HTTPException, ValueError) as error:
            raise trouble_of(error, "", "") from error
        if answer.status_code != 200:
            raise _of_status(answer.status_code, answer.headers, answer.body, "the webhook's")
        return None


def needed_secret(variable: str, file: str) -> str:
    try:
        found = secret(variable, file)
    except ConfigError as error:
        raise NotNow(str(error), is_setup=True) from error
    if not found:
        why = f"there is no secret: set {variable}, or name a file of mode 0600 in [slack]"
        raise NotNow(why, is_setup=True)
    return found


def _webhook_url(settings: SlackSettings) -> str:
    url = needed_secret(WEBHOOK, settings.webhook_url_file)
    if is_in_the_clear(url):
        why = f"{WEBHOOK} is no https address"
        raise NotNow(why, is_setup=True)
    return url


def api_url() -> str:
    """Slack's, or another one for tests: a token goes over no network in the clear."""
    url = os.environ.get(API_URL, "https://slack.com/api/")
    if is_in_the_clear(url):
        why = f"{API_URL} must begin with https://"
        raise NotNow(why, is_setup=True)
    return url


def quiet_logger() -> logging.Logger:
    """slack_sdk logs requests with what is in them; what went wrong is ours to say."""
    quiet = logging.getLogger("lossguard.slack_sdk")
    quiet.propagate = False
    quiet.setLevel(logging.CRITICAL)
    return quiet


def _missing(scope: str) -> str:
    return f"the Slack app lacks the scope {scope}: add it under OAuth & Permissions, and reinstall"


def _header(headers: Any, name: str) -> str:
    """By its name in any case; slack_sdk gives them as they came."""
    for key, value in dict(headers or {}).items():
        if str(key).lower() == name:
            return str(value[0] if isinstance(value, list) else value)
    return ""


def trouble_of(error: Exception, channel: str, scope: str) -> NotNow | Never:
    """What an exception of slack_sdk or of the network means."""
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is None or status is None:
        return NotNow(f"Slack cannot be reached ({type(error).__name__}: {error})")
    data = response.data if isinstance(response.data, dict) else {}
    code = str(data.get("error", ""))
    if status != 200 or not code:
        return _of_status(status, response.headers, code, "Slack's")
    if code in BAD_TOKEN:
        why = f"Slack does not take the bot token ({code}): set {TOKEN} to a valid xoxb token"
        return NotNow(why, is_setup=True)
    if code == "missing_scope":
        needed = str(data.get("needed") or scope)
        if scope == "files:write":
            return Never(_missing(needed))
        return NotNow(_missing(needed), is_setup=True)
    if code in _BAD_CHANNEL:
        why = _BAD_CHANNEL[code].format(channel)
        return NotNow(why, channel=channel, is_setup=True)
    if code in _TRY_AGAIN:
        return NotNow(f"Slack says {code}", after_s=_retry_after(response.headers))
    return Never(f"Slack says {code}")


def _of_status(status: int, headers: Any, body: str, whose: str) -> NotNow | Never:
    said = f"{whose} answer is {status}" + (f" ({body[:200]})" if body else "")
    if status == 429:
        return NotNow(f"{said}: too many messages", after_s=_retry_after(headers) or 30.0)
    if status >= 500:
        return NotNow(said, after_s=_retry_after(headers))
    if status in (401, 403, 404, 410):
        return NotNow(f"{said}: check the address, the token and the channel", is_setup=True)
    return Never(said)


def _retry_after(headers: Any) -> float | None:
    try:
        return max(1.0, float(_header(headers, "retry-after")))
    except ValueError:
        return None


def transport_for(slack: SlackSettings) -> SlackBot | SlackWebhook:
    """By bot token where there is one, else by webhook where there is one."""
    by_token = bool(os.environ.get(TOKEN) or slack.token_file)
    by_webhook = bool(os.environ.get(WEBHOOK) or slack.webhook_url_file)
    return SlackWebhook(slack) if by_webhook and not by_token else SlackBot(slack)
