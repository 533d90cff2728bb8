# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.cjdns import identity, keys
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_identity

ROOT = Path(__file__).resolve().parents[4]
PRIVATE_1 = "0b4eed1835d708a79914a8925e8d5fff706a5258dfb4826f56d4c29eaec7abc5"
PUBLIC_1 = "f09rvtmr2s25942ygutztv8bf70ny8zd0kpffk8lmbzm40qty9k0.k"
ADDRESS_1 = "fcea:4775:eacd:7c3b:6fbc:c02b:43d6:53e1"
PRIVATE_2 = "823e45d5ca85b6f89d2a7feb56d5214d0e2e3afd5456eb0af2c4ac10350ebc70"
PUBLIC_2 = "u2jf87mgqlxfzdnywp60z3tx6tkulvgh2nyc2jk1zc69zzt2s8u0.k"
ADDRESS_2 = "fcff:a215:1e7b:a4e9:c00d:0813:93b3:7c87"

# Writes one of two keys: the first caller has the first. It is slow, so that two callers at once overlap.
GENERATOR = f"""#!/bin/sh
if [ "$1" = --cleanconf ]; then exec cat; fi
if mkdir "$0.first" 2>/dev/null; then
    key={PRIVATE_1} public={PUBLIC_1} address={ADDRESS_1}
else
    key={PRIVATE_2} public={PUBLIC_2} address={ADDRESS_2}
fi
sleep "${{PAUSE:-0}}"
printf '{{"privateKey": "%s", "publicKey": "%s", "ipv6": "%s"}}' $key $public $address
"""


@pytest.fixture
def node(tmp_path):
    """A node's file system: where the identity goes, and a cjdroute with a generator."""
    program = tmp_path / "cjdroute"
    program.write_text(GENERATOR)
    program.chmod(0o755)
    return tmp_path


def arguments(node, **options):
    return {
        "directory": str(node / "etc" / "cjdns"),
        "config_path": str(node / "etc" / "cjdroute.conf"),
        "cjdroute": str(node / "cjdroute"),
        **options,
    }


def run(capsys, node, check=False, **options):
    """Run the module; return its result."""
    with patch_module_args({**arguments(node, **options), "_ansible_check_mode": check}), pytest.raises(SystemExit):
        cjdns_identity.main()
    return json.loads(capsys.readouterr().out)


def files(node):
    """Everything in the identity directory, with mode and content."""
    directory = node / "etc" / "cjdns"
    return {path.name: (oct(path.stat().st_mode & 0o777), path.read_text()) for path in directory.iterdir()} if directory.exists() else {}


def test_an_identity_is_made_with_all_that_goes_with_it(capsys, node):
    result = run(capsys, node)
    assert result["changed"] is True
    assert (result["public_key"], result["address"], result["adopted"]) == (PUBLIC_1, ADDRESS_1, False)
    made = files(node)
    assert set(made) == {"identity.json", "link-secret", "admin-password"}
    assert {mode for mode, _text in made.values()} == {"0o600"}
    assert (node / "etc" / "cjdns").stat().st_mode & 0o777 == 0o700
    assert json.loads(made["identity.json"][1]) == {"privateKey": PRIVATE_1, "publicKey": PUBLIC_1, "ipv6": ADDRESS_1}
    assert re.fullmatch("[0-9a-f]{64}\n", made["link-secret"][1])
    assert re.fullmatch("[0-9a-z]{40}\n", made["admin-password"][1])


def test_no_secret_is_in_the_result(capsys, node):
    text = json.dumps(run(capsys, node))
    for _mode, content in files(node).values():
        assert content.strip() not in text
    assert PRIVATE_1 not in text


def test_a_second_run_changes_nothing(capsys, node):
    run(capsys, node)
    before = files(node)
    result = run(capsys, node)
    assert (result["changed"], result["address"], result["created"]) == (False, ADDRESS_1, [])
    assert files(node) == before


