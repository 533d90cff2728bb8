# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""For how long a node has waited for the lock."""

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import clock, waiting


@pytest.fixture
def time(monkeypatch, tmp_path):
    """What time it is, in a list, and in which boot, in a file."""
    now = [1000.0]
    monkeypatch.setattr(clock, "seconds", lambda: now[0])
    boot = tmp_path / "boot_id"
    boot.write_text("first\n")
    monkeypatch.setattr(waiting, "BOOT_ID", str(boot))
    return now, boot


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "waiting")


def test_the_first_time_it_has_not_waited(time, path):
    assert waiting.seconds(path, "n2") == 0


def test_it_counts_from_the_first_time(time, path):
    waiting.seconds(path, "n2")
    time[0][0] = 1060.0
    assert waiting.seconds(path, "n2") == 60
    time[0][0] = 1100.0
    assert waiting.seconds(path, "n2") == 100


@pytest.mark.parametrize("obstacle", ["n3", ""])
def test_another_obstacle_begins_anew(time, path, obstacle):
    waiting.seconds(path, "n2")
    time[0][0] = 1060.0
    assert waiting.seconds(path, obstacle) == 0


def test_so_does_a_boot(time, path):
    waiting.seconds(path, "n2")
    time[0][0] = 5000.0
    time[1].write_text("second\n")
    assert waiting.seconds(path, "n2") == 0


def test_and_a_clock_that_went_back(time, path):
    waiting.seconds(path, "n2")
    time[0][0] = 5.0
    assert waiting.seconds(path, "n2") == 0


def test_once_it_is_over_it_begins_anew(time, path):
    waiting.over(path)
    waiting.seconds(path, "n2")
    waiting.over(path)
    time[0][0] = 1060.0
    assert waiting.seconds(path, "n2") == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"obstacle": "n2", "boot": "first", "since": "x"}'])
def test_a_damaged_note_begins_anew(time, path, text):
    with open(path, "w") as stream:
        stream.write(text)
    assert waiting.seconds(path, "n2") == 0


def test_without_a_boot_id_it_still_counts(time, path):
    time[1].unlink()
    waiting.seconds(path, "n2")
    time[0][0] = 1010.0
    assert waiting.seconds(path, "n2") == 10
