# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import stat
import time

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import files


def test_a_file_that_is_there_is_never_replaced(tmp_path):
    path = tmp_path / "secret"
    assert files.write_once(str(path), b"first", 0o600) is True
    assert files.write_once(str(path), b"second", 0o600) is False
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "secret"
    path.write_text("old")
    files.write(str(path), b"new", 0o600)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [files.write, files.write_once])
def test_a_write_that_fails_leaves_what_was_there_and_no_rest(tmp_path, monkeypatch, write):
    path = tmp_path / "secret"

    def fail(*_arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write(str(path), b"new", 0o600)
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_run_left_long_ago_is_cleared_away(tmp_path):
    old, new = tmp_path / ".secret-old", tmp_path / ".secret-new"
    for leftover in (old, new):
        leftover.touch()
    os.utime(old, (time.time() - 3600,) * 2)
    files.write(str(tmp_path / "secret"), b"", 0o600)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".secret-new", "secret"]


def test_a_staged_file_that_another_run_takes_away_meanwhile_is_no_leftover(tmp_path, monkeypatch):
    taken = tmp_path / ".secret-taken"
    taken.touch()
    find = files.glob.glob

    def find_and_lose(pattern):
        found = find(pattern)
        taken.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(files.glob, "glob", find_and_lose)
    files.write(str(tmp_path / "secret"), b"new", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_lock_is_for_one_at_a_time_and_says_who_has_it(tmp_path):
    path = str(tmp_path / "lock")
    with files.locked(path, 0):
        started = time.monotonic()
        with pytest.raises(TimeoutError, match=f"process {os.getpid()} holds {path} for more than 0.2 s"), files.locked(path, 0.2):
            pass
        assert time.monotonic() - started >= 0.2
    with files.locked(path, 0):
        pass


def test_a_lock_ends_with_a_process_that_was_killed(tmp_path):
    path = str(tmp_path / "lock")
    child = os.fork()
    if child == 0:
        with files.locked(path, 0):
            os._exit(9)
    os.waitpid(child, 0)
    with files.locked(path, 0):
        pass
