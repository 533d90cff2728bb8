# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import base64
import json
import os
import socket

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent, unit
from ansible_collections.vdloo.mesh.plugins.modules import consul_preflight

KEY = base64.b64encode(bytes(range(32))).decode()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with systemd on which nothing runs and everything is in a folder of its own."""
    real = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/systemd/system" or real(path))
    monkeypatch.setattr(unit, "show", lambda _run, _name: {"LoadState": "not-found", "ActiveState": "inactive", "MainPID": "0"})
    monkeypatch.setattr(consul_preflight, "address_missing", lambda _module, _ip, _address: False)
    return tmp_path


def run(capsys, node, **options):
    arguments = {
        "host": "phone1",
        "method": "release",
        "version": "1.21.5",
        "release_checksums": {name: "a" * 64 for name in ("amd64", "arm64", "arm", "386")},
        "binary": str(node / "consul"),
        "stamp": str(node / "stamp"),
        "marker": str(node / "marker"),
        "server": True,
        "bind_address": "127.0.0.1",
        "retry_join": ["fc00::2"],
        "gossip_key": KEY,
        "datacenter": "mesh",
        "node_name": "web-1",
        "data_dir": "/var/lib/consul",
        "config_dir": "/etc/consul.d",
        "ports": {name: free_port() for name in ("http", "dns", "server", "serf_lan")},
        **options,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        consul_preflight.main()
    out = capsys.readouterr().out
    assert arguments["gossip_key"] not in out
    return json.loads(out)


def test_a_fresh_node_needs_the_vendors_archive(capsys, node):
    result = run(capsys, node)
    assert result["install_needed"]
    assert result["release"]["checksum"] == "a" * 64
    assert result["release"]["file"] == f"consul_1.21.5_linux_{result['architecture']}.zip"
    assert (result["agent"], result["bootstrapped"], result["unit"]["known"]) == ({}, "", False)


def test_every_problem_names_the_host(capsys, node):
    result = run(capsys, node, version="1.2.x", node_name="a b")
    assert result["msg"].splitlines() == [
        "consul_version 1.2.x is below 1.8: set consul_version or consul_install_method (host phone1)",
        "consul_node_name 'a b' is not a DNS label: use at most 63 letters, digits and inner hyphens,"
        " as it becomes <name>.node.consul (host phone1)",
    ]


def test_ports_that_are_no_numbers_are_refused(capsys, node):
    assert "must be numbers (host phone1)" in run(capsys, node, ports={"http": "x"})["msg"]


def test_a_taken_port_is_named_with_its_holder(capsys, node):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        ports = {"http": port, "dns": free_port(), "server": free_port(), "serf_lan": free_port()}
        result = run(capsys, node, ports=ports)
    assert f"port {port}/tcp on 127.0.0.1 is held by " in result["msg"]
    assert f"(pid {os.getpid()})" in result["msg"]


def test_a_client_does_not_need_the_port_of_servers(capsys, node):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        ports = {"server": holder.getsockname()[1], "http": free_port(), "dns": free_port(), "serf_lan": free_port()}
        assert "failed" not in run(capsys, node, server=False, ports=ports)
        assert "held by" in run(capsys, node, server=True, ports=ports)["msg"]


def test_the_ports_of_the_running_agent_are_its_own(capsys, node, monkeypatch, fake_agent):
    monkeypatch.setattr(unit, "show", lambda _run, _name: {"LoadState": "loaded", "ActiveState": "active", "MainPID": str(os.getpid())})
    who = {"node": "web-1", "server": True, "address": "127.0.0.1", "leader": "x", "bootstrap_expect": 0}
    monkeypatch.setattr(agent, "find", lambda _uid, port: (port, who))
    ports = {"http": fake_agent.port, "dns": free_port(), "server": free_port(), "serf_lan": free_port()}
    result = run(capsys, node, ports=ports)
    assert (result["unit"]["active"], result["agent"]) == (True, who)


def test_a_binary_of_another_version_is_replaced(capsys, node):
    (node / "consul").write_text("#!/bin/sh\necho 'Consul v1.9.0'\n")
    (node / "consul").chmod(0o755)
    result = run(capsys, node)
    assert (result["install_needed"], result["binary"]["version"]) == (True, "1.9.0")


def test_a_package_that_is_there_is_not_installed_again(capsys, node):
    (node / "consul").write_text("#!/bin/sh\necho 'Consul v1.8.7'\n")
    (node / "consul").chmod(0o755)
    assert not run(capsys, node, method="package")["install_needed"]


def test_a_node_that_has_seen_a_leader_remembers_where(capsys, node):
    (node / "marker").write_text("mesh\n")
    assert run(capsys, node, retry_join=[])["bootstrapped"] == "mesh"
    assert "this node belongs to the datacenter mesh" in run(capsys, node, datacenter="other")["msg"]


@pytest.mark.parametrize(
    ("keyring", "state"), [(None, "none"), ("", "none"), ("{", "none"), (json.dumps(["x", KEY]), "same"), ('["x"]', "other")]
)
def test_the_key_is_compared_with_those_that_the_agent_keeps(tmp_path, keyring, state):
    if keyring is not None:
        (tmp_path / "serf").mkdir()
        (tmp_path / "serf" / "local.keyring").write_text(keyring)
    assert consul_preflight.keyring_state(str(tmp_path), KEY) == state


APT = "consul:\n  Installed: (none)\n  Candidate: 1.8.7+dfsg1-2+b3\n  Version table:\n"
PACMAN = "Repository      : extra\nName            : consul\nVersion         : 1.20.2-1\n"


@pytest.mark.parametrize(
    ("manager", "out", "found"),
    [
        ("apt-cache", APT, ("apt", "1.8.7")),
        ("apt-cache", "", ("apt", "")),
        ("apt-cache", "consul:\n  Candidate: (none)\n", ("apt", "")),
        ("pacman", PACMAN, ("pacman", "1.20.2")),
        ("apk", "", ("", "")),
    ],
)
def test_the_package_lists_are_asked(manager, out, found):
    class Module:
        def get_bin_path(self, name):
            return name if name == manager else None

        def run_command(self, _command, environ_update):
            assert environ_update == {"LC_ALL": "C"}
            return 0, out, ""

    assert consul_preflight.package_candidate(Module()) == found


def test_the_system_is_called_by_its_name():
    assert consul_preflight.os_name('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n') == "Debian GNU/Linux 12 (bookworm)"
    assert consul_preflight.os_name("") == "this system"
