# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import threading

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import agent, unit
from ansible_collections.vdloo.mesh.plugins.modules import consul_restart


class Restarts:
    """Takes the place of systemd: counts the restarts and does to the agent what a test wants of one."""

    def __init__(self):
        self.count = 0
        self.effect = lambda: None
        self.stopped = False

    def __call__(self, verb, _module, *_names):
        if verb == "restart":
            self.count += 1
            self.stopped = False
            self.effect()

    def leave(self):
        """What an agent does that is asked to leave: it ends."""
        self.stopped = True

    def ends(self, _agent):
        assert self.stopped


@pytest.fixture
def restarts(fake_agent, monkeypatch):
    replacement = Restarts()
    monkeypatch.setattr(consul_restart, "PAUSE_S", 0.01)
    monkeypatch.setattr(consul_restart, "ANSWER_S", 0.2)
    monkeypatch.setattr(consul_restart, "ELECTION_S", 0.2)
    monkeypatch.setattr(consul_restart, "command", replacement)
    monkeypatch.setattr(agent.Agent, "leave", lambda _agent, _seconds: replacement.leave())
    monkeypatch.setattr(consul_restart, "OLD_NEWS_S", 0)
    monkeypatch.setattr(consul_restart, "wait_for_end", replacement.ends)
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
    assert (restarts.count, result["restarted"]) == (0, False)


def test_it_waits_for_the_ill_one_to_recover(capsys, fake_agent, restarts):
    fake_agent.health = health("web-1", "web-2", "web-3", sick=["web-2"], tolerance=0)

    def recover(fake, _method, path):
        if path.startswith("/v1/operator/autopilot") and len(fake.calls) > 6:
            fake.health = health("web-1", "web-2", "web-3")

    fake_agent.on_call = recover
    assert run(capsys, fake_agent)["changed"]
    assert restarts.count == 1


def test_what_autopilot_found_before_the_restart_does_not_count(capsys, fake_agent, restarts, monkeypatch):
    monkeypatch.setattr(consul_restart, "OLD_NEWS_S", 0.3)
    restarts.effect = lambda: threading.Timer(
        0.1, setattr, (fake_agent, "health", health("web-1", "web-2", "web-3", sick=["web-1"]))
    ).start()
    assert "not healthy again after 1 s (unhealthy: web-1)" in run(capsys, fake_agent)["msg"]


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
    assert result["restarted"]


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


def become(fake_agent, server, *voters, **state):
    """Make the effect of a restart after which the agent has this role, and these vote."""

    def effect():
        fake_agent.server = server
        fake_agent.health = health(*voters, **state)

    return effect


def test_a_client_becomes_a_server_and_is_waited_for_until_it_votes(capsys, fake_agent, restarts):
    fake_agent.server = False
    fake_agent.health = health("web-2", "web-3", "web-4")
    restarts.effect = become(fake_agent, True, "web-1", "web-2", "web-3", "web-4")
    result = run(capsys, fake_agent, server=True)
    assert (result["gated"], result["voters"]) == (True, ["web-1", "web-2", "web-3", "web-4"])


def test_an_ill_voter_does_not_keep_its_substitute_away(capsys, fake_agent, restarts):
    fake_agent.server = False
    fake_agent.health = health("web-2", "web-3", "web-4", sick=["web-4"], tolerance=0)
    restarts.effect = become(fake_agent, True, "web-1", "web-2", "web-3")
    assert run(capsys, fake_agent, server=True)["voters"] == ["web-1", "web-2", "web-3"]


def test_a_new_server_without_a_vote_is_a_failure(capsys, fake_agent, restarts):
    fake_agent.server = False
    fake_agent.health = health("web-2", "web-3", "web-4")
    restarts.effect = become(fake_agent, True, "web-2", "web-3", "web-4")
    assert "the mesh cannot rely on it after 1 s (no vote yet: web-1)" in run(capsys, fake_agent, server=True)["msg"]


