# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings with which a daemon cannot run leave the node as it was, on every role."""

from __future__ import annotations

import json

import pytest

NODES = ("n1", "n2", "n3")
FILES = "sha256sum /etc/cjdroute.conf /etc/consul.d/*.json /etc/dnsmasq-mesh/dnsmasq.conf /etc/h2o/* /etc/systemd/system/*.service"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"cjdns_config": {"router": {"publicPeer": 1.5}}}, "cjdns knows whole numbers only"),
        ({"consul_config": {"no_such_key": 1}}, "no_such_key"),
        ({"dnsmasq_config": ["no-such-option"]}, "bad option"),
        ({"h2o_config": {"no-such-command": 1}}, "no-such-command"),
    ],
    ids=["cjdns", "consul", "dnsmasq", "h2o"],
)
def test_a_configuration_that_the_check_of_a_daemon_refuses_changes_nothing(mesh, setting, told):
    before = {name: (mesh.node(name).check_output(FILES), mesh.pids(name)) for name in NODES}
    run = mesh.site("--extra-vars", json.dumps(setting))
    assert run.code != 0, run.output
    assert told in run.output, run.output
    # Only one node was given it at all.
    assert "The rollout stopped at n" in run.output, run.output
    assert {name: (mesh.node(name).check_output(FILES), mesh.pids(name)) for name in NODES} == before
    after = mesh.site()
    assert (after.code, set(after.changed.values())) == (0, {0}), after.output


@pytest.mark.parametrize(
    ("daemon", "setting", "told"),
    [
        (
            "cjdns",
            {"cjdns_config": {"security": [{"setuser": "nosuchuser"}]}},
            "The previous files were put back, and cjdns runs with them.",
        ),
        (
            "consul",
            {"consul_config": {"log_file": "/root/not-for-consul/"}},
            "The previous files were put back, and the agent runs with them.",
        ),
        ("dnsmasq-mesh", {"dnsmasq_config": ["user=nosuchuser"]}, "The files of dnsmasq from before are back."),
        # Where Consul listens.
        ("h2o", {"h2o_config": {"listen": [{"port": 80}, {"host": "127.0.0.1", "port": 8500}]}}, "The files from before are back."),
    ],
    ids=["cjdns", "consul", "dnsmasq", "h2o"],
)
def test_a_configuration_with_which_a_daemon_does_not_start_is_taken_back(mesh, daemon, setting, told):
    others = {name: mesh.pids(name) for name in ("n1", "n2")}
    files, pids = mesh.node("n3").check_output(FILES), mesh.pids("n3")
    run = mesh.site("--limit", "n3", "--extra-vars", json.dumps(setting))
    assert run.code != 0, run.output
    assert told in run.output, run.output
    assert mesh.node("n3").check_output(FILES) == files
    mesh.wait_for(lambda: mesh.node("n3").check_output("systemctl is-active %s", daemon) == "active", f"{daemon} runs again")
    mesh.wait_for(lambda: mesh.pings("n3", "n1") and mesh.members("n3") == dict.fromkeys(NODES, "alive"), "n3 is whole again")
    now = mesh.pids("n3")
    assert {other: now[other] for other in now if other != daemon} == {other: pids[other] for other in pids if other != daemon}
    assert {name: mesh.pids(name) for name in ("n1", "n2")} == others
    mesh.wait_for(lambda: "served by" in mesh.node("n3").run("curl -s -m 5 http://127.0.0.1/").stdout, "n3 serves")
    after = mesh.site()
    assert after.code == 0, after.output
    assert set(mesh.site().changed.values()) == {0}
