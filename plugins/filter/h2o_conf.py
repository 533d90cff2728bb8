# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turn routes into the configuration of h2o. All functions are pure: data in, data out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.module_utils.routes import (
    NAME_RE,
    PATH_RE,
    as_port,
    beside,
    ip_literal,
    one_route_errors,
    place_of,
    tag_of,
)

CHECKSUM_RE = re.compile(r"sha256:[0-9a-f]{64}\Z", re.IGNORECASE)


def upstream_of(route: dict, consul_domain: str, tag: str = "") -> str:
    """Name the upstream of a valid route as HOST:PORT; with a tag, only those instances that have it."""
    if route.get("service"):
        name = f"{route['service']}.service.{consul_domain}".lower()
        name = f"{tag.lower()}.{name}" if tag else name
    else:
        name = ip_literal(str(route["upstream"])) or str(route["upstream"]).lower()
    return f"{name}:{as_port(route['port'])}"


def route_errors(routes: object, variable: str = "h2o_routes") -> list[str]:
    """Say all that is wrong with the routes, each message starting with the route that it is about."""
    if not isinstance(routes, (list, tuple)):
        return [f"{variable} is not a list: give a list of routes"]
    errors = []
    seen: dict[tuple[str, str], int] = {}
    for index, route in enumerate(routes):
        if not isinstance(route, dict):
            errors.append(
                f"{variable}[{index}]: {route!r} is not a dictionary: give service and port, for example {{service: web, port: 8080}}"
            )
            continue
        place = place_of(route)
        where = f"{variable}[{index}] (host {place[0] or 'any'}, path {route.get('path', '/')})"
        errors.extend(f"{where}: {error}" for error in one_route_errors(route))
        if place in seen:
            errors.append(f"{where}: {variable}[{seen[place]}] has the same host and path already: remove one of the two")
        seen.setdefault(place, index)
    return errors


def setting_errors(settings: dict) -> list[str]:
    """Say what is wrong with the settings of the h2o role, other than the routes."""
    errors = []
    ports = {"h2o_http_port": settings["http_port"]}
    if settings["tls"]:
        ports["h2o_https_port"] = settings["https_port"]
        errors.extend(
            f"h2o_tls.{name} {settings['tls'].get(name) or '(empty)'} is not an absolute path: give the path of a file on the node, or clear h2o_tls"
            for name in ("certificate_file", "key_file")
            if not str(settings["tls"].get(name) or "").startswith("/")
        )
    errors.extend(f"{name} {port} is not between 1 and 65535: give a free port" for name, port in ports.items() if as_port(port) is None)
    if len(ports) == 2 and len(set(ports.values())) == 1:
        errors.append(f"h2o_http_port and h2o_https_port are both {settings['http_port']}: give them different ports")
    for name in ("attempts", "upstream_timeout", "request_timeout", "websocket_timeout", "request_limit"):
        # A text is what --extra-vars makes of a number.
        if isinstance(settings[name], bool) or int(settings[name]) < 1:
            errors.append(f"h2o_{name} {settings[name]} is below 1: give at least 1")
    log = settings["access_log"]
    if log not in ("journal", "none") and not (PATH_RE.match(log) and not log.endswith("/")):
        errors.append(f"h2o_access_log {log!r} is neither journal, none nor the absolute path of a file")
    if not NAME_RE.match(settings["consul_domain"]):
        errors.append(
            f"h2o_consul_domain {settings['consul_domain']!r} is not a DNS name: give the domain that Consul answers for, such as consul"
        )
    method = settings["install_method"]
    if method in ("source", "binary"):
        source = {"source": "h2o_source_url", "binary": "h2o_binary_src"}[method]
        if not settings["archive"]:
            errors.append(f"{source} is empty: h2o_install_method {method} needs the archive to install")
        elif method == "source" and not settings["archive"].startswith(("https://", "http://")):
            errors.append(f"{source} {settings['archive']} is not a URL: start it with https://")
        if not CHECKSUM_RE.match(settings["checksum"]):
            errors.append(
                f"h2o_{method}_checksum {settings['checksum'] or '(empty)'} is not sha256: and 64 hex digits: give the SHA-256 of the archive"
            )
    return errors


def ruby_string(text: str) -> str:
    """Quote a text for Ruby, so that nothing in it is evaluated."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def handler_of(route: dict, consul_domain: str, site: str, attempts: int, timeout: int) -> str:
    """Write the mruby handler that asks for a route; empty for one that h2o's own proxy serves."""
    if not route.get("retry", True):
        return ""
    near = [tag_of("site", site)] if route.get("near") and tag_of("site", site) else []
    canary = route.get("canary") or {}
    upstreams = [upstream_of(route, consul_domain, tag) for tag in (*near, route.get("tag", ""))]
    asked = ", ".join(map(ruby_string, upstreams))
    first = f", {ruby_string(upstream_of(route, consul_domain, canary['tag']))}, {int(canary['percent'])}" if canary else ""
    return f"MeshRetry.new({asked if len(upstreams) == 1 else f'[{asked}]'}, {int(attempts)}, {int(timeout)}{first})"


