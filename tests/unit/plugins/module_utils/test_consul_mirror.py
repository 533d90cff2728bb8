# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The mirror of the registry, with the real library consul-kv, against a store that misbehaves on demand."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path

import consul_kv
import consul_kv.api
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import mirror
from ansible_collections.vdloo.mesh.plugins.modules import registry_mirror
from fake_mesh import record
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]
CONSUL = ROOT / ".cache" / "consul"
PREFIX = "vdloo-mesh/v1/registry/"


def registry_of(*names, **changes):
    return {name: record(name, **changes) for name in names}


class KeyValueStore(http.server.ThreadingHTTPServer):
    """The part of Consul's API that the mirror uses, on a port of the loopback."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.leader = "127.0.0.1:8300"
        self.content = {}
        self.calls, self.tokens, self.bodies = [], [], []
        self.on_call = lambda store, method, path: None

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}/v1/"

    def put(self, name, value):
        self.content[PREFIX + name] = value if isinstance(value, bytes) else json.dumps(value).encode()

    def record(self, name):
        return json.loads(self.content[PREFIX + name])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        store, path = self.server, urllib.parse.unquote(self.path)
        store.calls.append(f"{self.command} {path}")
        store.tokens.append(self.headers.get("X-Consul-Token"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.reply(*(store.on_call(store, self.command, path) or self.answer(store, path, body)))

    do_PUT = do_GET

    def answer(self, store, path, body):
        if path == "/v1/status/leader":
            return 200, store.leader
        if path == "/v1/txn":
            store.bodies.append(body)
            operations = [entry["KV"] for entry in json.loads(body)]
            if len(operations) > 64 or len(body) > 512 * 1024:
                return 413, "too large"
            store.content.update({entry["Key"]: base64.b64decode(entry["Value"]) for entry in operations})
            return 200, {"Results": [], "Errors": None}
        prefix, _mark, query = path[len("/v1/kv/") :].partition("?")
        found = [
            {"Key": key, "Value": base64.b64encode(value).decode() if value else None}
            for key, value in sorted(store.content.items())
            if (key.startswith(prefix) and query == "recurse") or key == prefix
        ]
        return (200, found) if found else (404, b"")

    def reply(self, status, content):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", json.loads(body))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Say nothing."""


@contextlib.contextmanager
def serving(store):
    threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield store
    finally:
        store.shutdown()
        store.server_close()


@pytest.fixture
def kv():
    with serving(KeyValueStore()) as store:
        yield store


@pytest.fixture(autouse=True)
def own_opener(monkeypatch):
    """What the module installs for its process ends with the test."""
    monkeypatch.setattr(urllib.request, "_opener", None)


def publish(store, registry, converged=None, check_mode=False, token="", timeout=5, settings=None):
    """Publish to a fake store; return the result."""
    result = {}
    mirror.publish(mirror.Store(consul_kv, store.endpoint, token, timeout), registry, settings or {}, converged or {}, check_mode, result)
    return result


# ---------------------------------------------------------------- what is written


def test_an_empty_store_gets_all_records(kv):
    result = publish(kv, registry_of("a", "b"))
    assert (result["changed"], result["mirrored"], result["written"], result["records"]) == (True, True, ["a", "b"], 2)
    assert kv.record("a") == record("a")
    assert kv.content[PREFIX + "a"] == json.dumps(record("a"), sort_keys=True, separators=(",", ":")).encode()


def test_a_second_run_changes_nothing_and_writes_nothing(kv):
    publish(kv, registry_of("a", "b"))
    kv.calls.clear()
    result = publish(kv, registry_of("a", "b"))
    assert (result["changed"], result["written"], result["records"]) == (False, [], 2)
    assert not [call for call in kv.calls if call.startswith("PUT")]


def test_only_the_record_that_differs_is_written(kv):
    publish(kv, registry_of("a", "b"))
    kv.bodies.clear()
    result = publish(kv, {**registry_of("a"), **registry_of("b", version=2, site="home")})
    assert result["written"] == ["b"]
    assert [entry["KV"]["Key"] for body in kv.bodies for entry in json.loads(body)] == [PREFIX + "b"]


