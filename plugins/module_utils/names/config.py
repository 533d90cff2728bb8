# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the program is told: one JSON file, which the role writes."""

from __future__ import annotations

import ipaddress
import json
import typing

FILE = "/etc/dnsmasq-mesh/names.json"


class ConfigError(Exception):
    """A file that cannot be used; the message says what to do."""


class Server(typing.NamedTuple):
    address: str
    port: int


class Config(typing.NamedTuple):
    """What the program is told.

    `max_age` is in seconds: how long what is known of the services may be answered with after it was last seen to be right. `spare` is where dnsmasq is
    stood in for, None for nowhere; the others that follow are for that: where dnsmasq is (`dnsmasq`), the domains and networks that are not for
    the host's own name servers (`zones`), these servers (`upstreams`, or what is in `upstream_files` where there are none), and the addresses
    that are ours (`own`).
    """

    listen: Server
    consul_domain: str
    consul_dns: Server
    consul_http: Server
    mesh_domain: str
    registry: str
    snapshot: str
    max_age: int
    spare: Server | None = None
    dnsmasq: Server | None = None
    zones: tuple = ()
    upstreams: tuple = ()
    upstream_files: tuple = ()
    own: tuple = ()


def parse_server(text: str) -> Server:
    """Read ADDRESS#PORT, as dnsmasq writes a server."""
    address, dummy, port = text.partition("#")
    ipaddress.ip_address(address.partition("%")[0])
    return Server(address, int(port))


def load(path: str) -> Config:
    """Read the configuration. Raise ConfigError."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
        servers = {key: parse_server(found[key]) for key in ("listen", "consul_dns", "consul_http")}
        texts = {key: str(found[key]) for key in ("consul_domain", "mesh_domain", "registry", "snapshot")}
        optional = {key: parse_server(found[key]) if found[key] else None for key in ("spare", "dnsmasq")}
        upstreams = tuple(parse_server(text if "#" in text else text + "#53") for text in found["upstreams"])
        lists = {key: tuple(map(str, found[key])) for key in ("zones", "upstream_files", "own")}
        return Config(**servers, **texts, max_age=int(found["max_age"]), **optional, upstreams=upstreams, **lists)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be used ({type(error).__name__}: {error}): run the role dnsmasq again") from error
