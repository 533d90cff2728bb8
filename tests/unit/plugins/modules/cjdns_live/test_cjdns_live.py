# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""On nodes with running daemons, doubles with links to each other."""

from __future__ import annotations

import copy
import json
import os

import cjdroutes
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, running
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_live

SECRET = "a-secret-that-nobody-may-see"


class Killed(BaseException):
    """The run ends at once, as by SIGKILL."""


class Host:
    """A node with a running daemon, and the files that the role and the unit put there."""

    def __init__(self, node, folder):
        self.node, self.started = node, folder / f"started-{node.name}.conf"
        self.wished = copy.deepcopy(node.config)
        self.save(self.started)

    def save(self, path=None):
        (path or self.node.path).write_text(conf.dump(self.wished))

    @property
    def connect_to(self):
        return self.wished["interfaces"]["UDPInterface"][0]["connectTo"]

    def dial(self, other, **changes):
        self.connect_to[f"127.0.0.1:{other.port}"] = {"publicKey": other.key, "password": other.password, "peerName": other.name, **changes}

    def users(self):
        return set(self.node.admin("AuthorizedPasswords_list")["users"]) - {"Local Peers"}

    def links(self):
        """The names of the links that are established."""
        return sorted(peer.get("user") for peer in self.node.admin.peers() if peer["state"] == "ESTABLISHED")


def untouched(*nodes):
    """What the daemons noted about their links: it gets longer with everything that happens to one."""
    return [[line for line in node.log.read_text().splitlines() if " peer " in line] for node in nodes]


def wire(one, two, three, four):
    """One dials three and is dialled by four; two is for later. The folder of the others is not of interest."""
    one.port6 = cjdroutes.free_port()
    one.config["interfaces"]["UDPInterface"].append({"bind": f"[::1]:{one.port6}", "connectTo": {}})
    two.port6 = cjdroutes.free_port()
    two.config["interfaces"]["UDPInterface"].append({"bind": f"[::1]:{two.port6}", "connectTo": {}})
    one.config["authorizedPasswords"] = [{"user": "four", "password": "password-of-four-at-one"}]
    one.dial(three)
    four.dial(one, password="password-of-four-at-one", login="four")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    with cjdroutes.running(tmp_path_factory.mktemp("nodes"), "one", "two", "three", "four", change=wire) as nodes:
        yield nodes


def reset(node):
    """Give a daemon back what it was started with, whatever a test did to it; its links are new."""
    for user in set(node.admin("AuthorizedPasswords_list")["users"]) - {"Local Peers"}:
        node.admin("AuthorizedPasswords_remove", user=user)
    for key in {peer["addr"].split(".", 5)[5] for peer in node.admin.peers()}:
        node.admin("InterfaceController_disconnectPeer", pubkey=key)
    for entry in node.config["authorizedPasswords"]:
        node.admin("AuthorizedPasswords_add", **entry)
    for endpoint, entry in node.config["interfaces"]["UDPInterface"][0]["connectTo"].items():
        node.admin("UDPInterface_beginConnection", address=endpoint, interfaceNumber=0, **entry)


@pytest.fixture
def hosts(nodes, tmp_path):
    """One has a link that it dialled, to three, and one that it accepted, from four. Nothing is restarted on the way."""
    pids = [node.admin.ask({"q": "Core_pid"}) for node in nodes]
    for node in nodes:
        reset(node)
    hosts = [Host(node, tmp_path) for node in nodes]
    for host in hosts:
        host.save()
    assert cjdroutes.wait_until(lambda: [host.links() for host in hosts] == [["four", "three"], [], ["friend-of-three"], ["one"]], 20)
    # On both ends: a link that is only just coming up is noted by its daemon after the test has begun.
    assert cjdroutes.wait_until(lambda: all(peer["state"] == "ESTABLISHED" for node in nodes for peer in node.admin.peers()), 20)
    yield hosts
    assert [node.admin.ask({"q": "Core_pid"}) for node in nodes] == pids


def test_a_daemon_that_has_its_configuration_is_left_alone(run, hosts):
    one = hosts[0]
    before = untouched(*(host.node for host in hosts))
    result = run(one)
    assert (result["changed"], result["restart"], result["reason"], result["steps"]) == (False, False, "", [])
    assert result["diff"]["before"] == result["diff"]["after"]
    assert untouched(*(host.node for host in hosts)) == before