def test_a_newer_record_in_the_store_stays(kv):
    publish(kv, registry_of("a", version=7))
    assert not publish(kv, registry_of("a", version=6))["changed"]
    assert kv.record("a")["version"] == 7


def test_a_revoked_node_stays_revoked(kv):
    publish(kv, registry_of("a", state="revoked"))
    publish(kv, registry_of("a", version=9))
    assert kv.record("a")["state"] == "revoked"


def test_what_the_run_does_not_know_is_left_alone(kv):
    publish(kv, registry_of("a", "away"))
    kv.content["other/key"] = b"1"
    result = publish(kv, registry_of("a", version=2))
    assert result["records"] == 2
    assert kv.record("away") == record("away")
    assert kv.content["other/key"] == b"1"


def test_the_time_of_the_run_is_kept_for_each_node_and_is_no_change(kv):
    converged = mirror.converged_keys(["b", "a", "a"], "laptop", datetime(2026, 1, 2, 3, 4, 5))
    assert publish(kv, {}, converged)["changed"] is False
    assert json.loads(kv.content["vdloo-mesh/v1/converged/a"]) == {"at": "2026-01-02T03:04:05Z", "by": "laptop"}
    assert sorted(kv.content) == ["vdloo-mesh/v1/converged/a", "vdloo-mesh/v1/converged/b"]


def test_check_mode_tells_what_would_be_written_and_writes_nothing(kv):
    publish(kv, registry_of("a"))
    before = dict(kv.content)
    converged = mirror.converged_keys(["a"], "laptop", datetime(2026, 1, 2))
    result = publish(kv, registry_of("a", "b"), converged, check_mode=True)
    assert (result["changed"], result["mirrored"], result["written"], result["records"]) == (True, True, ["b"], 2)
    assert kv.content == before


def test_the_diff_shows_each_record_before_and_after(kv):
    publish(kv, registry_of("a"))
    diff = registry_mirror.describe(publish(kv, registry_of("a", "b", version=2))["changes"])
    assert [part["after_header"] for part in diff] == ["a", "b"]
    assert '"version": 1' in diff[0]["before"] and '"version": 2' in diff[0]["after"]
    assert diff[1]["before"] == ""


SETTINGS_KEY = "vdloo-mesh/v1/settings"


def settings_of(version, **variables):
    return {
        "version": version,
        "updated": "2026-01-01T00:00:00Z",
        "by": "laptop",
        "values": {"mesh": variables, "hosts": {}, "consul_servers": None, "withheld": []},
        "ancestors": [],
    }


def test_the_settings_are_written_once_and_never_over_newer_ones(kv):
    result = publish(kv, registry_of("a"), settings=settings_of(1, h2o_attempts=2))
    assert (result["changed"], result["settings"]) == (True, ({}, settings_of(1, h2o_attempts=2)))
    assert json.loads(kv.content[SETTINGS_KEY]) == settings_of(1, h2o_attempts=2)
    assert publish(kv, registry_of("a"), settings=settings_of(1, h2o_attempts=2))["changed"] is False
    assert publish(kv, registry_of("a"), settings=settings_of(2))["settings"] == (settings_of(1, h2o_attempts=2), settings_of(2))
    result = publish(kv, registry_of("a"), settings=settings_of(1))
    assert (result["changed"], result["settings"]) == (False, None)
    assert json.loads(kv.content[SETTINGS_KEY]) == settings_of(2)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b"\xff", b'{"version": 9}'])
def test_settings_in_the_store_that_cannot_be_true_are_overwritten(kv, garbage):
    kv.content[SETTINGS_KEY] = garbage
    assert publish(kv, {}, settings=settings_of(1))["changed"] is True
    assert json.loads(kv.content[SETTINGS_KEY]) == settings_of(1)


def test_without_settings_and_in_check_mode_none_are_written(kv):
    publish(kv, registry_of("a"))
    assert publish(kv, {}, settings=settings_of(1), check_mode=True)["settings"] == ({}, settings_of(1))
    assert SETTINGS_KEY not in kv.content


