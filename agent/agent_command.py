"""``lossguard agent``: what it is started with, from the command line and ``agent.toml``."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import msgspec

from lossguard.agent.daemon import IDLE_EXIT_S, AgentOptions, run_agent
from lossguard.agent.keyring import Keyring
from lossguard.agent.listening import check_listening
from lossguard.agent.outlets import OutletOptions
from lossguard.agent.policy_file import find_policy
from lossguard.agent.policy_text import as_toml
from lossguard.agent.prometheus.settings import PrometheusSettings
from lossguard.agent.settings import AgentSettings, load_settings
from lossguard.errors import ConfigError
from lossguard.home import find_home


def serve(
    *,
    background: bool,
    idle_s: float | None,
    listen: str,
    anywhere: bool,
    metrics: str,
    state: str,
    policy: str | None,
) -> None:
    """Serve until told to stop. Raises ConfigError, and AgentAlreadyRunning."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    home = find_home().here
    if state:
        home = replace(home, state=Path(state).expanduser().absolute())
    settings = load_settings(home)
    listens = settings.listen
    if listen:
        listens = msgspec.structs.replace(listens, tcp=listen, anywhere=anywhere)
    elif anywhere:
        listens = msgspec.structs.replace(listens, anywhere=True)
    if listens.tcp:
        check_listening(listens, Keyring(home))
    serves = _outlets(settings, metrics)
    options = AgentOptions(
        idle_exit_s=idle_s or (IDLE_EXIT_S if background else None),
        settings=msgspec.structs.replace(settings, listen=listens),
        outlets=serves,
        policy_text=as_toml(find_policy(policy)) if policy else "",
    )
    run_agent(home, options)


def _outlets(settings: AgentSettings, metrics: str) -> OutletOptions:
    """An address on the command line must be served; one in the settings need not be taken by
    somebody else for training to go unwatched."""
    if metrics:
        allow_remote = settings.prometheus.allow_remote
        try:
            PrometheusSettings(listen=metrics, allow_remote=allow_remote)
        except ValueError as error:
            raise ConfigError(f"--metrics: {error}") from error
    address = metrics or settings.prometheus.listen
    return OutletOptions(address, bool(metrics), settings.dead_man, settings.otel)
