# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import unit
from ansible_collections.vdloo.mesh.plugins.modules import consul_settle


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setattr(consul_settle, "PAUSE_S", 0.01)
    monkeypatch.setattr(consul_settle, "ANSWER_S", 0.2)
    monkeypatch.setattr(unit, "show", lambda _run, _name: {"ActiveState": "active", "SubState": "running", "NRestarts": "0"})
    monkeypatch.setattr(unit, "last_words", lambda _run, _name: "the last words")
    (tmp_path / "bootstrap.json").write_text("{}")
    return tmp_path


def run(capsys, node, agent, check=False, **options):
    arguments = {
        "http_port": agent.port,
        "node_name": "web-1",
        "server": True,
        "datacenter": "mesh",
        "bind_address": "fc00::1",
        "retry_join": ["fc00::2", "fc00::3"],
        "marker": str(node / "state" / "bootstrapped"),
        "bootstrap_file": str(node / "bootstrap.json"),
        "timeout": 1,
        **options,
        "_ansible_check_mode": check,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        consul_settle.main()
    return json.loads(capsys.readouterr().out)


def test_the_first_leader_ends_the_bootstrap(capsys, node, fake_agent):
    result = run(capsys, node, fake_agent)
    assert (result["changed"], result["leader"], result["members"]) == (True, "[fc00::1]:8300", ["web-1"])
    assert (node / "state" / "bootstrapped").read_text() == "mesh\n"
    assert not (node / "bootstrap.json").exists()


def test_a_settled_node_changes_nothing(capsys, node, fake_agent):
    run(capsys, node, fake_agent)
    assert not run(capsys, node, fake_agent)["changed"]


def test_a_run_that_was_killed_after_the_marker_still_removes_the_file(capsys, node, fake_agent):
    run(capsys, node, fake_agent)
    (node / "bootstrap.json").write_text("{}")
    assert run(capsys, node, fake_agent)["done"] == [f"removed {node}/bootstrap.json"]


def test_a_leader_that_comes_late_is_waited_for(capsys, node, fake_agent):
    fake_agent.leader = ""

    def elect(agent, _method, path):
        if path == "/v1/status/leader" and len(agent.calls) > 9:
            agent.leader = "[fc00::2]:8300"

    fake_agent.on_call = elect
    assert run(capsys, node, fake_agent)["leader"] == "[fc00::2]:8300"


def test_without_a_leader_it_names_who_is_missing_and_keeps_the_bootstrap(capsys, node, fake_agent):
    fake_agent.leader = ""
    fake_agent.members.append({"Name": "web-2", "Addr": "fc00::2", "Status": 1, "Tags": {"role": "consul"}})
    result = run(capsys, node, fake_agent, bootstrap_expect=3)
    assert result["failed"]
    assert "alive are web-1, web-2; 2 of consul_bootstrap_expect 3 servers are there" in result["msg"]
    assert "not seen of consul_retry_join: fc00::3 (" in result["msg"]
    assert "the last words" in result["msg"]
    assert (node / "bootstrap.json").exists()
    assert not (node / "state").exists()


def test_an_agent_that_is_alone_is_made_to_join(capsys, node, fake_agent):
    fake_agent.leader = ""

    def join(agent, method, path):
        if method == "PUT" and "fc00::2" in path:
            agent.leader = "[fc00::2]:8300"

    fake_agent.on_call = join
    result = run(capsys, node, fake_agent)
    assert "joined [fc00::2]:8301" in result["done"]


def test_an_agent_with_company_joins_nobody(capsys, node, fake_agent):
    fake_agent.leader = ""
    fake_agent.members.append({"Name": "web-2", "Addr": "fc00::2", "Status": 1})
    run(capsys, node, fake_agent)
    assert not [call for call in fake_agent.calls if call.startswith("PUT")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"raft": ["web-2"]}, "has not taken this server among the raft peers (web-2)"),
        ({"members": [{"Name": "web-1", "Addr": "fc00::1", "Status": 4}]}, "does not see itself alive"),
        ({"node": "other"}, "has node 'other' and not 'web-1': is another Consul running"),
        ({"server": False}, "has server False and not True"),
    ],
)
def test_a_node_without_its_place_says_what_is_missing(capsys, node, fake_agent, change, says):
    vars(fake_agent).update(change)
    result = run(capsys, node, fake_agent)
    assert says in result["msg"]
    assert (node / "bootstrap.json").exists()


def test_a_client_needs_no_raft_peer_but_a_leader_that_answers(capsys, node, fake_agent):
    fake_agent.server, fake_agent.raft = False, ["web-2"]
    assert run(capsys, node, fake_agent, server=False)["leader"]


def test_an_agent_that_crashes_again_and_again_is_not_waited_for(capsys, node, fake_agent, monkeypatch):
    monkeypatch.setattr(consul_settle, "ANSWER_S", 60)
    monkeypatch.setattr(unit, "show", lambda _run, _name: {"ActiveState": "activating", "SubState": "auto-restart", "NRestarts": "2"})
    result = run(capsys, node, fake_agent, http_port=1)
    assert "the unit is activating (auto-restart), restarted 2 times" in result["msg"]


def test_without_waiting_the_answer_of_the_agent_is_enough(capsys, node, fake_agent):
    fake_agent.leader = ""
    result = run(capsys, node, fake_agent, wait=False)
    assert (result["changed"], result["leader"]) == (False, "")
    assert (node / "bootstrap.json").exists()


def test_check_mode_only_tells(capsys, node, fake_agent):
    assert run(capsys, node, fake_agent, check=True)["changed"]
    assert (node / "bootstrap.json").exists()
    assert not (node / "state").exists()
