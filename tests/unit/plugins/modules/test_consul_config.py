# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import stat

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.modules import consul_config

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the module runs as root")

KEY = "HuECM9IRfRvGhkX8CCWM11EVvxl9iA97mivw1TslS/I="
# Stands in for `consul validate`: keeps what it was shown, and refuses the key that Consul would refuse.
VALIDATE = """\
#!/bin/sh
echo run >> {seen}.count
rm -rf {seen}
cp -r "$2" {seen}
if grep -rl nonsense "$2"; then echo "* invalid config key nonsense" >&2; exit 1; fi
"""


@pytest.fixture
def node(tmp_path):
    (tmp_path / "consul").write_text(VALIDATE.format(seen=tmp_path / "seen"))
    (tmp_path / "consul").chmod(0o755)
    return tmp_path


def run(capsys, node, config=None, check=False, **options):
    arguments = {
        "config": config or {"server": True},
        "gossip_key": KEY,
        "retry_join": ["fc00::2", "fc00::1"],
        "bind_address": "fc00::1",
        "config_dir": str(node / "consul.d"),
        "data_dir": str(node / "data"),
        "user": "root",
        "binary": str(node / "consul"),
        **options,
        "_ansible_check_mode": check,
        "_ansible_diff": True,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        consul_config.main()
    out = capsys.readouterr().out
    assert KEY not in out
    return json.loads(out)


def contents(node):
    return {path.name: json.loads(path.read_text()) for path in (node / "consul.d").iterdir()}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def validations(node):
    count = node / "seen.count"
    return len(count.read_text().splitlines()) if count.exists() else 0


def test_each_kind_of_setting_gets_its_own_file(capsys, node):
    assert run(capsys, node, bootstrap_expect=3)["changed"]
    assert contents(node) == {
        "consul.json": {"server": True},
        "join.json": {"retry_join": ["[fc00::2]:8301"]},
        "secrets.json": {"encrypt": KEY},
        "bootstrap.json": {"bootstrap_expect": 3},
    }
    assert {mode(path) for path in (node / "consul.d").iterdir()} == {0o640}
    assert (mode(node / "consul.d"), mode(node / "data")) == (0o750, 0o700)


def test_a_second_run_changes_and_validates_nothing(capsys, node):
    run(capsys, node)
    result = run(capsys, node)
    assert (result["changed"], result["changed_paths"], result["diff"]) == (False, [], [])
    assert validations(node) == 1


def test_a_wrong_mode_is_put_right_without_writing(capsys, node):
    run(capsys, node)
    path = node / "consul.d" / "secrets.json"
    path.chmod(0o644)
    inode = path.stat().st_ino
    assert run(capsys, node)["changed_paths"] == [str(path)]
    assert (mode(path), path.stat().st_ino) == (0o640, inode)


def test_what_consul_refuses_changes_no_file(capsys, node):
    run(capsys, node)
    before = contents(node)
    result = run(capsys, node, config={"nonsense": 1}, retry_join=["fc00::3"])
    assert result["failed"]
    assert "invalid config key nonsense" in result["msg"]
    assert f"{node}/consul.d/consul.json" in result["msg"]
    assert contents(node) == before


def test_the_whole_directory_is_validated_with_the_files_of_others(capsys, node):
    (node / "consul.d").mkdir()
    (node / "consul.d" / "mine.hcl").write_text("nonsense = 1")
    (node / "consul.d" / "notes.txt").write_text("nonsense, but not read by Consul")
    assert f"{node}/consul.d/mine.hcl" in run(capsys, node)["msg"]
    assert sorted(path.name for path in (node / "consul.d").iterdir()) == ["mine.hcl", "notes.txt"]
    (node / "consul.d" / "mine.hcl").write_text("log_level = 1")
    run(capsys, node)
    assert (node / "consul.d" / "mine.hcl").read_text() == "log_level = 1"


def test_the_key_is_not_in_what_is_staged_for_validation(capsys, node):
    run(capsys, node)
    staged = json.loads((node / "seen" / "secrets.json").read_text())
    assert list(staged) == ["encrypt"]
    assert staged["encrypt"] != KEY


def test_the_end_of_the_bootstrap_removes_its_file_alone(capsys, node):
    run(capsys, node, bootstrap_expect=3)
    assert run(capsys, node)["changed_paths"] == [str(node / "consul.d" / "bootstrap.json")]
    assert "bootstrap.json" not in contents(node)


def test_a_node_with_nobody_to_join_has_no_file_for_it(capsys, node):
    run(capsys, node, retry_join=["fc00::1"])
    assert "join.json" not in contents(node)


def test_peers_use_the_gossip_port_that_was_chosen(capsys, node):
    run(capsys, node, config={"ports": {"serf_lan": 9301}})
    assert contents(node)["join.json"] == {"retry_join": ["[fc00::2]:9301"]}


def test_check_mode_before_the_first_run_shows_all_and_writes_nothing(capsys, node):
    result = run(capsys, node, check=True, user="nobody-has-this-name", binary=str(node / "none"), bootstrap_expect=3)
    assert result["changed"]
    assert not result["validated"]
    assert [os.path.basename(part["after_header"]) for part in result["diff"]] == [
        "consul.json",
        "join.json",
        "secrets.json",
        "bootstrap.json",
    ]
    assert not (node / "consul.d").exists()
    assert not (node / "data").exists()


def test_check_mode_tells_what_consul_would_refuse(capsys, node):
    run(capsys, node)
    assert run(capsys, node, config={"nonsense": 1}, check=True)["failed"]


def test_nothing_in_the_data_directory_is_touched(capsys, node):
    (node / "data").mkdir()
    (node / "data" / "node-id").write_text("mine")
    (node / "data" / "node-id").chmod(0o604)
    run(capsys, node)
    assert (mode(node / "data"), mode(node / "data" / "node-id")) == (0o700, 0o604)


def test_what_a_killed_run_left_behind_is_removed(capsys, node):
    (node / "consul.d").mkdir()
    old, new = node / "consul.d" / ".secrets.json-old", node / "consul.d" / ".secrets.json-new"
    for path in (old, new):
        path.write_text("half a")
    os.utime(old, (0, 0))
    run(capsys, node)
    assert not old.exists()
    assert new.exists(), "it may belong to another run at this moment"


def test_a_missing_user_is_named(capsys, node):
    assert "nobody-has-this-name must be there" in run(capsys, node, user="nobody-has-this-name")["msg"]
