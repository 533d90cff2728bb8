# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import pwd
import stat
import types

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import authorized_keys, files
from ansible_collections.vdloo.mesh.plugins.modules import authorized_nodes

KEY = {name: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5" + letter * 48 for name, letter in zip(("n1", "n2", "n3"), "BCD")}
LAPTOP = b"ssh-rsa AAAAB3NzaC1yc2E= me@laptop\n"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take on another user's rights")


@pytest.fixture
def homes(tmp_path, monkeypatch):
    """Two users of this machine, root and admin, with homes of the test."""
    accounts = {}
    for name in ("root", "admin"):
        (tmp_path / name).mkdir()
        accounts[name] = types.SimpleNamespace(pw_name=name, pw_dir=str(tmp_path / name), pw_uid=os.getuid(), pw_gid=os.getgid())
    monkeypatch.setattr(authorized_nodes.pwd, "getpwnam", accounts.__getitem__)
    monkeypatch.setattr(
        authorized_nodes.pwd, "getpwall", lambda: [types.SimpleNamespace(pw_dir="/dev/null", pw_uid=0, pw_gid=0), *accounts.values()]
    )
    return accounts


@pytest.fixture
def run(homes, capsys):
    def run(user="root", keys=KEY, **options):
        with patch_module_args({"user": user, "keys": keys, **options}), pytest.raises(SystemExit):
            authorized_nodes.main()
        return json.loads(capsys.readouterr().out)

    return run


def path(homes, user="root"):
    return authorized_keys.path_of(homes[user].pw_dir)


def test_the_nodes_are_let_in_once_by_a_file_for_the_user_alone(run, homes):
    assert run()["files"] == [path(homes)]
    assert authorized_keys.told(authorized_keys.read(path(homes))) == KEY
    assert stat.S_IMODE(os.stat(path(homes)).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path(homes))).st_mode) == 0o700
    assert run()["changed"] is False


def test_other_lines_and_the_mode_stay_and_a_node_that_left_goes(run, homes):
    os.makedirs(os.path.dirname(path(homes)))
    files.write(path(homes), LAPTOP, 0o640)
    run()
    result = run(keys={"n1": KEY["n1"]}, _ansible_diff=True)
    assert authorized_keys.read(path(homes)) == LAPTOP + authorized_keys.line("n1", KEY["n1"])
    assert stat.S_IMODE(os.stat(path(homes)).st_mode) == 0o640
    (diff,) = result["diff"]
    assert "vdloo-mesh:n3" in diff["before"] and "vdloo-mesh:n3" not in diff["after"] and "laptop" not in json.dumps(diff)


def test_check_mode_writes_nothing(run, homes):
    result = run(_ansible_check_mode=True)
    assert result["changed"] and os.listdir(homes["root"].pw_dir) == []


def test_when_the_user_changes_the_old_ones_file_lets_nobody_in(run, homes):
    run(user="admin")
    assert sorted(run(user="root")["files"]) == sorted([path(homes, "admin"), path(homes)])
    assert authorized_keys.read(path(homes, "admin")) == b""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"user": "-x"}, "user: '-x' is no name"),
        ({"user": "ghost"}, "there is no user ghost on this machine"),
        ({"keys": {"N1": KEY["n1"]}}, "'N1' is not the name of a node"),
        ({"keys": {"n1": KEY["n1"] + "\nssh-ed25519 evil"}}, "that of n1 is no key"),
        ({"keys": {"n1": None}}, "that of n1 is no key"),
    ],
)
def test_bad_input_is_refused_by_name_and_changes_nothing(run, homes, given, told):
    result = run(**given)
    assert result["failed"] and told in result["msg"]
    assert os.listdir(homes["root"].pw_dir) == []


def test_a_file_that_is_none_is_a_clear_error_for_the_user_and_a_warning_for_another(run, homes, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(authorized_nodes.AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    os.makedirs(path(homes))
    assert f"{path(homes)} could not be changed as root" in run()["msg"]
    assert run(user="admin")["changed"] and "may still have lines of the mesh" in warnings[-1]


@as_root
def test_a_link_of_the_users_to_a_file_of_roots_is_not_followed(tmp_path):
    nobody = pwd.getpwnam("nobody")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    os.chown(home / ".ssh", nobody.pw_uid, nobody.pw_gid)
    secret = tmp_path / "shadow"
    secret.write_text("root:secret\n")
    secret.chmod(0o600)
    (home / ".ssh" / "authorized_keys").symlink_to(secret)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o011)
    account = types.SimpleNamespace(pw_dir=str(home), pw_uid=nobody.pw_uid, pw_gid=nobody.pw_gid)
    with pytest.raises(PermissionError):
        authorized_keys.put(account, KEY, False)
    assert (os.geteuid(), os.getegid(), secret.read_text()) == (0, 0, "root:secret\n")
    (home / ".ssh" / "authorized_keys").unlink()
    authorized_keys.put(account, KEY, False)
    assert (home / ".ssh" / "authorized_keys").stat().st_uid == nobody.pw_uid
