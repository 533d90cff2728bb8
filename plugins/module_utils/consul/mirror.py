# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The copy of the registry and of the settings in Consul's key/value store, kept through the library consul-kv.

Values are strings of JSON, compact and sorted; but for the settings there is one key for each node:

    vdloo-mesh/v1/registry/<name>    the node record
    vdloo-mesh/v1/settings           the record of the settings; see settings.py
    vdloo-mesh/v1/converged/<name>   {"at": UTC time as in 2026-01-02T03:04:05Z, "by": host name of the machine that ran Ansible}
"""

from __future__ import annotations

import http.client
import json
import typing
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime

from ansible_collections.vdloo.mesh.plugins.module_utils import registry
from ansible_collections.vdloo.mesh.plugins.module_utils import settings as settings_records
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client

REGISTRY = f"{client.KV_PREFIX}registry"
SETTINGS = f"{client.KV_PREFIX}settings"
CONVERGED = f"{client.KV_PREFIX}converged"
# Consul takes 64 operations in a transaction, and by default 512 KiB for all of it.
MAX_OPERATIONS = 64
MAX_BODY = 400 * 1024
# What an operation takes in the body besides its key and its value.
OPERATION_BYTES = 64


class MirrorError(Exception):
    """Why the store could not be read or written."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to another host."""

    def redirect_request(self, *_args: object) -> None:
        return None


class Store:
    """The key/value store of one agent. Calls raise MirrorError."""

    def __init__(self, library: typing.Any, endpoint: str, token: str, timeout: float) -> None:
        """`library` is the module consul_kv, `endpoint` "http://HOST:PORT/v1/", `timeout` in seconds.

        From here on this process sends the token with all that it asks by urllib.
        """
        # consul-kv knows no tokens, and a proxy of the environment must not stand between a node and itself.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirect)
        opener.addheaders = [("X-Consul-Token", token)] if token else []
        urllib.request.install_opener(opener)
        self.agent = client.Client(endpoint[: -len("/v1/")], token, timeout=timeout)
        # Its default time-out would wait for ever.
        self.connection = library.Connection(endpoint=endpoint, timeout=timeout)

    def leader(self) -> str:
        """Return the leader's address, or an empty string; a server answers at once, leader or not."""
        try:
            return self.agent.leader()
        except client.ClientError as error:
            raise MirrorError(str(error)) from error

    def read(self) -> dict[str, bytes]:
        """Return what is under REGISTRY: {key below it: value}; empty when there is nothing."""
        return {key[len(REGISTRY) + 1 :]: value for key, value in self._get(REGISTRY, recurse=True).items()}

    def read_settings(self) -> dict:
        """Return the settings; empty where there are none, or none that can be true."""
        try:
            found = json.loads(self._get(SETTINGS, recurse=False).get(SETTINGS, b"{}").decode("utf-8"))
        except (ValueError, RecursionError):
            return {}
        return {} if settings_records.problem(found) else found

    def _get(self, path: str, recurse: bool) -> dict[str, bytes]:
        def ask() -> dict[str, bytes]:
            try:
                # Undecoded: one value that is no text must not hide the others.
                found = self.connection.get(path, recurse=recurse, decode_utf8=False)
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return {}
                raise
            return {key: value or b"" for key, value in found.items()}

        return self._call(f"GET kv/{path}", ask)

    def write(self, mapping: dict[str, str]) -> None:
        """Write {key: value} in one transaction; see batches()."""
        self._call("PUT txn", lambda: self.connection.put_mapping(mapping))

    def _call(self, what: str, function: Callable[[], typing.Any]) -> typing.Any:
        try:
            return function()
        except urllib.error.HTTPError as error:
            reason = " ".join(error.read(300).decode("utf-8", "replace").split())
            raise MirrorError(f"{what}: {error.code} {reason}") from error
        except (OSError, http.client.HTTPException) as error:
            raise MirrorError(f"{what}: {getattr(error, 'reason', None) or error or type(error).__name__}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise MirrorError(f"{what}: the answer is not what Consul answers") from error


def batches(mapping: dict[str, str]) -> list[dict[str, str]]:
    """Split {key: value} into transactions that Consul takes, in order."""
    result: list[dict[str, str]] = []
    size = 0
    for key, value in mapping.items():
        cost = OPERATION_BYTES + len(key) + (len(value.encode()) + 2) // 3 * 4
        if not result or len(result[-1]) == MAX_OPERATIONS or size + cost > MAX_BODY:
            result.append({})
            size = 0
        result[-1][key] = value
        size += cost
    return result


def parse(found: dict[str, bytes]) -> tuple[dict[str, dict], dict[str, str]]:
    """Sort what is in the store into node records and problems, both by name."""
    values, garbage = {}, {}
    for name in sorted(found):
        try:
            values[name] = json.loads(found[name].decode("utf-8"))
        except (ValueError, RecursionError):
            garbage[name] = "it is not JSON"
    records, problems = registry.sift(values, {})
    return records, dict(sorted({**garbage, **problems}.items()))


def differing(records: dict[str, dict], given: dict[str, dict]) -> dict[str, dict]:
    """The records that a merge of `given` into `records` changes or adds."""
    merged = registry.merge(records, given)
    return {name: merged[name] for name in sorted(given) if records.get(name) != merged[name]}


def registry_keys(records: dict[str, dict]) -> dict[str, str]:
    """The keys and values under which records are stored."""
    return {f"{REGISTRY}/{name}": _text(record) for name, record in records.items()}


def _text(value: dict) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def converged_keys(names: list[str], by: str, now: datetime) -> dict[str, str]:
    """The keys and values that tell when nodes were last converged, and by whom. `now` in UTC."""
    value = _text({"at": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "by": by})
    return {f"{CONVERGED}/{name}": value for name in sorted(set(names))}


def publish(store: Store, given: dict[str, dict], settings: dict, converged: dict[str, str], check_mode: bool, result: dict) -> None:
    """Merge `given` and the settings into the store, and write the keys of `converged`.

    Fills `result` as it goes, so that it is true also when this ends with MirrorError: changed, mirrored, written (names), records
    (their number), problems (why entries are no records, by name), changes {name: (record before or None, record after)}, settings (the
    same pair, None when they are as they should be).
    """
    result.update(changed=False, mirrored=False, written=[], records=0, problems={}, changes={}, settings=None)
    if not store.leader():
        raise MirrorError("it has no leader")
    before, result["problems"] = parse(store.read())
    result["records"] = len(before)
    changes = differing(before, given)
    for batch in batches(registry_keys(changes)):
        if not check_mode:
            store.write(batch)
        names = [key[len(REGISTRY) + 1 :] for key in batch]
        result["changes"].update({name: (before.get(name), changes[name]) for name in names})
        result.update(changed=True, written=sorted(result["changes"]), records=len({*before, *result["changes"]}))
    kept = store.read_settings() if settings else {}
    if settings_records.merge(kept, settings) != kept:
        if not check_mode:
            store.write({SETTINGS: _text(settings)})
        result.update(changed=True, settings=(kept, settings))
    if not check_mode:
        if changes:
            # Transactions are unconditional: a run at the same time may have put older records over ours.
            lost = differing(parse(store.read())[0], given)
            for batch in batches(registry_keys(lost)):
                store.write(batch)
        if result["settings"]:
            kept = store.read_settings()
            if settings_records.merge(kept, settings) != kept:
                store.write({SETTINGS: _text(settings)})
        for batch in batches(converged):
            store.write(batch)
    result["mirrored"] = True
