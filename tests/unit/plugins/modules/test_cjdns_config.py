# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import conf, identity
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_config

ROOT = Path(__file__).resolve().parents[4]
CJDROUTE = ROOT / "tests" / "doubles" / "cjdroute"
PRIVATE = "0b4eed1835d708a79914a8925e8d5fff706a5258dfb4826f56d4c29eaec7abc5"
PUBLIC = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
OTHER_PRIVATE = "823e45d5ca85b6f89d2a7feb56d5214d0e2e3afd5456eb0af2c4ac10350ebc70"
OTHER_PUBLIC = "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"
ADMIN_PASSWORD = "k" * 40
LINK_PASSWORD = "linkpassword0000000000000000000a"
CONFIG = {
    "admin": {"bind": "127.0.0.1:11234"},
    "authorizedPasswords": [{"user": "phone", "password": "phonepassword000000000000000000b"}],
    "interfaces": {"UDPInterface": [{"bind": "0.0.0.0:4321", "connectTo": {}}, {"bind": "[::]:4321", "connectTo": {}}]},
    "router": {"dnsSeeds": [], "interface": {"type": "TUNInterface"}},
    "security": [{"setuser": 0}],
    "version": 2,
}
PEER = {"name": "vps1", "address": "192.0.2.1:4321", "public_key": OTHER_PUBLIC, "password": LINK_PASSWORD}
SECRETS = [PRIVATE, ADMIN_PASSWORD, LINK_PASSWORD, CONFIG["authorizedPasswords"][0]["password"]]


@pytest.fixture
def node(tmp_path):
    """A node's file system with an identity."""
    (tmp_path / "cjdns").mkdir()
    (tmp_path / "cjdns" / "identity.json").write_text(identity.from_private(PRIVATE).to_json())
    (tmp_path / "cjdns" / "admin-password").write_text(ADMIN_PASSWORD + "\n")
    return tmp_path


def run(capsys, node, config=None, check=False, **options):
    """Run the module; return its result."""
    arguments = {
        "config": json.dumps(config or CONFIG),
        "path": str(node / "cjdroute.conf"),
        "identity_directory": str(node / "cjdns"),
        "cjdroute": str(CJDROUTE),
        "previous_path": str(node / "cjdns" / "previous"),
        "started_path": str(node / "started.conf"),
        **options,
        "_ansible_check_mode": check,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        cjdns_config.main()
    return json.loads(capsys.readouterr().out)


def installed(node):
    return json.loads((node / "cjdroute.conf").read_text())


def test_the_configuration_is_installed_with_the_secrets_of_the_node(capsys, node):
    result = run(capsys, node, peers=[PEER])
    assert result["changed"] is True
    assert (node / "cjdroute.conf").stat().st_mode & 0o7777 == 0o600
    config = installed(node)
    assert (config["privateKey"], config["publicKey"]) == (PRIVATE, PUBLIC)
    assert config["admin"] == {"bind": "127.0.0.1:11234", "password": ADMIN_PASSWORD}
    assert config["interfaces"]["UDPInterface"][0]["connectTo"] == {
        "192.0.2.1:4321": {"password": LINK_PASSWORD, "peerName": "vps1", "publicKey": OTHER_PUBLIC}
    }
    assert {path.name for path in node.iterdir()} == {"cjdns", "cjdroute.conf"}, "no temporary file and no backup is left"


def test_the_daemon_can_read_what_was_installed(capsys, node):
    run(capsys, node, peers=[PEER])
    text = (node / "cjdroute.conf").read_bytes()
    cleaned = subprocess.run([CJDROUTE, "--cleanconf"], input=text, capture_output=True, check=True).stdout
    assert json.loads(cleaned)["publicKey"] == PUBLIC
    assert b"\r" not in text
    assert text.isascii()


def test_a_second_run_changes_nothing(capsys, node):
    run(capsys, node, peers=[PEER])
    before = (node / "cjdroute.conf").stat()
    result = run(capsys, node, peers=[PEER])
    assert result["changed"] is False
    assert result["diff"]["before"] == result["diff"]["after"]
    after = (node / "cjdroute.conf").stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns), "a touched file would restart the service"


