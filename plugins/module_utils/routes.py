# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a route of the ingress is, and what may stand in one. Pure: data in, data out.

A route is a dictionary: `port` and either `service`, the name of a Consul service, or `upstream`, a DNS name or an IP address; and
optionally `host`, `path` and `retry`.
"""

from __future__ import annotations

import ipaddress
import re

ROUTE_KEYS = ("host", "path", "service", "upstream", "port", "retry")
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
LABEL_RE = re.compile(rf"{LABEL}\Z", re.IGNORECASE)
NAME_RE = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(?:\.{LABEL})*\Z", re.IGNORECASE)
HOST_RE = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{LABEL}(?:\.{LABEL})*\Z", re.IGNORECASE)
# What a path may hold in RFC 3986, without the characters that mean something to YAML, Ruby or a shell.
PATH_RE = re.compile(r"/[A-Za-z0-9._~!@+,:%/-]*\Z")

# A name that no client asks for: the role reads from it which configuration h2o really serves.
CHECK_HOST = "mesh-check.invalid"


def as_port(value: object) -> int | None:
    """Read a TCP port; None when it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and 1 <= int(text) <= 65535 else None


def ip_literal(value: str) -> str | None:
    """Spell an IP address as a URL wants it; None when it is not one."""
    try:
        address = ipaddress.ip_address(value.strip("[]"))
    except ValueError:
        return None
    return f"[{address}]" if address.version == 6 else str(address)


def one_route_errors(route: dict) -> list[str]:
    """Say all that is wrong with one route, taken by itself."""
    errors = []
    unknown = sorted(str(key) for key in route if key not in ROUTE_KEYS)
    if unknown:
        errors.append(f"unknown key {', '.join(unknown)}: a route knows {', '.join(ROUTE_KEYS)}")
    host, path = route.get("host", ""), route.get("path", "/")
    if not isinstance(host, str) or (host and not HOST_RE.match(host)):
        errors.append(f"host {host!r} is not a host name: use a name like shop.example.org or *.example.org, without scheme, port or path")
    elif host.lower() in (CHECK_HOST, "default"):
        errors.append(f"host {host!r} is used by the role itself: choose another name")
    if not isinstance(path, str) or not path.startswith("/"):
        errors.append(f"path {path!r} does not start with /: write /{str(path).lstrip('/')}")
    elif not PATH_RE.match(path) or "//" in path or {".", ".."} & set(path.split("/")):
        errors.append(f"path {path!r} is not a plain path: use letters, digits and any of . _ ~ ! @ + , : % / -, no // and no . or .. part")
    service, upstream = route.get("service"), route.get("upstream")
    if bool(service) == bool(upstream):
        errors.append("exactly one of service (a Consul service name) and upstream (a DNS name or IP address) is needed")
    elif service and not (isinstance(service, str) and LABEL_RE.match(service)):
        errors.append(
            f"service {service!r} is not a DNS label, so DNS cannot find it: use at most 63 letters, digits and dashes, and no dash at either end"
        )
    elif upstream and not (
        isinstance(upstream, str) and (ip_literal(upstream) or (NAME_RE.match(upstream) and not upstream.rsplit(".", 1)[-1].isdigit()))
    ):
        errors.append(
            f"upstream {upstream!r} is neither a DNS name nor an IP address: give the bare name or address, without scheme, port or path"
        )
    if "port" not in route:
        errors.append("port is missing: give the port that the service listens on")
    elif as_port(route["port"]) is None:
        errors.append(f"port {route['port']!r} is not between 1 and 65535: give the port that the service listens on")
    if not isinstance(route.get("retry", True), bool):
        errors.append(f"retry {route['retry']!r} is neither true nor false")
    return errors


def place_of(route: dict) -> tuple[str, str]:
    """Tell which host and path a route answers for; /shop and /shop/ are one place."""
    path = str(route.get("path", "/"))
    return str(route.get("host") or "").lower(), path.rstrip("/") or "/"
