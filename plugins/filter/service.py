# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the service role computes of its variables: what is wrong with them, and the definition that Consul reads. All functions are pure."""

from __future__ import annotations

import ipaddress
import re
import urllib.parse

from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.module_utils import digest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul.services import MARK
from ansible_collections.vdloo.mesh.plugins.module_utils.routes import (
    LABEL,
    OWN_KEYS,
    as_port,
    canonical,
    ip_literal,
    one_route_errors,
    tag_of,
)

# DNS does not mind capitals, but two names that differ in them alone are one name there.
NAME_RE = re.compile(rf"{LABEL}\Z")
# The agents themselves.
RESERVED_NAMES = ("consul",)
KINDS = ("http", "tcp", "grpc", "script")
CHECK_KEYS = (*KINDS, "method", "interval", "timeout")
NO_CHECK = "none"
INTERVAL = "2s"
TIMEOUT = "2s"
METHOD_RE = re.compile(r"[A-Z]+\Z")
DURATION_RE = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+\Z")
SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
# Consul checks no more often than this, whatever it is told.
LEAST_INTERVAL_S = 1
HTTP_PATH_RE = re.compile(r"/[!-~]*\Z")
GRPC_RE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
VERSION_RE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,62}\Z")
META_KEY_RE = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
MOST_META = 60
META_CHARS = 512
MOST_PATH = 200
OWN_META = ("site", "version", MARK)


def seconds(value: object) -> float | None:
    """Read a duration as Consul writes it (500ms, 5s, 1m30s), in seconds; None when it is none."""
    if not isinstance(value, str) or not DURATION_RE.match(value):
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", value))


def _name_errors(name: object) -> list[str]:
    if not isinstance(name, str) or not NAME_RE.match(name):
        return [
            f"service_name {name!r} is not a DNS label, so DNS cannot find it: use at most 63 lower-case letters, digits and dashes, "
            "and no dash at either end"
        ]
    return [f"service_name {name} is the name of Consul itself: choose another one"] if name in RESERVED_NAMES else []


def _address_errors(value: object) -> list[str]:
    if value == "":
        return []
    try:
        address = ipaddress.ip_address(str(value))
    except ValueError:
        return [f"service_address {value!r} is not a literal address: write it as fc00::1 or 10.0.0.1, with no brackets and no port"]
    if address.is_loopback or address.is_unspecified or address.is_multicast or address.is_link_local:
        return [
            f"service_address {value} is an address that other nodes cannot dial: leave it empty for the node's own address in the mesh"
        ]
    return []


def _tag_errors(tags: object) -> list[str]:
    if not isinstance(tags, (list, tuple)):
        return [f"service_tags {tags!r} is not a list: write [{tags}]"]
    return [
        f"service_tags: {tag!r} is not a DNS label, so DNS cannot find it: use at most 63 lower-case letters, digits and dashes, "
        "and no dash at either end"
        for tag in tags
        if not isinstance(tag, str) or not NAME_RE.match(tag)
    ]


def _check_errors(check: object) -> list[str]:
    if check == NO_CHECK:
        return []
    if not isinstance(check, dict):
        return [
            f"service_check {check!r} is not a dictionary: write for example {{http: /health}}, or none for a service that is not checked"
        ]
    errors = []
    unknown = sorted(str(key) for key in check if key not in CHECK_KEYS)
    if unknown:
        errors.append(f"service_check: unknown key {', '.join(unknown)}: a check knows {', '.join(CHECK_KEYS)}")
    kinds = [kind for kind in KINDS if kind in check]
    if len(kinds) != 1:
        told = f"has {' and '.join(kinds)}" if kinds else "says no kind of check"
        errors.append(f"service_check {told}: exactly one of {', '.join(KINDS)} is needed")
    errors += [error for kind in kinds for error in _KIND_ERRORS[kind](check[kind])]
    if "method" in check and "http" not in check:
        errors.append("service_check.method is for a check with http: leave it out")
    elif not METHOD_RE.match(str(check.get("method", "GET"))):
        errors.append(f"service_check.method {check['method']!r} is no method of HTTP: write GET or HEAD")
    for key in ("interval", "timeout"):
        time = seconds(check.get(key, "1s"))
        if time is None:
            errors.append(f"service_check.{key} {check[key]!r} is not a time: write it with its unit, as 500ms, 5s or 1m30s")
        elif key == "interval" and time < LEAST_INTERVAL_S:
            errors.append(f"service_check.interval {check[key]} is below 1s, and Consul checks no more often: write 1s or more")
        elif time <= 0:
            errors.append(f"service_check.{key} {check[key]} is no time at all: give it some")
    return errors


def _http_errors(target: object) -> list[str]:
    if isinstance(target, str) and HTTP_PATH_RE.match(target):
        return []
    try:
        url = urllib.parse.urlsplit(target if isinstance(target, str) else "")
        whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and bool(re.match(r"[!-~]+\Z", str(target)))
    except ValueError:
        whole = False
    return [] if whole else [f"service_check.http {target!r} is neither a path nor a URL: write /health, or http://127.0.0.1:8081/health"]


def _tcp_errors(target: object) -> list[str]:
    return [] if target is True else [f"service_check.tcp {target!r} is not true: write {{tcp: true}}, which dials service_port"]


def _grpc_errors(target: object) -> list[str]:
    if target is True or (isinstance(target, str) and GRPC_RE.match(target)):
        return []
    return [f"service_check.grpc {target!r} is neither true nor the name of a gRPC service: write true to ask for the server as a whole"]


