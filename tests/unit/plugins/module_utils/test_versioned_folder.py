# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
from pathlib import Path

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import versioned_folder


def pack(path: Path, content: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid = len(data), 0o4777, 12345
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def approve(folder: str) -> None:
    """Any folder will do."""


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base"
    path.mkdir()
    return path


def listed(base: Path) -> list[str]:
    return sorted(entry.name for entry in base.iterdir())


def test_a_version_lies_beside_the_others_and_becomes_the_one_in_use_in_one_step(base, tmp_path):
    assert versioned_folder.current(str(base)) == ""
    for name in ("a", "b"):
        versioned_folder.place(str(base), name, pack(tmp_path / "x.tar", {"in/side": name.encode()}), approve)
        versioned_folder.switch(str(base), name)
    assert listed(base) == ["a", "b", "current"]
    assert versioned_folder.current(str(base)) == "b"
    assert (base / "current" / "in" / "side").read_text() == "b"


def test_all_may_read_the_files_and_only_their_owner_may_change_them(base, tmp_path):
    versioned_folder.place(str(base), "a", pack(tmp_path / "x.tar", {"in/side": b"1"}), approve)
    status = (base / "a/in/side").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o644, os.getuid())
    assert stat.S_IMODE((base / "a").stat().st_mode) == 0o755


def test_a_version_that_is_refused_never_gets_its_name(base, tmp_path):
    def refuse(_folder):
        raise versioned_folder.FolderError("not this one")

    with pytest.raises(versioned_folder.FolderError, match="not this one"):
        versioned_folder.place(str(base), "a", pack(tmp_path / "x.tar", {"f": b"1"}), refuse)
    assert listed(base) == []


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_that_was_cut_off_leaves_nothing(base, tmp_path, packed):
    path = tmp_path / "x.tar"
    pack(path, {"one": b"1" * 5000, "two": random.Random(1).randbytes(50000)})
    whole = gzip.compress(path.read_bytes()) if packed else path.read_bytes()
    path.write_bytes(whole[:20000])
    with pytest.raises(versioned_folder.FolderError, match="no whole archive"):
        versioned_folder.place(str(base), "a", str(path), approve)
    assert listed(base) == []


@pytest.mark.parametrize("name", ["../out", "/out", "a/../../out", "a//b"])
def test_a_file_outside_of_its_folder_is_refused(base, tmp_path, name):
    with pytest.raises(versioned_folder.FolderError, match="no plain file of its own folder"):
        versioned_folder.place(str(base), "a", pack(tmp_path / "x.tar", {name: b"1"}), approve)
    assert not (tmp_path / "out").exists()
    assert listed(base) == []


def test_a_link_is_refused(base, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(versioned_folder.FolderError, match="no plain file"):
        versioned_folder.place(str(base), "a", str(tmp_path / "x.tar"), approve)


def test_a_damaged_version_makes_room_for_the_whole_one(base, tmp_path):
    archive = pack(tmp_path / "x.tar", {"f": b"right"})
    versioned_folder.place(str(base), "a", archive, approve)
    (base / "a/f").write_text("wrong")
    versioned_folder.place(str(base), "a", archive, approve)
    assert (base / "a/f").read_text() == "right"
    versioned_folder.prune(str(base), "a")
    assert listed(base) == ["a"]


def test_one_older_version_stays_and_leftovers_go(base):
    for age, name in enumerate(["new", "old", "older", "oldest", ".staged-1"]):
        (base / name).mkdir()
        os.utime(base / name, (1000 - age, 1000 - age))
    (base / ".lock").touch()
    assert sorted(versioned_folder.prune(str(base), "new")) == ["older", "oldest"]
    assert listed(base) == [".lock", "new", "old"]


@pytest.mark.parametrize("target", ["gone", "../elsewhere", "/etc"])
def test_a_link_to_no_version_is_none(base, target):
    (base / "current").symlink_to(target)
    assert versioned_folder.current(str(base)) == ""


def test_a_link_that_a_killed_run_left_is_in_nobodys_way(base):
    (base / "a").mkdir()
    (base / ".current-new").symlink_to("b")
    versioned_folder.switch(str(base), "a")
    assert versioned_folder.current(str(base)) == "a"
