# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The mirror of the registry, with the real library consul-kv: against a store that misbehaves on demand, and against Consul itself."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from pathlib import Path

import consul_kv
import consul_kv.api
import pytest
from ansible_collections.vdloo.mesh.plugins.action import registry_mirror as action
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import keys
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import mirror
from ansible_collections.vdloo.mesh.plugins.modules import registry_mirror
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[4]
CONSUL = ROOT / ".cache" / "consul"
KEY = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
PREFIX = "vdloo-mesh/v1/registry/"


def record(name, **changes):
    return {
        "name": name,
        "public_key": KEY,
        "address": keys.address_from_public(KEY),
        "overlay": "cjdns",
        "endpoints": [],
        "zones": [],
        "site": "",
        "server_eligible": True,
        "state": "member",
        "version": 1,
        "updated": "2026-01-01T00:00:00Z",
        **changes,
    }


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
        prefix, query = path[len("/v1/kv/") :].split("?")
        found = [
            {"Key": key, "Value": base64.b64encode(value).decode() if value else None}
            for key, value in sorted(store.content.items())
            if key.startswith(prefix) and query == "recurse"
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


def publish(store, registry, converged=None, check_mode=False, token="", timeout=5):
    """Publish to a fake store; return the result."""
    result = {}
    mirror.publish(mirror.Store(consul_kv, store.endpoint, token, timeout), registry, converged or {}, check_mode, result)
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
    assert [part["after_header"] for part in diff] == [PREFIX + "a", PREFIX + "b"]
    assert '"version": 1' in diff[0]["before"] and '"version": 2' in diff[0]["after"]
    assert diff[1]["before"] == ""


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
            mirror.publish(store, registry_of("a"), {}, False, {})


def test_an_agent_that_hangs_is_given_up_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = mirror.Store(consul_kv, f"http://127.0.0.1:{silent.getsockname()[1]}/v1/", "", 0.2)
        with pytest.raises(mirror.MirrorError, match="no answer in time"):
            mirror.publish(store, registry_of("a"), {}, False, {})


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
        mirror.publish(mirror.Store(consul_kv, kv.endpoint, "", 5), registry, {}, False, result)
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


# ---------------------------------------------------------------- what is handed in


@pytest.mark.parametrize(
    ("registry", "converged", "told"),
    [
        ({"a": {"name": "a"}}, [], "registry: 'a': it has no valid public_key"),
        ({"A": record("A")}, [], "registry: 'A'"),
        ({"a": record("b")}, [], "registry: 'a': its name"),
        ({}, ["a b"], "converged: 'a b' is not the name of a node"),
    ],
)
def test_bad_input_is_refused_by_name(registry, converged, told):
    (problem,) = registry_mirror.input_problems(registry, converged)
    assert problem.startswith(told)


@pytest.mark.parametrize(
    ("written", "endpoint"),
    [
        ("127.0.0.1:8500", "http://127.0.0.1:8500/v1/"),
        ("http://127.0.0.1:8501", "http://127.0.0.1:8501/v1/"),
        ("https://[::1]:8501", "https://[::1]:8501/v1/"),
    ],
)
def test_the_address_of_the_agent_is_read_as_consul_reads_it(written, endpoint):
    assert registry_mirror.endpoint_of(written) == endpoint


@pytest.mark.parametrize("written", ["unix:///run/consul.sock", "ftp://127.0.0.1", "http://127.0.0.1/v1/kv", ""])
def test_an_address_that_is_none_is_refused(written):
    with pytest.raises(ValueError, match="write"):
        registry_mirror.endpoint_of(written)


def test_the_library_is_imported_from_what_was_handed_in(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.split(".")[0] == "consul_kv"]:
        monkeypatch.delitem(sys.modules, name)
    loaded = registry_mirror.load_library(action.library(), str(tmp_path))
    assert Path(loaded.__file__).is_relative_to(tmp_path)
    assert loaded.Connection(endpoint="http://127.0.0.1:1/v1/", timeout=1).timeout == 1


@pytest.mark.parametrize("files", [{}, {"../evil.py": ""}, {"__init__.py": "import no_such_module"}, {"__init__.py": "def"}])
def test_something_else_than_the_library_is_refused(tmp_path, monkeypatch, files):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "consul_kv")
    with pytest.raises((ImportError, SyntaxError)):
        registry_mirror.load_library(files, str(tmp_path))
    assert not list(tmp_path.rglob("evil.py"))