def test_a_peer_and_a_user_are_added_while_the_others_keep_their_sessions(run, hosts):
    one, two, three, four = hosts
    before = untouched(three.node, four.node)
    counters = {peer["user"]: (peer["addr"], peer["bytesIn"]) for peer in one.node.admin.peers()}
    one.dial(two.node)
    one.wished["authorizedPasswords"].append({"user": "pi", "password": SECRET})
    one.save()

    foreseen = run(one, check=True)
    assert (one.links(), one.users()) == (["four", "three"], {"four"})
    result = run(one)
    assert result["steps"] == foreseen["steps"] == ["accept pi", f"dial two at 127.0.0.1:{two.node.port}"]
    assert (result["changed"], result["restart"]) == (foreseen["changed"], foreseen["restart"]) == (True, False)
    assert result["diff"] == foreseen["diff"]
    assert json.loads(result["diff"]["after"])["accepts"] == ["Local Peers", "four", "pi"]
    assert f"two at 127.0.0.1:{two.node.port}" in json.loads(result["diff"]["after"])["dials"]

    assert cjdroutes.wait_until(lambda: one.links() == ["four", "three", "two"], 20)
    assert one.users() == {"four", "pi"}
    assert one.started.read_text() == one.node.path.read_text()
    assert one.started.stat().st_mode & 0o777 == 0o600
    assert os.listdir(one.started.parent).count(f"{one.started.name}.next") == 0
    assert run(one)["steps"] == []

    def grown():
        """Old links with the same labels and more bytes: their sessions went on."""
        now = {peer["user"]: (peer["addr"], peer["bytesIn"]) for peer in one.node.admin.peers() if peer["user"] in counters}
        return all(now[user][0] == addr and now[user][1] > count for user, (addr, count) in counters.items())

    assert cjdroutes.wait_until(grown, 15)
    assert untouched(three.node, four.node) == before


def test_a_peer_of_the_other_family_is_dialled_over_its_interface(run, hosts):
    one, two, *_others = hosts
    entry = {"publicKey": two.node.key, "password": two.node.password, "peerName": "two"}
    one.wished["interfaces"]["UDPInterface"][1]["connectTo"][f"[::1]:{two.node.port6}"] = entry
    one.save()
    assert run(one)["steps"] == [f"dial two at [::1]:{two.node.port6}"]
    assert cjdroutes.wait_until(lambda: "two" in one.links(), 20)


def test_a_peer_is_given_up(run, hosts):
    one, _two, three, four = hosts
    before = untouched(four.node)
    one.connect_to.clear()
    one.save()
    assert run(one)["steps"] == ["disconnect three"]
    assert one.links() == ["four"]
    assert untouched(four.node) == before
    assert cjdroutes.wait_until(lambda: three.node.state_of(one.node) == [])


def test_a_user_is_thrown_out_with_its_links_and_cannot_come_back(run, hosts):
    one, _two, three, four = hosts
    before = untouched(three.node)
    one.wished["authorizedPasswords"] = []
    one.save()
    result = run(one)
    assert result["steps"] == ["stop accepting four", "disconnect four"]
    assert json.loads(result["diff"]["after"])["accepts"] == ["Local Peers"]
    assert not cjdroutes.wait_until(lambda: one.links() != ["three"], 2.5)
    assert four.node.state_of(one.node) == ["SENT_HELLO"]
    assert untouched(three.node) == before


@pytest.mark.parametrize("listener_first", [True, False])
def test_a_password_is_changed_on_both_sides(run, hosts, listener_first):
    one, _two, three, four = hosts
    before = untouched(three.node)
    one.wished["authorizedPasswords"][0]["password"] = SECRET
    four.dial(one.node, password=SECRET, login="four")
    one.save()
    four.save()
    for host in (one, four) if listener_first else (four, one):
        result = run(host)
        if host is one:
            # Where the other side has hung up already, there is nobody to throw out.
            assert [step for step in result["steps"] if step != "disconnect four"] == ["stop accepting four", "accept four"]
            assert ("disconnect four" in result["steps"]) is listener_first
            assert json.loads(result["diff"]["after"])["accepts"] == ["Local Peers", "four (new password)"]
        else:
            assert result["steps"] == ["disconnect one", f"dial one at 127.0.0.1:{one.node.port}"]
            assert json.loads(result["diff"]["after"])["dials"] == [f"one at 127.0.0.1:{one.node.port} (anew)"]
    assert cjdroutes.wait_until(lambda: one.links() == ["four", "three"], 20)
    assert (run(one)["steps"], run(four)["steps"]) == ([], [])
    assert untouched(three.node) == before


def test_whoever_has_the_old_password_is_out(run, hosts):
    one = hosts[0]
    one.wished["authorizedPasswords"][0]["password"] = SECRET
    one.save()
    run(one)
    assert not cjdroutes.wait_until(lambda: one.links() != ["three"], 2.5)


def test_what_was_lost_is_made_again(run, hosts):
    one, _two, three, four = hosts
    before = untouched(four.node)
    one.node.admin("InterfaceController_disconnectPeer", pubkey=three.node.key)
    one.node.admin("AuthorizedPasswords_remove", user="four")
    result = run(one)
    assert result["steps"] == ["accept four", f"dial three at 127.0.0.1:{three.node.port}"]
    assert cjdroutes.wait_until(lambda: one.links() == ["four", "three"], 20)
    assert run(one)["steps"] == []
    assert untouched(four.node) == before


