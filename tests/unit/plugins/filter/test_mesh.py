# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.filter import mesh
from fake_mesh import KEYS

PLANNED = {
    "n1": {"public_key": KEYS["n1"], "dials": [], "accepts": ["n2"], "diallers": [KEYS["n2"]]},
    "n2": {
        "public_key": KEYS["n2"],
        "dials": [{"name": "n1", "address": "192.0.2.1:4321", "public_key": KEYS["n1"], "login": "n2"}],
        "accepts": [],
        "diallers": [],
    },
}


def test_dialler_and_listener_get_the_same_password():
    passwords = {"n1": {KEYS["n2"]: "secret-of-the-two"}}
    assert mesh.peers(PLANNED["n2"], "n2", passwords)["dials"] == [{**PLANNED["n2"]["dials"][0], "password": "secret-of-the-two"}]
    assert mesh.peers(PLANNED["n1"], "n1", passwords) == {"dials": [], "accepts": [{"user": "n2", "password": "secret-of-the-two"}]}


def test_a_listener_that_this_run_does_not_reach_is_dialled_with_the_password_known_before():
    assert mesh.peers(PLANNED["n2"], "n2", {})["dials"] == PLANNED["n2"]["dials"]


OWN = {
    "n1": {"ansible_host": "192.0.2.1", "ansible_user": "admin", "ansible_become": True, "ansible_ssh_private_key_file": "/key"},
    "n2": {"ansible_host": "192.0.2.2", "ansible_user": "admin", "ansible_become": True, "ansible_ssh_private_key_file": "/other"},
}
LIVE = {"n1": {"mesh_role": "server", "ansible_ssh_common_args": "-o ProxyCommand=x", "ansible_user": "admin"}}


def test_a_newcomer_is_reached_as_all_nodes_of_the_operators_inventory_are():
    told = mesh.join_targets("203.0.113.9, root@[2001:db8::9]:2222", OWN, ["n1", "n2"])
    assert told == [
        {"target": "203.0.113.9", "ansible_user": "admin", "ansible_become": True, "ansible_host": "203.0.113.9"},
        {
            "target": "root@[2001:db8::9]:2222",
            "ansible_user": "root",
            "ansible_become": True,
            "ansible_host": "2001:db8::9",
            "ansible_port": "2222",
        },
    ]


def test_a_newcomer_is_not_looked_for_behind_the_nodes_nor_with_the_key_of_a_node():
    from_laptop = mesh.join_targets(["root@pi"], LIVE, ["n1"], key_file="/k")
    assert from_laptop == [
        {
            "target": "root@pi",
            "ansible_ssh_common_args": "",
            "ansible_ssh_private_key_file": "/k",
            "ansible_host": "pi",
            "ansible_user": "root",
        }
    ]
    on_node = mesh.join_targets("root@pi", {"n1": {**LIVE["n1"], "ansible_connection": "local"}}, ["n1"])[0]
    assert (on_node["ansible_ssh_private_key_file"], on_node["ansible_ssh_common_args"]) == ("", "")
    assert "BatchMode" not in on_node["ansible_ssh_args"]


def test_a_newcomer_may_be_the_machine_itself():
    assert mesh.join_targets("localhost", LIVE, ["n1"])[0]["ansible_connection"] == "local"


@pytest.mark.parametrize(
    ("written", "told"), [("", "Say who is to join"), ("root@", "is no SSH destination"), ("-oProxyCommand=x", "is no SSH destination")]
)
def test_what_is_no_destination_is_refused(written, told):
    with pytest.raises(AnsibleFilterError, match=told):
        mesh.join_targets(written, LIVE, ["n1"])
