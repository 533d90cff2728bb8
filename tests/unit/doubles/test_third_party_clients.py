# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Clients that others wrote for cjdns itself are told the same by the double as ours is.

They are old, and made for the real daemon: so this holds the double, and our client, to something that neither of them grew up with.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import admin

CLIENTS = Path(__file__).resolve().parents[3] / ".cache" / "third-party"
# Runs in a process of its own: they leave threads behind, and print.
PROGRAM = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
client = importlib.import_module(sys.argv[2]).connect("127.0.0.1", int(sys.argv[3]), sys.argv[4])
peers, page, more = [], 0, True
while more:
    reply = client.InterfaceController_peerStats(page=page)
    peers, page, more = peers + reply["peers"], page + 1, "more" in reply
print(json.dumps({"peers": peers, "pages": page, "users": client.AuthorizedPasswords_list()["users"]}))
"""
THEIRS = [
    pytest.param(name, marks=pytest.mark.skipif(not (CLIENTS / name).is_dir(), reason=f"{name} is not there: run script/bootstrap"))
    for name in ("cjdns", "cjdnsadmin")
]
DEAD_PEERS = 14


def ask(name, node, password):
    """What a third-party client is told by a node, or the end of what it said instead."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(CLIENTS), name, str(node.admin_port), password]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return json.loads(finished.stdout.splitlines()[-1]) if finished.returncode == 0 else finished.stderr.splitlines()[-1]


@pytest.fixture
def nodes(make_node, double, wait_until):
    """A node with many peers that do not answer, one that it dials, and one that dials it."""
    node, dialled, dialler = make_node("node"), make_node("dialled"), make_node("dialler")
    for number in range(DEAD_PEERS):
        key = double.key_text(double.public_of(double.generate_key()))
        node.dial(dialled, address=f"127.0.1.{number + 1}", port=9, publicKey=key, peerName=f"dead-{number}")
    node.dial(dialled)
    dialler.dial(node)
    for one in (node, dialled, dialler):
        one.start()
    for one in (node, dialled, dialler):
        one.ready()
    assert wait_until(lambda: [peer["state"] for peer in node.admin.peers()].count("ESTABLISHED") == 2, 20)
    return node, dialled, dialler


@pytest.mark.parametrize("name", THEIRS)
def test_a_third_party_client_is_told_of_the_same_peers_as_ours(name, nodes):
    node, dialled, dialler = nodes
    ours = admin.Client(port=node.admin_port, password=node.admin.password, timeout=5)

    def state():
        return {(peer["public_key"], peer["state"], peer["incoming"], peer["endpoint"], peer["user"]) for peer in ours.peers()}

    before, told, after = None, None, state()
    while before != after:  # Peers that never answer change their state once.
        before, told, after = after, ask(name, node, node.admin.password), state()
    assert isinstance(told, dict), told
    theirs = [(peer["addr"][-54:], peer["state"], bool(peer["isIncoming"]), peer["lladdr"], peer["user"]) for peer in told["peers"]]
    assert (len(theirs), told["pages"]) == (DEAD_PEERS + 2, 3)
    assert set(theirs) == after
    assert {key for key, state, *_rest in theirs if state == "ESTABLISHED"} == {dialled.key, dialler.key}
    assert sorted(told["users"]) == ours.users()


@pytest.mark.parametrize("name", THEIRS)
def test_a_third_party_client_with_a_wrong_password_is_refused_as_ours_is(name, make_node):
    node = make_node("node").start().ready()
    assert "Auth failed." in ask(name, node, "wrong")
    with pytest.raises(admin.AdminError, match="Auth failed"):
        admin.Client(port=node.admin_port, password="wrong", timeout=5).users()