def test_an_older_record_of_a_run_at_the_same_time_is_put_right(kv):
    publish(kv, registry_of("a", version=1))

    def interfere(store, method, path):
        # After our transaction, and before we read back.
        if method == "GET" and "/kv/" in path and store.bodies[1:]:
            store.put("a", record("a", version=1))
            store.on_call = lambda *_args: None

    kv.on_call = interfere
    publish(kv, registry_of("a", version=2))
    assert kv.record("a")["version"] == 2


def test_a_newer_record_of_a_run_at_the_same_time_wins(kv):
    def interfere(store, method, path):
        if method == "GET" and "/kv/" in path and store.bodies:
            store.put("a", record("a", version=9))

    kv.on_call = interfere
    publish(kv, registry_of("a", version=2))
    assert kv.record("a")["version"] == 9
    assert len(kv.bodies) == 1


# ---------------------------------------------------------------- a hostile store


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff\xfe\x00",
        b"{{ lookup('pipe', 'id') }}",
        b"[" * 100_000,
        b"9" * 6000,
        b"null",
        b"[]",
        b'{"name": "bad"}',
        json.dumps(record("other")).encode(),
        json.dumps(record("bad", version=True)).encode(),
        json.dumps(record("bad", version=10**30)).encode(),
        json.dumps(record("bad", state="king")).encode(),
        json.dumps(record("bad", updated=None)).encode(),
        json.dumps(record("bad", address="fc00::1")).encode(),
    ],
)
def test_a_value_that_is_no_record_is_named_and_hides_no_other(kv, value):
    publish(kv, registry_of("a"))
    kv.put("bad", value)
    result = publish(kv, registry_of("a", "b"))
    assert list(result["problems"]) == ["bad"]
    assert result["written"] == ["b"]
    assert kv.content[PREFIX + "bad"] == value
    (told,) = registry_mirror.problem_warnings(result["problems"], set())
    assert f"{PREFIX}bad " in told and "left alone" in told


def test_a_value_that_is_no_record_is_overwritten_by_the_record_of_that_name(kv):
    kv.put("bad", b"\xff")
    result = publish(kv, registry_of("bad"))
    assert result["written"] == ["bad"]
    assert kv.record("bad") == record("bad")
    assert "overwritten" in registry_mirror.problem_warnings(result["problems"], set(result["changes"]))[0]


@pytest.mark.parametrize("name", ["a/b", "A", "{{ 1 + 1 }}", "x\x1b[31m", "", "ö", "all"])
def test_a_name_that_no_node_can_have_is_told_of_in_plain_characters(kv, name):
    kv.put(name, record(name))
    result = publish(kv, registry_of("a"))
    assert result["written"] == ["a"]
    (told,) = registry_mirror.problem_warnings(result["problems"], set())
    assert told.isascii() and told.isprintable()


def test_a_store_full_of_rubbish_does_not_drown_the_run():
    told = registry_mirror.problem_warnings({f"n{number}": "it is not JSON" for number in range(4000)}, set())
    assert len(told) == 11
    assert told[-1].startswith("3990 more")


@pytest.mark.parametrize(
    "answer", [(200, b"garbage"), (200, {"Key": "a"}), (200, [1]), (200, [{"Key": "a"}]), (200, [{"Key": PREFIX + "a", "Value": "abc"}])]
)
def test_an_answer_that_is_not_consuls_is_an_error_and_nothing_is_written(kv, answer):
    kv.on_call = lambda store, method, path: answer if "/kv/" in path else None
    with pytest.raises(mirror.MirrorError, match="not what Consul answers"):
        publish(kv, registry_of("a"))
    assert kv.content == {}


def test_a_redirect_is_not_followed_with_the_token(kv):
    with serving(KeyValueStore()) as other:
        kv.on_call = lambda store, method, path: (302, other.endpoint + "kv/") if "/kv/" in path else None
        with pytest.raises(mirror.MirrorError, match="302"):
            publish(kv, registry_of("a"), token="secret")
    assert other.calls == []


# ---------------------------------------------------------------- a store that cannot be used