def test_only_what_a_running_daemon_cannot_be_told_asks_for_a_restart(capsys, node):
    users = {**CONFIG, "authorizedPasswords": [{"user": "pi", "password": "p" * 32}]}
    assert run(capsys, node)["restart"] is True
    assert run(capsys, node)["restart"] is False
    assert run(capsys, node, config=users, peers=[PEER])["restart"] is False
    assert run(capsys, node, config={**users, "router": {"supernodes": [OTHER_PUBLIC]}}, check=True)["restart"] is True
    (node / "cjdroute.conf").write_text("{")
    assert run(capsys, node, config=users)["restart"] is True


def test_a_change_shows_and_no_secret_does(capsys, node):
    run(capsys, node)
    result = run(capsys, node, peers=[PEER])
    shown = json.dumps(result)
    assert "vps1" in result["diff"]["after"]
    assert "vps1" not in result["diff"]["before"]
    assert '"password": "(new secret)"' in result["diff"]["after"]
    assert not any(secret in shown for secret in SECRETS)


def test_a_changed_secret_alone_shows_in_the_diff(capsys, node):
    run(capsys, node, peers=[PEER])
    result = run(capsys, node, peers=[{**PEER, "password": "anotherpassword"}])
    assert result["changed"] is True
    assert result["diff"]["before"] != result["diff"]["after"]
    assert "anotherpassword" not in json.dumps(result)


def test_check_mode_installs_nothing(capsys, node):
    assert run(capsys, node, check=True)["changed"] is True
    assert not (node / "cjdroute.conf").exists()


def test_check_mode_on_a_new_node_needs_neither_identity_nor_daemon(capsys, tmp_path):
    result = run(capsys, tmp_path, check=True, cjdroute=str(tmp_path / "cjdroute"))
    assert (result["changed"], result.get("failed")) == (True, None)
    assert list(tmp_path.iterdir()) == []


def test_without_an_identity_nothing_is_installed(capsys, tmp_path):
    assert "run vdloo.mesh.cjdns_identity first" in run(capsys, tmp_path)["msg"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_others_can_read_is_closed_to_them(capsys, node):
    run(capsys, node)
    (node / "cjdroute.conf").chmod(0o644)
    assert run(capsys, node)["changed"] is True
    assert (node / "cjdroute.conf").stat().st_mode & 0o7777 == 0o600


LEGACY = f'{{ // mine\n "privateKey": "{PRIVATE}", "authorizedPasswords": [{{"password": "friendpassword", "user": "friend"}}], }}\n'


def test_a_configuration_of_somebody_else_is_kept_as_a_backup(capsys, node):
    (node / "cjdroute.conf").write_text(LEGACY)
    (node / "cjdroute.conf").chmod(0o644)
    result = run(capsys, node)
    backup = Path(result["backup_file"])
    assert backup.read_text() == LEGACY
    assert backup.stat().st_mode & 0o7777 == 0o600
    assert installed(node)["publicKey"] == PUBLIC
    assert '"friend"' in result["diff"]["before"]
    assert "friendpassword" not in json.dumps(result)
    assert "backup_file" not in run(capsys, node, peers=[PEER]), "our own configuration needs none"


def test_a_key_that_only_the_present_file_has_is_never_overwritten(capsys, node):
    legacy = LEGACY.replace(PRIVATE, OTHER_PRIVATE)
    (node / "cjdroute.conf").write_text(legacy)
    result = run(capsys, node)
    assert result["failed"] is True
    assert "move away the one that this node is not to have" in result["msg"]
    assert (node / "cjdroute.conf").read_text() == legacy


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"config": {**CONFIG, "noBackground": True}}, "cjdns knows no booleans"),
        ({"config": {**CONFIG, "privateKey": OTHER_PRIVATE}}, "cjdns_config must not set privateKey"),
        ({"peers": [{**PEER, "address": "vps.example.org:4321"}]}, "cjdns_peers, vps1: address 'vps.example.org:4321'"),
        ({"peers": [{**PEER, "public_key": PUBLIC}]}, "a node cannot be its own peer"),
        ({"peers": [{**PEER, "name": "n" * 300}]}, "bytes too long for cjdns"),
        ({"config": {**CONFIG, "interfaces": {}}, "peers": [PEER]}, "no UDP interface for it"),
    ],
)
def test_a_bad_wish_leaves_the_present_configuration(capsys, node, options, reason):
    run(capsys, node)
    before = (node / "cjdroute.conf").read_text()
    for check in (True, False):
        result = run(capsys, node, check=check, **options)
        assert result["failed"] is True
        assert reason in result["msg"]
    assert (node / "cjdroute.conf").read_text() == before


