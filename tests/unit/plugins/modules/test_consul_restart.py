# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent, unit
from ansible_collections.vdloo.mesh.plugins.modules import consul_restart


class Restarts:
    """Takes the place of systemd: counts the restarts and does to the agent what a test wants of one."""

    def __init__(self):
        self.count = 0
        self.effect = lambda: None

    def __call__(self, verb, _module, *_names):
        if verb == "restart":
            self.count += 1
            self.effect()


@pytest.fixture
def restarts(fake_agent, monkeypatch):
    replacement = Restarts()
    monkeypatch.setattr(consul_restart, "PAUSE_S", 0.01)
    monkeypatch.setattr(consul_restart, "ANSWER_S", 0.2)
    monkeypatch.setattr(consul_restart, "ELECTION_S", 0.2)
    monkeypatch.setattr(consul_restart, "command", replacement)
    monkeypatch.setattr(unit, "show", lambda _run, _name: {})
    monkeypatch.setattr(unit, "main_uid", lambda _properties: 999)
    monkeypatch.setattr(unit, "last_words", lambda _run, _name: "the last words")
    monkeypatch.setattr(agent, "find", lambda _uid, port: (fake_agent.port, agent.Agent(fake_agent.port).describe()))
    fake_agent.health = health("web-1", "web-2", "web-3")
    return replacement


def health(*voters, sick=(), tolerance=1):
    servers = [{"Name": name, "Healthy": name not in sick, "Voter": True} for name in voters]
    return {"Healthy": not sick, "FailureTolerance": tolerance, "Servers": servers}


def run(capsys, fake_agent, check=False, **options):
    arguments = {"http_port": fake_agent.port, "timeout": 1, **options, "_ansible_check_mode": check}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        consul_restart.main()
    return json.loads(capsys.readouterr().out)


def test_a_server_of_a_healthy_mesh_is_restarted(capsys, fake_agent, restarts):
    result = run(capsys, fake_agent)
    assert (result["changed"], result["gated"], result["voters"]) == (True, True, ["web-1", "web-2", "web-3"])
    assert restarts.count == 1


def test_a_server_is_not_restarted_while_another_is_ill(capsys, fake_agent, restarts):
    fake_agent.health = health("web-1", "web-2", "web-3", sick=["web-2"], tolerance=0)
    result = run(capsys, fake_agent)
    assert "was not restarted, as that could cost the quorum (unhealthy: web-2)" in result["msg"]
    assert restarts.count == 0


def test_it_waits_for_the_ill_one_to_recover(capsys, fake_agent, restarts):
    fake_agent.health = health("web-1", "web-2", "web-3", sick=["web-2"], tolerance=0)

    def recover(fake, _method, path):
        if path.startswith("/v1/operator/autopilot") and len(fake.calls) > 6:
            fake.health = health("web-1", "web-2", "web-3")

    fake_agent.on_call = recover
    assert run(capsys, fake_agent)["changed"]
    assert restarts.count == 1


def test_a_user_may_force_it(capsys, fake_agent, restarts):
    fake_agent.health = health("web-1", "web-2", "web-3", sick=["web-2"], tolerance=0)
    assert run(capsys, fake_agent, force=True)["gated"] is False
    assert restarts.count == 1


def test_it_is_not_done_before_all_vote_again(capsys, fake_agent, restarts):
    def lose_the_vote():
        fake_agent.health = health("web-2", "web-3", tolerance=0)

    restarts.effect = lose_the_vote
    result = run(capsys, fake_agent)
    assert "not healthy again after 1 s (no vote yet: web-1)" in result["msg"]
    assert "the last words" in result["msg"]


def test_a_leader_that_does_not_come_back_is_a_failure(capsys, fake_agent, restarts):
    def lose_the_leader():
        fake_agent.leader = ""

    restarts.effect = lose_the_leader
    assert "there is no leader after 1 s" in run(capsys, fake_agent)["msg"]


def test_without_a_leader_there_is_no_quorum_to_lose(capsys, fake_agent, restarts):
    fake_agent.leader = ""
    assert run(capsys, fake_agent)["gated"] is False
    assert restarts.count == 1


def test_a_client_is_restarted_at_once(capsys, fake_agent, restarts):
    fake_agent.server = False
    fake_agent.health = health("web-2", "web-3", "web-4", sick=["web-2"], tolerance=0)
    assert run(capsys, fake_agent)["gated"] is False
    assert restarts.count == 1


def test_a_server_that_comes_back_as_a_client_needs_no_vote(capsys, fake_agent, restarts):
    def demote():
        fake_agent.server = False
        fake_agent.health = health("web-2", "web-3", tolerance=0)

    restarts.effect = demote
    assert run(capsys, fake_agent)["voters"] == ["web-2", "web-3"]


def test_check_mode_restarts_nothing(capsys, fake_agent, restarts):
    assert run(capsys, fake_agent, check=True)["changed"]
    assert restarts.count == 0