def test_a_new_server_after_which_the_mesh_tolerates_less_is_a_failure(capsys, fake_agent, restarts):
    fake_agent.server = False
    fake_agent.health = health("web-2", "web-3", "web-4")
    restarts.effect = become(fake_agent, True, "web-1", "web-2", "web-3", "web-4", sick=["web-4"], tolerance=0)
    assert "(unhealthy: web-4)" in run(capsys, fake_agent, server=True)["msg"]


def test_a_new_server_is_good_when_the_mesh_tolerates_as_little_as_before(capsys, fake_agent, restarts, monkeypatch):
    warnings = []
    monkeypatch.setattr(consul_restart.AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    fake_agent.server = False
    fake_agent.health = health("web-2", "web-3", "web-4", sick=["web-4"], tolerance=0)
    restarts.effect = become(fake_agent, True, "web-1", "web-2", "web-3", "web-4", sick=["web-4"], tolerance=0)
    result = run(capsys, fake_agent, server=True)
    assert "web-1" in result["voters"]
    assert "no more losses than before (unhealthy: web-4)" in warnings[0]


def test_an_agent_that_does_not_become_a_server_is_a_failure(capsys, fake_agent, restarts):
    fake_agent.server = False
    assert "restarted to be a server, but is a client" in run(capsys, fake_agent, server=True)["msg"]


def test_a_server_that_was_down_waits_for_its_vote_where_there_is_a_leader(capsys, fake_agent, restarts, monkeypatch):
    monkeypatch.setattr(unit, "main_uid", lambda _properties: None)
    fake_agent.health = health("web-2", "web-3", "web-4")
    assert "no vote yet: web-1" in run(capsys, fake_agent, server=True)["msg"]


def test_servers_that_were_all_down_do_not_wait_for_one_another(capsys, fake_agent, restarts, monkeypatch):
    monkeypatch.setattr(unit, "main_uid", lambda _properties: None)
    fake_agent.leader = ""
    assert run(capsys, fake_agent, server=True)["gated"] is False
    assert restarts.count == 1


def test_a_server_leaves_before_it_becomes_a_client(capsys, fake_agent, restarts):
    fake_agent.health = health("web-1", "web-2", "web-3", "web-4")
    order = []
    demoted = become(fake_agent, False, "web-2", "web-3", "web-4")

    def effect():
        order.append("start")
        demoted()

    agent.Agent.leave = lambda self, seconds: (order.append("leave"), restarts.leave())
    restarts.effect = effect
    result = run(capsys, fake_agent, server=False, voters=["web-2", "web-3", "web-4"])
    assert result["voters"] == ["web-2", "web-3", "web-4"]
    assert order == ["leave", "start"]


@pytest.mark.parametrize(
    ("state", "voters", "reason"),
    [
        (health("web-1", "web-2", "web-3"), ["web-2", "web-3", "web-4"], "no vote yet: web-4"),
        (health("web-1", "web-2", "web-3"), [], "the other 2 voters would tolerate no failure"),
        (health("web-1", "web-2", "web-3", "web-4", sick=["web-3"]), ["web-2", "web-4"], "unhealthy: web-3"),
        (health("web-1", tolerance=0), [], "it is the only voter"),
    ],
)
def test_a_server_that_the_others_need_neither_leaves_nor_is_restarted(capsys, fake_agent, restarts, state, voters, reason):
    fake_agent.health = state
    result = run(capsys, fake_agent, server=False, voters=voters)
    assert f"web-1 stays a server, as the others cannot do without its vote ({reason}" in result["msg"]
    assert (restarts.count, restarts.stopped, result["restarted"]) == (0, False, False)


def test_a_server_that_has_just_died_is_noticed_before_another_gives_up_its_vote(capsys, fake_agent, restarts, monkeypatch):
    monkeypatch.setattr(consul_restart, "OLD_NEWS_S", 0.3)
    fake_agent.health = health("web-1", "web-2", "web-3", "web-4")
    sick = health("web-1", "web-2", "web-3", "web-4", sick=["web-3"])
    threading.Timer(0.15, setattr, (fake_agent, "health", sick)).start()
    assert "(unhealthy: web-3)" in run(capsys, fake_agent, server=False, voters=["web-2"])["msg"]
    assert restarts.count == 0


def test_without_a_leader_no_server_gives_up_its_vote(capsys, fake_agent, restarts):
    fake_agent.leader = ""
    assert "the mesh has no leader and may need its vote" in run(capsys, fake_agent, server=False)["msg"]
    assert restarts.count == 0


def test_a_server_that_never_had_a_leader_becomes_a_client_at_once(capsys, fake_agent, restarts):
    fake_agent.leader = ""
    restarts.effect = become(fake_agent, False)
    assert run(capsys, fake_agent, server=False, bootstrapped=False)["changed"]
    assert restarts.count == 1


def test_a_server_that_still_votes_after_it_left_is_a_failure(capsys, fake_agent, restarts):
    fake_agent.health = health("web-1", "web-2", "web-3", "web-4")
    restarts.effect = become(fake_agent, False, "web-1", "web-2", "web-3", "web-4")
    assert "(web-1 still votes)" in run(capsys, fake_agent, server=False)["msg"]


def test_a_user_may_force_a_server_to_be_a_client_and_it_leaves_all_the_same(capsys, fake_agent, restarts):
    fake_agent.health = health("web-1", "web-2", "web-3", sick=["web-2"], tolerance=0)
    restarts.effect = lambda: setattr(fake_agent, "server", False)
    left = []
    agent.Agent.leave = lambda self, seconds: (left.append(self), restarts.leave())
    assert run(capsys, fake_agent, server=False, force=True)["gated"] is False
    assert (len(left), restarts.count) == (1, 1)


@pytest.mark.parametrize("server", [True, False])
def test_check_mode_restarts_nothing(capsys, fake_agent, restarts, server):
    assert run(capsys, fake_agent, check=True, server=server)["changed"]
    assert (restarts.count, restarts.stopped) == (0, False)


def test_a_server_leaves_for_good_when_the_others_can_do_without(capsys, fake_agent, restarts, monkeypatch):
    called = []
    monkeypatch.setattr(consul_restart, "command", lambda verb, _module, *names: called.append((restarts.stopped, verb, *names)))
    fake_agent.health = health("web-1", "web-2", "web-3")
    assert run(capsys, fake_agent, leave=True, voters=["web-2", "web-3"])["changed"]
    # It has left before systemd stops it.
    assert called == [(True, "disable", "--now", "consul.service")]


@pytest.mark.parametrize(
    ("state", "wanted", "told"),
    [
        (
            health("web-1", "web-2", "web-3", sick=["web-2"], tolerance=0),
            ["web-2", "web-3"],
            "the others cannot do without its vote (unhealthy: web-2)",
        ),
        (health("web-1", "web-2", "web-3"), ["web-2", "web-3", "web-4"], "(no vote yet: web-4)"),
        (health("web-1"), [], "it is the only voter: its data would be lost"),
    ],
)
def test_a_server_does_not_leave_while_the_others_need_it(capsys, fake_agent, restarts, state, wanted, told):
    fake_agent.health = state
    result = run(capsys, fake_agent, leave=True, voters=wanted)
    assert told in result["msg"]
    assert "consul_restart_unhealthy" not in result["msg"]
    assert (restarts.stopped, result["restarted"]) == (False, False)


def test_without_a_leader_no_server_leaves(capsys, fake_agent, restarts):
    fake_agent.leader = ""
    assert "no leader to take its vote" in run(capsys, fake_agent, leave=True)["msg"]
    assert not restarts.stopped


def test_an_agent_that_has_left_and_is_off_is_left_alone(capsys, fake_agent, restarts, monkeypatch):
    monkeypatch.setattr(unit, "show", lambda _run, _name: {"ActiveState": "inactive", "UnitFileState": "disabled"})
    monkeypatch.setattr(agent, "find", lambda _uid, port: (port, {}))
    assert not run(capsys, fake_agent, leave=True)["changed"]


def test_check_mode_lets_no_agent_leave(capsys, fake_agent, restarts):
    assert run(capsys, fake_agent, check=True, leave=True)["changed"]
    assert not restarts.stopped