def test_without_a_leader_it_says_so_at_once_and_asks_no_more(kv):
    kv.leader = ""
    with pytest.raises(mirror.MirrorError, match="no leader"):
        publish(kv, registry_of("a"))
    assert kv.calls == ["GET /v1/status/leader"]


def test_an_agent_that_is_down_is_told_of_with_the_reason():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        store = mirror.Store(consul_kv, f"http://127.0.0.1:{closed.getsockname()[1]}/v1/", "", 2)
        with pytest.raises(mirror.MirrorError, match="refused"):
            mirror.publish(store, registry_of("a"), {}, {}, False, {})


def test_an_agent_that_hangs_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = mirror.Store(consul_kv, f"http://127.0.0.1:{silent.getsockname()[1]}/v1/", "", 0.2)
        with pytest.raises(mirror.MirrorError, match="no answer in time"):
            mirror.publish(store, registry_of("a"), {}, {}, False, {})


def test_an_agent_that_hangs_later_is_given_up_in_time(kv):
    over = threading.Event()

    def hang(store, method, path):
        if "/kv/" in path:
            over.wait(10)

    kv.on_call = hang
    with pytest.raises(mirror.MirrorError, match="GET kv/.*timed out"):
        publish(kv, registry_of("a"), timeout=0.2)
    over.set()


def test_a_refusal_is_told_with_consuls_own_words(kv):
    kv.on_call = lambda store, method, path: (403, b"Permission denied") if "/kv/" in path else None
    with pytest.raises(mirror.MirrorError, match="GET kv/vdloo-mesh/v1/registry: 403 Permission denied"):
        publish(kv, registry_of("a"))


def test_when_the_leader_is_lost_half_way_what_was_written_is_told(kv):
    registry = registry_of(*(f"n{number:03}" for number in range(100)))
    kv.on_call = lambda store, method, path: (500, b"No cluster leader") if path == "/v1/txn" and len(store.bodies) == 1 else None
    result = {}
    with pytest.raises(mirror.MirrorError, match="PUT txn: 500 No cluster leader"):
        mirror.publish(mirror.Store(consul_kv, kv.endpoint, "", 5), registry, {}, {}, False, result)
    assert (result["changed"], result["mirrored"]) == (True, False)
    assert result["written"] == sorted(registry)[:64] == sorted(key[len(PREFIX) :] for key in kv.content)


def test_the_token_goes_along_with_every_call_and_no_proxy_is_asked(kv, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9/")
    publish(kv, registry_of("a"), token="secret")
    assert len(kv.tokens) == 4
    assert set(kv.tokens) == {"secret"}


# ---------------------------------------------------------------- transactions


@given(
    st.dictionaries(
        st.text("abc-/", min_size=1), st.text(max_size=200) | st.integers(0, 300_000).map(lambda size: "x" * size), max_size=150
    )
)
def test_transactions_hold_all_keys_in_order_and_stay_within_the_limits(mapping):
    parts = mirror.batches(mapping)
    assert [item for part in parts for item in part.items()] == list(mapping.items())
    for part in parts:
        assert 1 <= len(part) <= mirror.MAX_OPERATIONS
        assert len(part) == 1 or len(json.dumps(consul_kv.api._mapping_to_txn_data(part))) <= mirror.MAX_BODY


def test_a_large_mesh_is_written_in_several_transactions(kv):
    registry = registry_of(*(f"n{number:04}" for number in range(1200)), zones=[f"zone{number}" for number in range(400)])
    assert publish(kv, registry)["records"] == 1200
    assert len(kv.content) == 1200
    assert all(len(body) <= mirror.MAX_BODY and len(json.loads(body)) <= 64 for body in kv.bodies)


@given(st.dictionaries(st.text(max_size=8), st.binary(max_size=64) | st.just(json.dumps(record("a")).encode()), max_size=8))
def test_whatever_is_in_the_store_is_either_a_record_or_a_problem(found):
    records, problems = mirror.parse(found)
    assert sorted([*records, *problems]) == sorted(found)
    assert all(found[name] == json.dumps(record("a")).encode() for name in records)
