# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a route of the ingress is, and what may stand in one. Pure: data in, data out.

A route is a dictionary: `port` and either `service`, the name of a Consul service, or `upstream`, a DNS name or an IP address; and
optionally `host`, `path`, `retry` and `websocket`. One to a service can also have `tag` (only instances with it), `near` (first those of the node's own site)
and `canary` ({"tag", "percent"}: that share of the requests goes to instances with that tag).

Nodes tell of the routes of their services in their records. Such a route is always to a service, and is written as `canonical` does.
"""

from __future__ import annotations

import ipaddress
import json
import re
import typing

ROUTE_KEYS = ("host", "path", "service", "upstream", "port", "retry", "websocket", "tag", "near", "canary")
# What service_route knows; the rest follows from the service.
OWN_KEYS = ("host", "path", "retry", "websocket", "tag", "near", "canary")
LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
LABEL_RE = re.compile(rf"{LABEL}\Z", re.IGNORECASE)
NAME_RE = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(?:\.{LABEL})*\Z", re.IGNORECASE)
HOST_RE = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{LABEL}(?:\.{LABEL})*\Z", re.IGNORECASE)
# What a path may hold in RFC 3986, without the characters that mean something to YAML, Ruby or a shell.
PATH_RE = re.compile(r"/[A-Za-z0-9._~!@+,:%/-]*\Z")

# Of a node's record all routes together must leave the better part to what else it says.
MAX_BYTES = 8 * 1024

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


def tag_of(kind: str, text: str) -> str:
    """Make a tag of a text that may be no DNS label: site-home, v-2-1. Empty when nothing of the text can stand in one."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return f"{kind}-{words}"[:63].rstrip("-") if words else ""


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
    errors.extend(
        f"{key} {route[key]!r} is neither true nor false"
        for key in ("retry", "websocket", "near")
        if not isinstance(route.get(key, True), bool)
    )
    return errors + _choice_errors(route)


def _choice_errors(route: dict) -> list[str]:
    """Say what is wrong with how a route chooses among the instances."""
    chosen = [key for key in ("tag", "near", "canary") if route.get(key)]
    if chosen and not route.get("service"):
        return [f"{' and '.join(chosen)} choose among the instances of a service: name it in service, or leave them out"]
    errors = []
    tag, canary = route.get("tag", ""), route.get("canary", {})
    if tag != "" and not (isinstance(tag, str) and LABEL_RE.match(tag)):
        errors.append(f"tag {tag!r} is not a DNS label: give one of the service's tags")
    if tag and route.get("near"):
        errors.append("near and tag are both set, and DNS takes one tag at a time: leave one of them out")
    if canary != {}:
        errors += _canary_errors(canary)
    if route.get("retry") is False and (route.get("near") or canary):
        errors.append("near and canary need retry: leave retry: false out")
    return errors


def _canary_errors(canary: object) -> list[str]:
    percent = canary.get("percent") if isinstance(canary, dict) else None
    if not isinstance(canary, dict) or set(canary) != {"tag", "percent"}:
        return [f"canary {canary!r} is not a dictionary of tag and percent: write {{tag: v2, percent: 10}}"]
    errors = []
    if not isinstance(canary["tag"], str) or not LABEL_RE.match(canary["tag"]):
        errors.append(f"canary.tag {canary['tag']!r} is not a DNS label: give one of the service's tags")
    if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= 100:
        errors.append(f"canary.percent {percent!r} is not a whole number from 0 to 100")
    return errors


def place_of(route: dict) -> tuple[str, str]:
    """Tell which host and path a route answers for; /shop and /shop/ are one place."""
    path = str(route.get("path", "/"))
    return str(route.get("host") or "").lower(), path.rstrip("/") or "/"


def canonical(route: dict) -> dict[str, typing.Any]:
    """Write a valid route to a service in the one way that records have: no key that says nothing."""
    host, path = place_of(route)
    canary = route.get("canary")
    told = {
        "host": host,
        "path": path,
        "service": str(route["service"]).lower(),
        "port": as_port(route["port"]),
        "retry": False if route.get("retry", True) is False else None,
        "websocket": True if route.get("websocket") else None,
        "near": True if route.get("near") else None,
        "tag": str(route["tag"]).lower() if route.get("tag") else None,
        "canary": {"tag": str(canary["tag"]).lower(), "percent": canary["percent"]} if canary else None,
    }
    return {key: value for key, value in told.items() if value is not None}


def are_told(value: object) -> bool:
    """Whether a value is what a record may say of the routes of a node's services. Never raises, whatever it is given."""
    if not isinstance(value, list) or not all(isinstance(route, dict) and not one_route_errors(route) for route in value):
        return False
    return all(route.get("service") and canonical(route) == route for route in value) and _size(value) <= MAX_BYTES


def _size(routes: list[dict]) -> int:
    return len(json.dumps(routes))


def _order(route: dict) -> tuple[str, ...]:
    return route["host"], route["path"], route["service"], json.dumps(route, sort_keys=True)


def told(facts: list[object]) -> tuple[list[dict], list[str]]:
    """The routes that a node is to tell of, out of the facts of all its manifests, and warnings for those that it is not."""
    found = [fact["route"] for fact in facts if isinstance(fact, dict) and are_told([fact.get("route")])]
    routes: list[dict] = []
    warnings = []
    for route in sorted(found, key=_order):
        if _size([*routes, route]) <= MAX_BYTES:
            routes.append(route)
        else:
            warnings.append(f"the route {shown(route)} of the service {route['service']} is left out: the node has too many")
    return routes, warnings


def united(registry: dict[str, dict]) -> tuple[list[dict], list[str]]:
    """The routes that every node is to answer for, out of the records of all members, and what of them does not count."""
    claims: dict[tuple[str, str], dict[str, tuple[dict, str]]] = {}
    for name, record in sorted(registry.items()):
        for route in record.get("routes") or [] if record["state"] == "member" else []:
            claims.setdefault(place_of(route), {}).setdefault(json.dumps(route, sort_keys=True), (route, name))
    routes, warnings = [], []
    for place in sorted(claims):
        (first, where), *others = sorted(claims[place].values(), key=lambda claim: _order(claim[0]))
        routes.append(first)
        warnings += [
            f"the route {shown(first)} is claimed by the service {first['service']} (on {where}) and, in another way, by {other['service']} (on {name}): "
            "the former counts. Change service_route of one of them"
            for other, name in others
        ]
    return routes, warnings


def beside(own: list[dict], found: list[dict]) -> list[dict]:
    """Add the routes of the mesh's services to those that the operator gives, which count more where both are for one place."""
    places = {place_of(route) for route in own if isinstance(route, dict)}
    return [*own, *(route for route in found if place_of(route) not in places)]


def shown(route: dict) -> str:
    """A route for a message: the host and path that it answers for."""
    host, path = place_of(route)
    return f"{host or '*'}{path}"
