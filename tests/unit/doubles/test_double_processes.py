# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real cjdroute doubles that link over the loopback device; they only route, so no privilege is needed."""

from __future__ import annotations

import os
import time


def linked(one, two):
    return one.state_of(two) == ["ESTABLISHED"] and two.state_of(one) == ["ESTABLISHED"]


def test_three_nodes_reach_each_other_through_the_one_in_the_middle(make_node, wait_until):
    one, middle, two = make_node("one"), make_node("middle"), make_node("two")
    one.dial(middle, login="friend-of-middle")
    two.dial(middle)
    for node in (one, middle, two):
        node.start()
    for node in (one, middle, two):
        node.ready()
    assert wait_until(lambda: one.ip in two.admin.table() and two.ip in one.admin.table())
    path = one.admin.table()[two.ip]
    reply = one.admin("SwitchPinger_ping", path=path, keyPing=1)
    assert reply["result"] == "pong" and reply["key"] == two.key

    (dialled,) = one.admin.peers()
    assert (dialled["user"], dialled["isIncoming"], dialled["lladdr"]) == ("middle", 0, f"127.0.0.1:{middle.port}")
    assert dialled["addr"].startswith("v22.") and dialled["receivedPackets"] > 0 and dialled["bytesIn"] > 0
    listed = {peer["addr"][-len(one.key) :]: peer for peer in middle.admin.peers()}
    assert set(listed) == {one.key, two.key}
    assert (listed[one.key]["user"], listed[one.key]["isIncoming"]) == ("friend-of-middle", 1)

    assert middle.stop() == 0
    assert wait_until(lambda: set(one.admin.table()) == {one.ip}, timeout=1), "a goodbye is heard at once"
    assert one.admin("SwitchPinger_ping", path=path, timeout=100)["result"] == "timeout"


def test_a_link_through_nat_survives_a_new_mapping_and_the_death_of_either_side(make_node, relay, wait_until):
    dialler, listener = make_node("dialler"), make_node("listener")
    nat = relay(listener)
    dialler.dial(listener, port=nat.port)
    listener.start().ready()
    dialler.start().ready()
    assert wait_until(lambda: linked(dialler, listener))
    before = listener.admin.peers()[0]["lladdr"]
    nat.rebind()
    assert wait_until(lambda: listener.admin.peers()[0]["lladdr"] != before)
    assert listener.admin.reaches(dialler.ip) and linked(dialler, listener)
    listener.stop(kill=True)
    listener.start().ready()
    assert wait_until(lambda: linked(dialler, listener) and listener.admin.reaches(dialler.ip))
    dialler.stop(kill=True)
    dialler.start().ready()
    assert wait_until(lambda: linked(dialler, listener) and dialler.admin.reaches(listener.ip))


def test_passwords_at_run_time_decide_who_links(make_node, wait_until):
    dialler, listener = make_node("dialler"), make_node("listener")
    for node in (dialler, listener):
        node.start()
    for node in (dialler, listener):
        node.ready()
    listener.admin("AuthorizedPasswords_remove", user="friend-of-listener")
    begin = {
        "address": f"127.0.0.1:{listener.port}",
        "publicKey": listener.key,
        "password": "later",
        "login": "late",
        "peerName": "listener",
    }
    assert dialler.admin("UDPInterface_beginConnection", **begin) == {"error": "none"}
    time.sleep(1.5)
    assert listener.admin.peers() == [] and dialler.state_of(listener) == ["SENT_HELLO"]
    assert listener.admin("AuthorizedPasswords_add", password="later", user="late") == {"error": "none"}
    assert wait_until(lambda: linked(dialler, listener))
    assert dialler.admin("UDPInterface_beginConnection", **begin) == {"error": "none"}
    assert wait_until(lambda: linked(dialler, listener)), "the same endpoint again replaces the peer"
    assert dialler.admin("InterfaceController_resetPeering", pubkey=listener.key) == {"success": 1}
    assert wait_until(lambda: linked(dialler, listener))
    listener.admin("AuthorizedPasswords_remove", user="late")
    assert listener.admin("InterfaceController_disconnectPeer", pubkey=dialler.key) == {"success": 1, "sessionsDisconnected": 1}
    assert wait_until(lambda: dialler.state_of(listener) == ["SENT_HELLO"], timeout=3)
    time.sleep(1.5)
    assert listener.admin.peers() == []
    assert dialler.admin("InterfaceController_disconnectPeer", pubkey=listener.key)["success"] == 1
    assert dialler.admin.peers() == []


def test_an_idle_node_uses_next_to_no_cpu(make_node, wait_until):
    one, two = make_node("one"), make_node("two")
    one.dial(two)
    one.start()
    two.start()
    one.ready()
    two.ready()
    assert wait_until(lambda: linked(one, two))

    def used():
        with open(f"/proc/{one.process.pid}/stat", encoding="ascii") as stat:
            return sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13])) / os.sysconf("SC_CLK_TCK")

    before = used()
    time.sleep(3)
    assert used() - before <= 0.03, "one hundredth of a core"