def test_what_an_operator_added_by_hand_stays(run, hosts):
    one, two, three, _four = hosts
    endpoint = {"address": f"127.0.0.1:{two.node.port}", "publicKey": two.node.key, "password": two.node.password, "peerName": "by-hand"}
    one.node.admin("UDPInterface_beginConnection", interfaceNumber=0, **endpoint)
    one.node.admin("AuthorizedPasswords_add", user="guest", password=SECRET)
    assert cjdroutes.wait_until(lambda: "by-hand" in one.links(), 20)
    before = untouched(two.node)
    one.connect_to.clear()
    one.wished["authorizedPasswords"] = []
    one.save()
    assert run(one)["steps"] == ["stop accepting four", *sorted_disconnects(("four", hosts[3]), ("three", three))]
    assert (one.links(), one.users()) == (["by-hand"], {"guest"})
    assert untouched(two.node) == before


def sorted_disconnects(*named):
    return [f"disconnect {name}" for _key, name in sorted((host.node.key, name) for name, host in named)]


def test_another_change_asks_for_a_restart_and_does_nothing(run, hosts):
    one, two, *_others = hosts
    before, was = untouched(*(host.node for host in hosts)), one.started.read_text()
    one.dial(two.node)
    one.wished["admin"]["password"] = SECRET
    one.save()
    for check in (True, False):
        result = run(one, check=check)
        assert (result["changed"], result["restart"], result["steps"]) == (False, True, [])
        assert result["reason"] == "admin.password cannot be changed while cjdns runs"
    assert (untouched(*(host.node for host in hosts)), one.started.read_text()) == (before, was)


def kill_before_the_end(patch):
    """All steps are done, but the copy of the configuration is not replaced."""

    def rename(source, target, rename=os.rename):
        if source.endswith(".next"):
            raise Killed
        rename(source, target)

    patch.setattr(cjdns_live.os, "rename", rename)


@pytest.mark.parametrize("done", range(6))
def test_a_run_that_was_killed_is_made_again(run, hosts, monkeypatch, done):
    one, two, three, four = hosts
    was = one.started.read_text()
    one.connect_to.clear()
    one.dial(two.node)
    one.wished["authorizedPasswords"][0]["password"] = SECRET
    one.save()
    four.dial(one.node, password=SECRET, login="four")
    four.save()
    carry_out, count = cjdns_live.carry_out, iter(range(10))

    def killed_after(client, step):
        if next(count) == done:
            raise Killed
        carry_out(client, step)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(cjdns_live, "carry_out", killed_after)
        if done == 5:
            kill_before_the_end(patch)
        run(one)
    assert one.started.read_text() == was
    result = run(one)
    assert (result["changed"], result["restart"]) == (True, False)
    assert result["steps"][-2:] == ["accept four", f"dial two at 127.0.0.1:{two.node.port}"]
    run(four)
    assert cjdroutes.wait_until(lambda: one.links() == ["four", "two"], 20)
    assert one.users() == {"four"}
    assert three.node.state_of(one.node) == []
    assert one.started.read_text() == one.node.path.read_text()
    assert run(one)["steps"] == []


def test_a_run_that_was_killed_on_the_way_to_another_file_asks_for_a_restart(run, hosts, monkeypatch):
    one, two, *_others = hosts
    was = copy.deepcopy(one.wished)
    one.dial(two.node)
    one.save()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_before_the_end(patch)
        run(one)
    # Neither file knows the peer that it has by now.
    one.wished = was
    one.save()
    result = run(one)
    assert (result["restart"], result["changed"]) == (True, False)
    assert result["reason"].startswith("an earlier run was stopped while it brought cjdns to a configuration that is another by now")


def test_a_new_name_of_a_peer_is_kept_for_the_next_start(run, hosts):
    one, _two, three, _four = hosts
    before = untouched(three.node)
    one.dial(three.node, peerName="drei")
    one.save()
    result = run(one)
    assert (result["changed"], result["restart"], result["steps"]) == (False, False, [])
    assert one.started.read_text() == one.node.path.read_text()
    assert untouched(three.node) == before


def test_a_peer_that_moved_is_dialled_where_it_is_now(run, hosts):
    one, two, three, _four = hosts
    dead = cjdroutes.free_port()
    entry = {"publicKey": two.node.key, "password": two.node.password, "peerName": "two"}
    one.connect_to[f"127.0.0.1:{dead}"] = entry
    one.save()
    run(one)
    before = untouched(three.node)
    one.connect_to[f"127.0.0.1:{two.node.port}"] = one.connect_to.pop(f"127.0.0.1:{dead}")
    one.save()
    assert run(one)["steps"] == ["disconnect two", f"dial two at 127.0.0.1:{two.node.port}"]
    assert cjdroutes.wait_until(lambda: one.links() == ["four", "three", "two"], 20)
    assert len([peer for peer in one.node.admin.peers() if peer["addr"].endswith(two.node.key)]) == 1
    assert untouched(three.node) == before


def test_what_a_look_says_is_pending_is_what_the_module_does(run, hosts):
    one, _two, three, _four = hosts

    def pending():
        return running.observe(str(one.node.path), str(one.started)).pending

    assert pending() == []
    one.node.admin("InterfaceController_disconnectPeer", pubkey=three.node.key)
    one.wished["authorizedPasswords"] = []
    one.save()
    foreseen = pending()
    assert foreseen == [f"cjdns is yet to {step}" for step in run(one)["steps"]]
    assert len(foreseen) > 2
    assert pending() == []