def test_without_the_library_on_the_controller_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(action.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(action.LibraryError, match="pip install consul-kv"):
        action.library()


def test_a_library_that_is_too_old_is_not_handed_over(monkeypatch):
    monkeypatch.setattr(action.importlib.metadata, "version", lambda name: "0.7.3")
    with pytest.raises(action.LibraryError, match=r"0\.7\.3 is older than 0\.7\.4"):
        action.library()


# ---------------------------------------------------------------- Consul itself, through Ansible


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def consul(tmp_path_factory):
    """A Consul agent of our own; returns its address."""
    if not os.access(CONSUL, os.X_OK):
        pytest.skip("no Consul binary: script/bootstrap provides it")
    folder = tmp_path_factory.mktemp("consul")
    ports = {kind: free_port() for kind in ("http", "dns", "server", "serf_lan")}
    (folder / "ports.json").write_text(json.dumps({"ports": {**ports, "serf_wan": -1, "grpc": -1}}))
    with (folder / "log").open("w") as log:
        agent = subprocess.Popen(
            [CONSUL, "agent", "-dev", "-bind", "127.0.0.1", "-config-file", folder / "ports.json"], stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{ports['http']}"
    try:
        deadline = time.monotonic() + 30
        while get(address + "/v1/status/leader") in (None, ""):
            assert agent.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        yield address
    finally:
        agent.terminate()
        agent.wait(timeout=30)


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)
    except (urllib.error.URLError, OSError):
        return None


def run_module(tmp_path, arguments, *options, **environment):
    """Run the module as a user does, on this machine; return its result with the output of Ansible."""
    (tmp_path / "ansible.cfg").touch()
    finished = subprocess.run(
        [
            Path(sys.executable).parent / "ansible",
            *("localhost", "-i", "localhost,", "-c", "local", "-m", "vdloo.mesh.registry_mirror", "-a", json.dumps(arguments), *options),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            **environment,
        },
        text=True,
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(finished.stdout[finished.stdout.index("=>") + 2 :]), finished.stdout + finished.stderr


def test_a_real_consul_holds_the_registry_afterwards(consul, tmp_path):
    arguments = {"consul_addr": consul, "registry": registry_of(*(f"n{number}" for number in range(70))), "converged": ["n1"]}
    foreseen, output = run_module(tmp_path, arguments, "--check", "--diff")
    assert (foreseen["changed"], len(foreseen["written"]), output.count(f"+++ after: {PREFIX}")) == (True, 70, 70)
    assert get(consul + "/v1/kv/vdloo-mesh/?recurse") is None

    first, output = run_module(tmp_path, arguments, "-vvv")
    assert (first["changed"], first["mirrored"], len(first["written"]), first["records"]) == (True, True, 70, 70)
    assert "def put_kv" not in output, "the library is no news"
    found = {entry["Key"]: json.loads(base64.b64decode(entry["Value"])) for entry in get(consul + "/v1/kv/vdloo-mesh/?recurse")}
    assert len(found) == 71
    assert found[PREFIX + "n69"] == record("n69")
    assert found["vdloo-mesh/v1/converged/n1"]["by"] == socket.gethostname()

    second, _output = run_module(tmp_path, arguments)
    assert (second["changed"], second["written"], second["records"]) == (False, [], 70)


def test_through_ansible_no_agent_is_a_warning_and_no_failure(tmp_path):
    result, output = run_module(tmp_path, {"consul_addr": f"127.0.0.1:{free_port()}", "registry": registry_of("a")})
    assert (result["changed"], result["mirrored"]) == (False, False)
    assert "The registry was not mirrored" in output and "refused" in output


def test_through_ansible_no_library_is_a_warning_and_no_failure(tmp_path):
    (tmp_path / "consul_kv.py").write_text("")
    result, output = run_module(tmp_path, {"registry": registry_of("a")}, PYTHONPATH=str(tmp_path))
    assert (result["changed"], result["mirrored"]) == (False, False)
    assert "pip install consul-kv" in " ".join(output.split())
