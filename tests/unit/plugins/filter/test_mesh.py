# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

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
