# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils.consul import binary
from ansible_collections.vdloo.mesh.plugins.modules import consul_binary

# Putting a file in place makes it root's.
pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="the module runs as root")


def program(version):
    return f"#!/bin/sh\necho 'Consul v{version}'\n".encode()


@pytest.fixture
def node(tmp_path):
    (tmp_path / "bin").mkdir()
    return tmp_path


def run(capsys, node, content, checksum=None, check=False, **options):
    """Stage some content, run the module, and return its result."""
    staged = node / "staged"
    if content is not None:
        staged.write_bytes(content)
    arguments = {
        "src": str(staged),
        "checksum": checksum or hashlib.sha256(content or b"").hexdigest(),
        "dest": str(node / "bin" / "consul"),
        "stamp": str(node / "state" / "consul-binary.json"),
        **options,
        "_ansible_check_mode": check,
    }
    with patch_module_args(arguments), pytest.raises(SystemExit):
        consul_binary.main()
    return json.loads(capsys.readouterr().out)


def installed(node):
    return sorted(path.name for path in (node / "bin").iterdir())


def test_a_binary_that_runs_is_put_in_place(capsys, node):
    result = run(capsys, node, program("1.8.7"), checksum="sha256:" + hashlib.sha256(program("1.8.7")).hexdigest())
    assert (result["changed"], result["version"]) == (True, "1.8.7")
    assert stat.S_IMODE((node / "bin" / "consul").stat().st_mode) == 0o755
    assert installed(node) == ["consul"]
    assert not (node / "staged").exists()


def test_the_vendors_archive_is_unpacked(capsys, node):
    with zipfile.ZipFile(node / "archive", "w") as archive:
        archive.writestr("LICENSE.txt", "free enough")
        archive.writestr("consul", program("1.21.5"))
    assert run(capsys, node, (node / "archive").read_bytes(), version="1.21.5")["version"] == "1.21.5"
    assert (node / "bin" / "consul").read_bytes() == program("1.21.5")


def test_the_same_binary_again_is_no_change(capsys, node):
    run(capsys, node, program("1.8.7"))
    before = os.stat(node / "bin" / "consul")
    assert not run(capsys, node, program("1.8.7"))["changed"]
    assert os.stat(node / "bin" / "consul").st_ino == before.st_ino


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        (program("1.8.7"), {"checksum": "0" * 64}, "has the SHA-256"),
        (program("1.7.14"), {}, "the binary is Consul 1.7.14, below 1.8"),
        (program("1.8.7"), {"version": "1.21.5"}, "the binary is Consul 1.8.7 and not 1.21.5"),
        (b"#!/bin/sh\necho hello\n", {}, "is no Consul"),
        (program("1.8.7") + b"exit 3\n", {}, "exit code 3"),
        (b"\x7fELF" + bytes(200), {}, "does not run here"),
        (b"PK\x03\x04 torn", {}, "damaged archive"),
    ],
)
def test_a_bad_binary_leaves_the_old_one(capsys, node, content, options, says):
    run(capsys, node, program("1.9.0"))
    result = run(capsys, node, content, **options)
    assert result["failed"]
    assert says in result["msg"]
    assert "left as it is (1.9.0)" in result["msg"]
    assert (node / "bin" / "consul").read_bytes() == program("1.9.0")
    assert installed(node) == ["consul"]


def test_an_archive_without_the_program_is_refused(capsys, node):
    with zipfile.ZipFile(node / "archive", "w") as archive:
        archive.writestr("vault", program("1.8.7"))
    assert "without a file named consul" in run(capsys, node, (node / "archive").read_bytes())["msg"]


def test_check_mode_installs_nothing(capsys, node):
    result = run(capsys, node, program("1.8.7"), check=True)
    assert (result["changed"], result["diff"]["before"], result["diff"]["after"]) == (True, "", "Consul 1.8.7\n")
    assert installed(node) == []
    assert (node / "staged").exists()
    assert run(capsys, node, None, checksum="0" * 64, check=True, src=str(node / "none"))["changed"]


def test_the_stamp_knows_the_binary_until_it_is_replaced(capsys, node):
    content = program("1.8.7")
    checksum = hashlib.sha256(content).hexdigest()
    run(capsys, node, content)
    path, stamp = str(node / "bin" / "consul"), binary.read_stamp(str(node / "state" / "consul-binary.json"))
    assert binary.is_installed(path, stamp, checksum)
    assert not binary.is_installed(path, stamp, "0" * 64)
    os.utime(path)
    assert binary.is_installed(path, stamp, checksum), "a touched file still has the same content"
    (node / "bin" / "consul").write_bytes(program("1.9.0"))
    assert not binary.is_installed(path, stamp, checksum)


def test_a_damaged_stamp_counts_as_none(tmp_path):
    (tmp_path / "stamp").write_text("{")
    assert binary.read_stamp(str(tmp_path / "stamp")) == {}


@pytest.mark.parametrize(("version", "file"), [("1.8.7", "consul_1.8.7_linux_armhfv6.zip"), ("1.21.5", "consul_1.21.5_linux_arm.zip")])
def test_the_vendors_name_for_arm_depends_on_the_version(version, file):
    assert binary.release_file(version, "arm") == file