def test_secrets_differ_from_node_to_node(capsys, node):
    run(capsys, node)
    first = files(node)
    for path in (node / "etc" / "cjdns").iterdir():
        path.unlink()
    run(capsys, node)
    second = files(node)
    assert first["link-secret"] != second["link-secret"]
    assert first["admin-password"] != second["admin-password"]


def test_check_mode_makes_nothing_and_knows_no_address(capsys, node):
    result = run(capsys, node, check=True)
    assert result["changed"] is True
    assert len(result["created"]) == 3
    assert "address" not in result
    assert files(node) == {}
    run(capsys, node)
    result = run(capsys, node, check=True)
    assert (result["changed"], result["address"]) == (False, ADDRESS_1)


def test_only_what_is_missing_is_made(capsys, node):
    run(capsys, node)
    before = files(node)
    (node / "etc" / "cjdns" / "link-secret").unlink()
    result = run(capsys, node)
    assert [Path(path).name for path in result["created"]] == ["link-secret"]
    after = files(node)
    assert after["identity.json"] == before["identity.json"]
    assert after["link-secret"] != before["link-secret"]


def test_files_that_others_can_read_are_closed_to_them(capsys, node):
    run(capsys, node)
    directory = node / "etc" / "cjdns"
    directory.chmod(0o755)
    (directory / "identity.json").chmod(0o644)
    assert run(capsys, node, check=True)["changed"] is True
    assert (directory / "identity.json").stat().st_mode & 0o777 == 0o644
    assert run(capsys, node)["changed"] is True
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "identity.json").stat().st_mode & 0o777 == 0o600
    assert run(capsys, node)["changed"] is False


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not a JSON object"),
        ("{", "is not a JSON object"),
        ("[]", "is not a JSON object"),
        ("{}", "has a private key that cannot be used"),
        (json.dumps({"privateKey": PRIVATE_1[:-1], "publicKey": PUBLIC_1, "ipv6": ADDRESS_1}), "has a private key that cannot be used"),
        (json.dumps({"privateKey": PRIVATE_1, "publicKey": PUBLIC_2, "ipv6": ADDRESS_1}), "has a public key that does not belong"),
        (json.dumps({"privateKey": PRIVATE_1, "publicKey": PUBLIC_1, "ipv6": ADDRESS_2}), "has an address that does not belong"),
        (json.dumps({"privateKey": PRIVATE_1, "publicKey": PUBLIC_1}), "has an address that does not belong"),
        (json.dumps({"privateKey": "1" * 64, "publicKey": "x", "ipv6": "y"}), "would not begin with fc"),
    ],
)
def test_a_damaged_identity_is_told_and_left_alone(capsys, node, content, reason):
    (node / "etc" / "cjdns").mkdir(parents=True)
    (node / "etc" / "cjdns" / "identity.json").write_text(content)
    before = files(node)
    result = run(capsys, node)
    assert result["failed"] is True
    assert reason in result["msg"]
    assert "repair it from a backup" in result["msg"]
    assert PRIVATE_1[:20] not in json.dumps(result)
    assert files(node) == before


@pytest.mark.parametrize("name", ["link-secret", "admin-password"])
def test_a_damaged_secret_is_told_and_left_alone(capsys, node, name):
    run(capsys, node)
    (node / "etc" / "cjdns" / name).write_text("half")
    before = files(node)
    result = run(capsys, node)
    assert result["failed"] is True
    assert f"{name} is damaged" in result["msg"]
    assert files(node) == before


LEGACY = f"""{{
    // "privateKey": "{PRIVATE_1}",
    "privateKey":
        "{PRIVATE_2}", /* mine */
    "admin": {{"bind": "127.0.0.1:11234", "password": "NONE"}},
}}
"""


