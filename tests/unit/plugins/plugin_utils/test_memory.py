# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import stat

import pytest
from ansible_collections.vdloo.mesh.plugins.plugin_utils import memory

DAY = 24 * 3600


class Maker:
    """Counts how often it is asked."""

    def __init__(self, value="made"):
        self.value, self.count = value, 0

    def __call__(self):
        self.count += 1
        return self.value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "rendered.json"


def test_what_was_made_once_is_not_made_again_by_a_later_run(path):
    make = Maker({"a": 1})
    first = memory.Memory(path)
    assert first.recall("key", make) == {"a": 1}
    first.keep()
    assert memory.Memory(path).recall("key", make) == {"a": 1}
    assert make.count == 1
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)


def test_another_key_is_made_anew_and_so_is_what_has_none(path):
    make = Maker()
    known = memory.Memory(path)
    for key in ("one", "two", None, None):
        known.recall(key, make)
    assert make.count == 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 0, "known": {}}', '{"format": 1, "known": []}', '{"format": 1, "known": {"key": 7}}']
)
def test_a_damaged_file_is_no_memory_and_is_replaced(path, text):
    path.parent.mkdir()
    path.write_text(text)
    known = memory.Memory(path)
    assert known.recall("key", Maker()) == "made"
    known.keep()
    assert list(json.loads(path.read_text())["known"]) == ["key"]


def test_a_file_that_cannot_be_written_is_no_failure(tmp_path):
    (tmp_path / "cache").write_text("a file, where the folder should be")
    known = memory.Memory(tmp_path / "cache" / "rendered.json")
    known.recall("key", Maker())
    known.keep()


def test_a_run_that_learnt_nothing_writes_nothing(path):
    memory.Memory(path).keep()
    assert not path.exists()


def test_what_nobody_asked_for_in_a_month_is_forgotten(path):
    known = memory.Memory(path, now=0)
    for key in ("old", "used"):
        known.recall(key, Maker())
    known.keep()
    later = memory.Memory(path, now=20 * DAY)
    later.recall("used", Maker())
    later.keep()
    latest = memory.Memory(path, now=40 * DAY)
    latest.recall("new", Maker())
    latest.keep()
    assert set(json.loads(path.read_text())["known"]) == {"used", "new"}