def commands_of(route: dict, consul_domain: str, handler: str, request_timeout: int, websocket_timeout: int) -> dict:
    """Say what h2o does at the path of a valid route: ask with the handler, if there is one, and leave the rest to its own proxy."""
    commands: dict[str, object] = {"proxy.reverse.url": f"http://{upstream_of(route, consul_domain, route.get('tag', ''))}/"}
    if handler:
        commands["mruby.handler"] = handler
        # What the handler leaves to the proxy are large bodies, and these take their time.
        commands["proxy.timeout.io"] = int(request_timeout) * 1000
    if route.get("websocket"):
        commands["proxy.websocket"] = True
        commands["proxy.websocket.timeout"] = int(websocket_timeout) * 1000
        # Services compare it with the Origin that a browser tells of.
        commands["proxy.preserve-host"] = True
    return commands


def hosts(
    routes: list[dict],
    consul_domain: str = "consul",
    ports: list[int] | None = None,
    handlers: str = "",
    node: str = "",
    attempts: int = 1,
    timeout: int = 5,
    site: str = "",
    request_timeout: int = 60,
    websocket_timeout: int = 300,
) -> dict:
    """Build the `hosts` section of h2o's configuration out of the routes.

    `handlers` is the path of the mruby handlers; empty when h2o has no mruby, and then nothing is retried, near or a canary.
    """
    errors = route_errors(routes)
    if errors:
        raise AnsibleFilterError("; ".join(errors))
    load = f"require {ruby_string(handlers)}; "
    names: dict[str, dict] = {"default": {}}
    for route in routes:
        host, path = place_of(route)
        handler = handler_of(route, consul_domain, site, attempts, timeout) if handlers else ""
        commands = commands_of(route, consul_domain, load + handler if handler else "", request_timeout, websocket_timeout)
        names.setdefault(host or "default", {})[path] = commands
    for paths in names.values():
        if handlers:
            paths.setdefault("/", {"mruby.handler": load + f"MeshNotFound.new({ruby_string(node)})"})
        elif not paths:
            # h2o refuses a host without a path; this folder is always empty, so that the answer is a plain 404.
            paths["/"] = {"file.dir": "/var/empty"}
    result = {}
    for name, paths in sorted(names.items()):
        result[name] = {"paths": paths}
        for port in ports or []:
            # h2o takes a host without a port for the default port of the scheme only.
            if name != "default" and port not in (80, 443):
                result[f"{name}:{port}"] = {"paths": paths}
    return result


def scalar(value: object) -> str:
    """Spell one value for h2o, which knows ON and OFF and no booleans."""
    if isinstance(value, bool):
        value = "ON" if value else "OFF"
    if value is None or (isinstance(value, str) and not value):
        return '""'
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str):
        text = json.dumps(str(value), ensure_ascii=False)
        # YAML forbids a few characters that JSON lets pass.
        return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in text)
    raise AnsibleFilterError(f"h2o's configuration cannot hold {value!r} ({type(value).__name__})")


def precedence(host: str) -> tuple:
    """Order the hosts: h2o takes the first that fits, and the very first for a name that fits none."""
    return host != "default", host.startswith("*"), -len(host) if host.startswith("*") else 0, host


def lines(node: object, indent: str, order: Callable[[str], object] = str) -> list[str]:
    """Write a dictionary or list as block YAML, sorted by key (hosts by precedence), one scalar a line."""
    out = []
    entries: list[tuple[str, object]] = []
    if isinstance(node, dict):
        for key, value in sorted(node.items(), key=lambda item: order(str(item[0]))):
            name = scalar(str(key)) + ":"
            # h2o 2.2 wants one `listen` key for each listener, which no YAML library will write.
            several = key == "listen" and isinstance(value, (list, tuple))
            entries.extend((name, one) for one in value) if several else entries.append((name, value))
    else:
        entries = [("-", value) for value in node]
    for name, value in entries:
        if isinstance(value, (dict, list, tuple)) and value:
            out.append(indent + name)
            out.extend(lines(value, indent + "  ", precedence if name == '"hosts":' and not indent else str))
        elif isinstance(value, (dict, list, tuple)):
            out.append(f"{indent}{name} {'{}' if isinstance(value, dict) else '[]'}")
        else:
            out.append(f"{indent}{name} {scalar(value)}")
    return out


def conf(settings: dict) -> str:
    """Write the configuration file of h2o. The same settings give the same text."""
    if not isinstance(settings, dict):
        raise AnsibleFilterError(f"h2o's configuration is a dictionary, not {settings!r}")
    return "\n".join(lines(settings, "")) + "\n"


def listeners(node: object) -> list[str]:
    """Collect what h2o listens on, anywhere in its configuration, as HOST:PORT."""
    found: set[str] = set()
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "listen":
                for one in value if isinstance(value, (list, tuple)) else [value]:
                    address = one if isinstance(one, dict) else {"port": one}
                    found.add(f"{address.get('host', '*')}:{address.get('port')}")
            else:
                found.update(listeners(value))
    return sorted(found)


class FilterModule:
    """The filters of the h2o role."""

    def filters(self):
        return {
            "h2o_conf": conf,
            "h2o_hosts": hosts,
            "h2o_listeners": listeners,
            "h2o_route_errors": route_errors,
            "h2o_routes_beside": beside,
            "h2o_setting_errors": setting_errors,
        }
