# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

"""Whether the running daemon has what its configuration file says."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import access, admin, conf, live, transport

# For a look that many nodes wait for: an answer on loopback takes a few ms, on a busy small machine a few hundred.
LOOK_TIMEOUT_S = 1.0
LOOK_ATTEMPTS = 2


class File(NamedTuple):
    """A configuration file: its text, None when it cannot be read, and what it says, None when that is no configuration."""

    text: str | None
    config: dict | None


class RestartNeeded(Exception):
    """Only a restart brings the file into force; the message says why."""


def load(path: str) -> File:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError):
        return File(None, None)
    try:
        config = json.loads(conf.strip_comments(text))
    except ValueError:
        return File(text, None)
    return File(text, config if isinstance(config, dict) else None)


def unfinished(started_path: str) -> str:
    """Where the configuration is while the daemon is brought to it."""
    return f"{started_path}.next"


def check_comparable(config_path: str, started_path: str, wished: File, started: File) -> None:
    """Raise RestartNeeded when the way from the one configuration to the other needs a restart, or cannot be known."""
    next_path = unfinished(started_path)
    if started.text is None:
        raise RestartNeeded(f"it is not known what the running cjdns was started with: {started_path} is not there, or cannot be read")
    if os.path.lexists(next_path) and load(next_path).text != wished.text:
        raise RestartNeeded(f"an earlier run was stopped while it brought cjdns to a configuration that is another by now ({next_path})")
    if started.text == wished.text:
        return
    for config, name in ((started.config, started_path), (wished.config, config_path)):
        if config is None:
            raise RestartNeeded(f"{name} is not JSON with comments, so that it cannot be told what has changed")
    places = live.restart_places(started.config, wished.config)
    if places:
        raise RestartNeeded(f"{', '.join(places)} cannot be changed while cjdns runs")


def interfaces(client: admin.Client) -> list[dict] | None:
    """The interfaces of the daemon; None when it is too old to tell them."""
    try:
        return client.interfaces()
    except admin.AdminError as error:
        if error.reason.startswith(transport.NO_FUNCTION):
            return None
        raise


def look(client: admin.Client, started: live.Parts, wished: live.Parts) -> tuple[list[live.Step], list[dict], list[str]]:
    """The steps that the daemon needs, its links and its users; raises admin.AdminError, or RestartNeeded for a lack of interfaces."""
    peers, users = client.peers(), client.users()
    steps = live.plan(started, wished, peers, users)
    told = interfaces(client) if any(step.call == "connect" for step in steps) else None
    problem = live.interface_problem(steps, wished.rest, told) if told is not None else ""
    if problem:
        raise RestartNeeded(problem)
    return steps, peers, users


class Seen(NamedTuple):
    """A daemon as it runs: what it lacks of its configuration file, a text for each, and the public keys of the peers that it has a live link with."""

    pending: list[str]
    established: list[str]


def observe(config_path: str = "/etc/cjdroute.conf", started_path: str = "/run/cjdns/started.conf") -> Seen:
    """Ask the running daemon what it has; nothing of the answer is a secret. Never raises.

    A few seconds after its start a daemon may not have all its peers yet.
    """
    wished, started = load(config_path), load(started_path)
    if wished.config is None:
        return Seen([f"{config_path} is missing" if wished.text is None else f"{config_path} is not JSON with comments"], [])
    secrets = conf.secrets(wished.config) | conf.secrets(started.config)
    try:
        check_comparable(config_path, started_path, wished, started)
        told = access.parse(wished.text or "")
        client = admin.Client(told.host, told.port, told.password, timeout=LOOK_TIMEOUT_S, attempts=LOOK_ATTEMPTS)
        steps, peers, _users = look(client, live.split(started.config or {}), live.split(wished.config))
    except RestartNeeded as needed:
        return Seen([f"cjdns has to be restarted: {needed}"], [])
    except (admin.AdminError, conf.ConfError) as error:
        return Seen([conf.mask_text(f"cjdns could not be asked what it has: {error}", secrets)], [])
    established = sorted({peer["public_key"] for peer in peers if peer["state"] == "ESTABLISHED" and peer["public_key"]})
    return Seen([f"cjdns is yet to {step.words}" for step in steps], established)