def test_the_key_of_an_earlier_installation_is_kept(capsys, node):
    (node / "etc").mkdir()
    (node / "etc" / "cjdroute.conf").write_text(LEGACY)
    checked = run(capsys, node, check=True)
    assert (checked["changed"], checked["adopted"], checked["public_key"]) == (True, True, PUBLIC_2)
    assert files(node) == {}
    result = run(capsys, node)
    assert (result["adopted"], result["public_key"]) == (True, PUBLIC_2)
    assert json.loads(files(node)["identity.json"][1])["privateKey"] == PRIVATE_2
    assert (node / "etc" / "cjdroute.conf").read_text() == LEGACY
    assert run(capsys, node)["adopted"] is False


def test_two_different_keys_are_an_error_that_loses_none(capsys, node):
    run(capsys, node)
    (node / "etc" / "cjdroute.conf").write_text(LEGACY)
    before = files(node)
    result = run(capsys, node)
    assert result["failed"] is True
    assert "move away the one that this node is not to have" in result["msg"]
    assert files(node) == before


@pytest.mark.parametrize("key", ["zz", "1" * 64])
def test_a_broken_key_of_an_earlier_installation_is_told(capsys, node, key):
    (node / "etc").mkdir()
    (node / "etc" / "cjdroute.conf").write_text(f'{{"privateKey": "{key}"}}')
    result = run(capsys, node)
    assert result["failed"] is True
    assert "cjdroute.conf has a privateKey that cannot be used" in result["msg"]
    assert key not in result["msg"]
    assert files(node) == {}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nexit 3\n", "failed with code 3"),
        ("#!/bin/sh\n[ $1 = --genconf ] || cat >/dev/null\necho nonsense\n", "did not write JSON"),
        (
            f'#!/bin/sh\n[ $1 = --genconf ] || cat >/dev/null\necho \'{{"privateKey": "{PRIVATE_1}", "publicKey": "{PUBLIC_2}"}}\'\n',
            "does not belong to its private key",
        ),
    ],
)
def test_a_generator_that_fails_leaves_nothing_behind(capsys, node, script, reason):
    (node / "cjdroute").write_text(script)
    result = run(capsys, node)
    assert result["failed"] is True
    assert reason in result["msg"]
    assert PRIVATE_1 not in json.dumps(result)
    assert files(node) == {}


def test_without_cjdroute_the_error_says_what_to_do(capsys, node):
    (node / "cjdroute").unlink()
    assert "install cjdns first" in run(capsys, node)["msg"]


def test_the_double_of_the_daemon_makes_identities_that_hold(capsys, node):
    result = run(capsys, node, cjdroute=str(ROOT / "tests" / "doubles" / "cjdroute"))
    own = identity.read_file(str(node / "etc" / "cjdns" / "identity.json"))
    assert own is not None
    assert own.address == result["address"]


def test_passwords_are_derived_for_the_diallers(capsys, node):
    result = run(capsys, node, diallers=[PUBLIC_2])
    secret = files(node)["link-secret"][1]
    assert result["link_passwords"] == {PUBLIC_2: keys.link_password(secret, PUBLIC_2)}
    assert run(capsys, node, diallers=[PUBLIC_2], check=True)["link_passwords"] == result["link_passwords"]


def test_a_bad_dialler_is_refused_before_anything_is_made(capsys, node):
    assert "'web' cannot be used" in run(capsys, node, diallers=["web"])["msg"]
    assert files(node) == {}


def test_two_runs_at_once_end_with_one_identity(node):
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
_AnsibleCollectionFinder(paths=[{str(ROOT / "collections")!r}])._install()
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.modules import cjdns_identity
with patch_module_args({arguments(node)!r}):
    cjdns_identity.main()
"""
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PAUSE": "3"}
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _number in range(2)]
    results = [json.loads(process.communicate(timeout=120)[0]) for process in runs]
    assert (node / "cjdroute.first").exists()
    kept = json.loads(files(node)["identity.json"][1])
    assert {result["address"] for result in results} == {kept["ipv6"]}
    assert set(files(node)) == {"identity.json", "link-secret", "admin-password"}, "no temporary file is left"
    assert sum("identity.json" in path for result in results for path in result["created"]) == 1
