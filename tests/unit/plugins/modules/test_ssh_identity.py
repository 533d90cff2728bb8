# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""With the real ssh-keygen."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.modules import ssh_identity


@pytest.fixture
def path(tmp_path):
    return tmp_path / "etc" / "vdloo-mesh" / "ssh" / "id_ed25519"


@pytest.fixture
def run(path, capsys):
    def run(check=False):
        with patch_module_args({"path": str(path), "_ansible_check_mode": check}), pytest.raises(SystemExit):
            ssh_identity.main()
        return json.loads(capsys.readouterr().out)

    return run


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_made_once_for_root_alone(run, path):
    made = run()
    assert made["changed"] is True
    assert re.fullmatch(r"ssh-ed25519 AAAA[A-Za-z0-9+/=]+", made["public_key"])
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert path.with_suffix(".pub").read_text() == made["public_key"] + "\n"
    assert made["created"] == [str(path), f"{path}.pub"]
    assert sorted(os.listdir(path.parent)) == ["id_ed25519", "id_ed25519.pub"]
    private = path.read_bytes()
    again = run()
    assert (again["changed"], again["public_key"], path.read_bytes()) == (False, made["public_key"], private)


def test_the_private_key_is_shown_nowhere(run, path):
    shown = json.dumps(run())
    assert path.read_text().splitlines()[2] not in shown


def test_a_dry_run_makes_nothing_and_says_so(run, path):
    result = run(check=True)
    assert (result["changed"], result["public_key"]) == (True, "")
    assert f"{path} made" in result["diff"]["after"]
    assert not path.parent.exists()
    run()
    assert run(check=True)["changed"] is False


@pytest.mark.parametrize("left", ["", "ssh-ed25519 AAAAother somebody\n"])
def test_a_public_half_that_is_missing_or_anothers_is_written_anew_from_the_private_one(run, path, left):
    public, private = run()["public_key"], path.read_bytes()
    path.with_suffix(".pub").write_text(left)
    result = run()
    assert (result["created"], result["public_key"]) == ([f"{path}.pub"], public)
    assert path.with_suffix(".pub").read_text() == public + "\n"
    assert path.read_bytes() == private


@pytest.mark.parametrize("content", ["", "no key at all\n"])
def test_a_damaged_key_is_told_of_and_left_alone(run, path, content):
    path.parent.mkdir(parents=True)
    path.write_text(content)
    path.chmod(0o600)
    result = run()
    assert result["failed"] is True
    assert "restore it from a backup, or move it away" in result["msg"]
    assert path.read_text() == content


def test_a_key_that_others_can_read_is_closed_and_kept(run, path):
    run()
    private = path.read_bytes()
    path.chmod(0o644)
    foreseen = run(check=True)
    assert (foreseen["changed"], mode(path)) == (True, 0o644)
    assert f"{path} readable by others than root" in foreseen["diff"]["before"]
    assert run()["changed"] is True
    assert (mode(path), path.read_bytes()) == (0o600, private)


def test_without_ssh_keygen_it_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr(ssh_identity.AnsibleModule, "get_bin_path", lambda *_arguments, **_options: None)
    result = run()
    assert "ssh-keygen is not installed" in result["msg"]
    assert "openssh-client" in result["msg"]


def test_runs_at_the_same_time_end_with_one_key(path):
    program = f"""
import runpy
runpy.run_path({str(os.path.join(os.path.dirname(__file__), "../../../conftest.py"))!r})
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.modules import ssh_identity
with patch_module_args({{"path": {str(path)!r}}}):
    ssh_identity.main()
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _number in range(4)]
    results = [json.loads(process.communicate()[0]) for process in running]
    assert len({result["public_key"] for result in results}) == 1
    assert [str(path) in result["created"] for result in results].count(True) == 1
    assert sorted(os.listdir(path.parent)) == ["id_ed25519", "id_ed25519.pub"]