def test_what_the_daemon_cannot_read_is_not_installed_and_its_words_hold_no_secret(capsys, node):
    program = node / "cjdroute"
    program.write_text('#!/bin/sh\ncat >&2\necho "no good" >&2\nexit 255\n')
    program.chmod(0o755)
    result = run(capsys, node, peers=[PEER], cjdroute=str(program))
    assert result["failed"] is True
    assert "no good" in result["msg"]
    assert not any(secret in json.dumps(result) for secret in SECRETS)
    assert not (node / "cjdroute.conf").exists()


def test_of_a_configuration_too_long_for_the_check_of_old_daemons_the_rest_is_checked(capsys, node):
    program = node / "cjdroute"
    # As those releases do with what does not fit.
    program.write_text(f"#!/bin/sh\ntext=$(cat)\n[ ${{#text}} -lt {conf.CLEANCONF_LIMIT} ] && case $text in *nobody*) exit 255;; esac\n")
    program.chmod(0o755)
    long = {**CONFIG, "authorizedPasswords": [{"user": f"user{number}", "password": f"password{number:030}"} for number in range(150)]}
    result = run(capsys, node, config=long, peers=[PEER], cjdroute=str(program))
    assert result["changed"] is True, result
    text = (node / "cjdroute.conf").read_text()
    assert len(text) > conf.CLEANCONF_LIMIT
    refused = run(capsys, node, config={**long, "security": [{"setuser": "nobody"}]}, cjdroute=str(program))
    assert "cannot read the configuration" in refused["msg"]
    assert (node / "cjdroute.conf").read_text() == text


def test_a_peer_without_a_password_keeps_the_one_of_the_present_configuration(capsys, node):
    run(capsys, node, peers=[PEER])
    before = (node / "cjdroute.conf").read_bytes()
    nameless = {key: value for key, value in PEER.items() if key != "password"}
    assert run(capsys, node, peers=[nameless])["changed"] is False
    assert (node / "cjdroute.conf").read_bytes() == before
    moved = run(capsys, node, peers=[{**nameless, "address": "192.0.2.77:4321"}])
    assert moved["changed"] is True
    assert installed(node)["interfaces"]["UDPInterface"][0]["connectTo"]["192.0.2.77:4321"]["password"] == LINK_PASSWORD


def test_a_peer_for_which_no_password_is_known_is_left_out_and_named(capsys, node):
    result = run(capsys, node, peers=[{key: value for key, value in PEER.items() if key != "password"}])
    assert result["not_dialled"] == ["vps1"]
    assert installed(node)["interfaces"]["UDPInterface"][0]["connectTo"] == {}


def roll_back(capsys, node, **options):
    return run(capsys, node, state="rolled_back", **options)


def test_a_configuration_with_which_cjdns_did_not_run_is_put_back(capsys, node):
    run(capsys, node, peers=[PEER])
    before = (node / "cjdroute.conf").read_bytes()
    run(capsys, node, config={**CONFIG, "router": {"supernodes": [OTHER_PUBLIC]}})
    assert (node / "cjdns" / "previous").stat().st_mode & 0o7777 == 0o600
    foreseen = roll_back(capsys, node, check=True)
    assert (foreseen["changed"], (node / "cjdroute.conf").read_bytes() == before) == (True, False)
    result = roll_back(capsys, node)
    assert (result["changed"], result["restart"]) == (True, True)
    assert (node / "cjdroute.conf").read_bytes() == before
    assert "supernodes" in result["diff"]["before"]
    assert not any(secret in json.dumps(result) for secret in SECRETS)
    assert roll_back(capsys, node)["changed"] is False, "there is nothing left to put back"


def test_a_file_that_no_daemon_was_started_with_is_not_what_is_put_back(capsys, node):
    run(capsys, node, peers=[PEER])
    good = (node / "cjdroute.conf").read_bytes()
    (node / "started.conf").write_bytes(good)
    # A run that was killed before the restart, and one with another wish.
    run(capsys, node, config={**CONFIG, "router": {"supernodes": [OTHER_PUBLIC]}})
    run(capsys, node, config={**CONFIG, "router": {"supernodes": []}})
    roll_back(capsys, node)
    assert (node / "cjdroute.conf").read_bytes() == good


def test_a_first_configuration_has_none_before_it(capsys, node):
    run(capsys, node)
    run(capsys, node)
    assert roll_back(capsys, node)["changed"] is False
    assert (node / "cjdroute.conf").exists()
