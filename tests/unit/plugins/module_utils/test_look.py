# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import pwd
import socket
import threading
import time
import types

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import digest, look
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import identity, keys
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import client
from fake_mesh import KEYS, PRIVATE_KEY, FakeConsul, record


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with none of our files: set(name, text) makes one."""
    for name in ("CONFIG", "IDENTITY", "LINK_SECRET", "STARTED", "SECRETS", "REGISTRY", "BOOTSTRAPPED", "SETTINGS", "SSH_KEY", "ROLLOUT"):
        monkeypatch.setattr(look, name, str(tmp_path / name.lower()))
    return lambda name, text: (tmp_path / name.lower()).write_text(text)


def test_a_node_tells_how_ansible_came_in(monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "192.0.2.7 50000 192.0.2.1 2222")
    monkeypatch.delenv("SUDO_USER", raising=False)
    told = look.access()
    assert (told["ssh_user"], told["ssh_port"]) == (pwd.getpwuid(os.getuid()).pw_name, 2222)
    monkeypatch.setenv("SUDO_USER", "admin")
    monkeypatch.delenv("SSH_CONNECTION")
    told = look.access()
    assert (told["ssh_user"], told["ssh_port"]) == ("admin", 0)


def test_a_run_on_the_node_itself_tells_no_way_in(monkeypatch):
    for name in ("SSH_CONNECTION", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    told = look.access()
    assert (told["arch"], told["ssh_user"], told["ssh_port"]) == (os.uname().machine, "", 0)


def test_the_nodes_own_key_and_the_keys_that_may_log_in_are_told(node, monkeypatch, tmp_path):
    homes = {name: types.SimpleNamespace(pw_dir=str(tmp_path / name)) for name in ("admin", "root")}
    monkeypatch.setattr(look.authorized_keys.pwd, "getpwnam", homes.__getitem__)
    for number, name in enumerate(homes):
        (tmp_path / name / ".ssh").mkdir(parents=True)
        line = look.authorized_keys.line(f"n{number}", "ssh-ed25519 " + "A" * 68)
        (tmp_path / name / ".ssh" / "authorized_keys").write_bytes(b"ssh-rsa AAAA me\n" + line)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("SUDO_USER", "admin")
    told = look.access()
    assert (told["ssh_key"], told["authorized_user"], told["authorized"]) == ("", "admin", {"n0": "ssh-ed25519 " + "A" * 68})
    monkeypatch.delenv("SUDO_USER")
    told = look.access()
    assert (told["authorized_user"], list(told["authorized"])) == ("root", ["n1"])
    # Whoever came, and in whichever way: the others come as the record says.
    node("SSH_KEY", "ssh-ed25519 BBBB root@n0\n")
    node("REGISTRY", json.dumps({"n0": {"ssh": {"user": "admin", "key": "ssh-ed25519 BBBB"}}, "n1": [], "n2": {"ssh": "x"}}))
    told = look.access()
    assert (told["ssh_key"], told["authorized_user"], list(told["authorized"])) == ("ssh-ed25519 BBBB", "admin", ["n0"])


def test_the_settings_are_told_and_damaged_ones_are_a_problem(node):
    node("SETTINGS", '{"version": 1}')
    assert look.mesh() == {**look.NOTHING["mesh"], "settings": {"version": 1}}
    node("SETTINGS", "{")
    node("REGISTRY", "{}")
    assert "settings" in look.mesh()["problem"]


def test_a_node_of_no_mesh_has_the_shape_of_nothing(node):
    assert look.mesh() == look.NOTHING["mesh"]
    assert look.cjdns() == look.NOTHING["cjdns"]


def test_every_part_has_the_fields_that_it_has_when_nothing_is_known(node, monkeypatch):
    monkeypatch.setattr(look.client, "DEFAULT_PORT", 1)
    found = look.look(5)
    assert set(found) == set(look.NOTHING)
    for name in ("system", "mesh", "cjdns", "consul", "resolver"):
        assert set(found[name]) == set(look.NOTHING[name]), name


def test_a_part_that_hangs_is_given_up_in_time(node, monkeypatch):
    monkeypatch.setattr(look, "consul", lambda _timeout: time.sleep(30))
    start = time.monotonic()
    found = look.look(0.5)
    assert time.monotonic() - start < 3
    assert found["consul"] == {**look.NOTHING["consul"], "problem": "no answer within 0.5 s"}
    assert found["mesh"] == look.NOTHING["mesh"]


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '"text"', "[" * 100_000])
def test_a_damaged_file_is_a_problem_that_is_told_and_no_failure(node, text):
    node("REGISTRY", text)
    told = look.mesh()
    assert told["registry"] == {}
    assert "restore it from another node" in told["problem"]


def test_the_identity_is_told_and_its_key_is_not(node):
    own = identity.from_private(PRIVATE_KEY)
    node("IDENTITY", own.to_json())
    node("LINK_SECRET", "ab" * 32 + "\n")
    node("REGISTRY", json.dumps({"n2": record("n2")}))
    told = look.cjdns()
    assert (told["public_key"], told["address"]) == (own.public_key, own.address)
    assert list(told["derived"]) == [KEYS["n2"]]
    text = json.dumps(told)
    assert PRIVATE_KEY not in text
    assert "ab" * 32 not in text
    assert keys.link_password("ab" * 32, KEYS["n2"]) not in text


def test_a_damaged_identity_is_told_by_a_problem_without_the_key(node):
    node("IDENTITY", identity.from_private(PRIVATE_KEY).to_json().replace(KEYS["n1"][:8], "00000000"))
    told = look.cjdns()
    assert told["public_key"] == ""
    assert told["problem"]
    assert PRIVATE_KEY not in json.dumps(told)


def test_what_the_store_holds_is_told_by_digests_and_garbage_is_left_out():
    class Agent:
        def kv(self, prefix):
            return {
                f"{prefix}registry/n1": json.dumps(record("n1")),
                f"{prefix}registry/n2": "{",
                f"{prefix}settings": json.dumps({"version": 1}),
                f"{prefix}settings/other": "{}",
                f"{prefix}converged/n1": json.dumps({"at": "2026-01-01T00:00:00Z"}),
                f"{prefix}converged/n2": "[]",
            }

    assert look.store(Agent()) == {
        "registry": {"n1": digest.of(record("n1"))[: look.DIGEST_CHARS]},
        "settings": digest.of({"version": 1})[: look.DIGEST_CHARS],
        "converged": {"n1": "2026-01-01T00:00:00Z"},
    }


@pytest.mark.parametrize("answer", [b"null", b"[1]", b"{", b'[{"Tags": 3}]'])
def test_an_agent_that_answers_nonsense_is_a_problem_and_no_failure(node, monkeypatch, answer):
    monkeypatch.setattr(client.Client, "_exchange", lambda *_arguments: (200, {}, answer))
    told = look.consul(1)
    assert told["problem"]
    assert set(told) == set(look.NOTHING["consul"])


def test_members_are_told_with_who_lives_and_who_serves(node, monkeypatch):
    fake = FakeConsul()
    fake.leader = False
    monkeypatch.setattr(client.Client, "members", lambda *_arguments: [*fake.members, fake.member("n4", status=4)])
    monkeypatch.setattr(client.Client, "leader", lambda *_arguments: "")
    told = look.consul(1)
    assert [(member["name"], member["alive"], member["server"]) for member in told["members"]] == [
        ("n1", True, True),
        ("n2", True, True),
        ("n3", True, False),
        ("n4", False, True),
    ]
    assert (told["leader"], told["raft"], told["problem"]) == ("", [], "")


def test_the_mark_of_settings_that_are_tried_is_told_with_its_age(node, tmp_path):
    assert look.mesh()["rollout"] == {}
    node("ROLLOUT", json.dumps({"by": "laptop", "values": "v", "stopped": "", "more": 1}))
    os.utime(tmp_path / "rollout", (time.time() - 60, time.time() - 60))
    told = look.mesh()["rollout"]
    assert 60 <= told.pop("age") < 90
    assert told == {"by": "laptop", "values": "v", "stopped": ""}


@pytest.mark.parametrize("content", ["", "[]", "{", '{"by": 1, "values": "", "stopped": ""}', '{"by": "laptop"}'])
def test_a_mark_that_cannot_be_used_is_none(node, content):
    node("ROLLOUT", content)
    assert look.mesh()["rollout"] == {}
    assert look.mesh()["problem"] == ""


def test_dnsmasq_answers_when_anything_comes_back():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1#{server.getsockname()[1]}"

        def refuse():
            question, sender = server.recvfrom(512)
            server.sendto(question[:2] + b"\x81\x85" + question[4:], sender)

        thread = threading.Thread(target=refuse)
        thread.start()
        assert look.answers(address)
        thread.join()
    assert not look.answers(address)
