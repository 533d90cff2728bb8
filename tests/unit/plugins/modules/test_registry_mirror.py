# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The module and its half on the controller: what they are handed, and what they do to Consul itself."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.action import registry_mirror as action
from ansible_collections.vdloo.mesh.plugins.modules import registry_mirror
from fake_mesh import record

ROOT = Path(__file__).resolve().parents[4]
CONSUL = ROOT / ".cache" / "consul"
PREFIX = "vdloo-mesh/v1/registry/"


def registry_of(*names, **changes):
    return {name: record(name, **changes) for name in names}


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
    values = {"mesh": {"h2o_attempts": 2}, "hosts": {}, "consul_servers": None, "withheld": []}
    settings = {"version": 1, "updated": "2026-01-01T00:00:00Z", "by": "laptop", "values": values, "ancestors": []}
    registry = registry_of(*(f"n{number}" for number in range(70)))
    arguments = {"consul_addr": consul, "registry": registry, "settings": settings, "converged": ["n1"]}
    foreseen, output = run_module(tmp_path, arguments, "--check", "--diff")
    assert (foreseen["changed"], len(foreseen["written"]), output.count(f"+++ after: {PREFIX}")) == (True, 70, 70)
    assert get(consul + "/v1/kv/vdloo-mesh/?recurse") is None

    first, output = run_module(tmp_path, arguments, "-vvv")
    assert (first["changed"], first["mirrored"], len(first["written"]), first["records"]) == (True, True, 70, 70)
    assert "def put_kv" not in output, "the library is no news"
    found = {entry["Key"]: json.loads(base64.b64decode(entry["Value"])) for entry in get(consul + "/v1/kv/vdloo-mesh/?recurse")}
    assert len(found) == 72
    assert found["vdloo-mesh/v1/settings"] == settings and first["settings"]
    assert found[PREFIX + "n69"] == record("n69")
    assert found["vdloo-mesh/v1/converged/n1"]["by"] == socket.gethostname()

    second, _output = run_module(tmp_path, arguments)
    assert (second["changed"], second["written"], second["records"], second["settings"]) == (False, [], 70, False)


def test_through_ansible_no_agent_is_a_warning_and_no_failure(tmp_path):
    result, output = run_module(tmp_path, {"consul_addr": f"127.0.0.1:{free_port()}", "registry": registry_of("a")})
    assert (result["changed"], result["mirrored"]) == (False, False)
    assert "The registry was not mirrored" in output and "refused" in output


def test_through_ansible_no_library_is_a_warning_and_no_failure(tmp_path):
    (tmp_path / "consul_kv.py").write_text("")
    result, output = run_module(tmp_path, {"registry": registry_of("a")}, PYTHONPATH=str(tmp_path))
    assert (result["changed"], result["mirrored"]) == (False, False)
    assert "pip install consul-kv" in " ".join(output.split())