def _script_errors(target: object) -> list[str]:
    if isinstance(target, (list, tuple)) and target and all(isinstance(word, str) and word and "\0" not in word for word in target):
        return [] if target[0].startswith("/") else [f"service_check.script: {target[0]} is not an absolute path: write it from / on"]
    return [f"service_check.script {target!r} is not a list of words: write [/usr/local/bin/program, argument]"]


_KIND_ERRORS = {"http": _http_errors, "tcp": _tcp_errors, "grpc": _grpc_errors, "script": _script_errors}


def _meta_errors(settings: dict) -> list[str]:
    errors = []
    version, site, meta = settings["version"], settings["site"], settings["meta"]
    if version != "" and not isinstance(version, str):
        errors.append(
            f'service_version {version!r} is not a text: write it in quotes, as 2.10 would become 2.1 (service_version: "{version}")'
        )
    elif version != "" and not VERSION_RE.match(version):
        errors.append(f"service_version {version!r} is not a version: use at most 63 letters, digits and any of . _ + ~ -, as in 2.1-rc1")
    if not isinstance(site, str) or len(site) > META_CHARS or not site.isprintable():
        errors.append(f"service_site {site!r} is not one line of text: give the name of a place, as mesh_site has it")
    if not isinstance(meta, dict):
        return [*errors, f"service_meta {meta!r} is not a dictionary: write {{key: text}}"]
    if len(meta) > MOST_META:
        errors.append(f"service_meta has {len(meta)} entries, and {MOST_META} are the most: leave some out")
    for key, value in meta.items():
        if not isinstance(key, str) or not META_KEY_RE.match(key):
            errors.append(f"service_meta: {key!r} is not a name: use at most 128 letters, digits, - and _")
        elif key in OWN_META:
            errors.append(
                f"service_meta: {key} is written by the role: set service_{key}"
                if key != MARK
                else f"service_meta: {key} is the role's own"
            )
        if not isinstance(value, str) or len(value) > META_CHARS:
            errors.append(f"service_meta.{key} is not a text of at most {META_CHARS} characters: write it in quotes")
    return errors


def _route_errors(settings: dict) -> list[str]:
    route = settings["route"]
    if not isinstance(route, dict):
        return [f"service_route {route!r} is not a dictionary: write for example {{host: shop.example.org, path: /}}"]
    unknown = sorted(str(key) for key in route if key not in OWN_KEYS)
    if unknown:
        return [f"service_route: unknown key {', '.join(unknown)}: the route of a service knows {', '.join(OWN_KEYS)}"]
    errors = [f"service_route: {error}" for error in one_route_errors({**route, "service": "x", "port": 1})] if route else []
    if len(str(route.get("path", "/"))) > MOST_PATH:
        errors.append(f"service_route: the path has more than {MOST_PATH} characters: every node has to keep it, so give a shorter one")
    return errors


def route_of(settings: dict) -> dict:
    """The route of a service that is published, as the mesh is to know it; empty when it has none."""
    if settings["state"] == "absent" or not settings["route"] or errors_of(settings):
        return {}
    return canonical({**settings["route"], "service": settings["name"], "port": settings["port"]})


def errors_of(settings: dict) -> list[str]:
    """Say all that is wrong with a service that is to be published; each message names the variable and says what to do.

    `settings` are name, state, port, address, tags, check, version, site, meta and route. Of one that is to be absent only the name counts.
    """
    errors = _name_errors(settings["name"])
    if settings["state"] == "absent":
        return errors
    if as_port(settings["port"]) is None:
        errors.append(f"service_port {settings['port']!r} is not between 1 and 65535: give the port that the program listens on")
    return [
        *errors,
        *_address_errors(settings["address"]),
        *_tag_errors(settings["tags"]),
        *_check_errors(settings["check"]),
        *_meta_errors(settings),
        *_route_errors(settings),
    ]


def _check_of(check: dict, host: str, port: int) -> dict:
    """Write a check as Consul wants it. `host` is where the program is asked, as it stands in a URL."""
    if "http" in check:
        path = str(check["http"])
        found = {"http": f"http://{host}:{port}{path}" if path.startswith("/") else path, "method": str(check.get("method", "GET"))}
    elif "grpc" in check:
        found = {"grpc": f"{host}:{port}" + ("" if check["grpc"] is True else f"/{check['grpc']}")}
    elif "script" in check:
        found = {"args": [str(word) for word in check["script"]]}
    else:
        found = {"tcp": f"{host}:{port}"}
    return {**found, "interval": str(check.get("interval", INTERVAL)), "timeout": str(check.get("timeout", TIMEOUT))}


def definition(settings: dict) -> dict:
    """Write the definition of a service, as a file of Consul's configuration has it. The same settings give the same definition."""
    errors = errors_of(settings)
    if errors:
        raise AnsibleFilterError("; ".join(errors))
    name, port = str(settings["name"]), as_port(settings["port"])
    version, site = str(settings["version"]), str(settings["site"])
    told = {"version": version, "site": site}
    tags = {*map(str, settings["tags"]), tag_of("v", version), tag_of("site", site)} - {""}
    service = {
        "id": name,
        "name": name,
        "port": port,
        "tags": sorted(tags),
        "meta": {**{str(key): str(value) for key, value in settings["meta"].items()}, **{key: text for key, text in told.items() if text}},
    }
    if settings["address"]:
        service["address"] = str(settings["address"])
    if settings["check"] != NO_CHECK:
        service["check"] = _check_of(settings["check"], ip_literal(str(settings["address"])) or "127.0.0.1", port)
    service["meta"][MARK] = digest.of(service)[:16]
    return {"service": service}


class FilterModule:
    """The filters of the service role."""

    def filters(self):
        return {"service_definition": definition, "service_errors": errors_of, "service_route": route_of}
