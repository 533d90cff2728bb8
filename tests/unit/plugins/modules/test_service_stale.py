# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible_collections.vdloo.mesh.plugins.modules import service_stale

RUNNING = {
    "ActiveState": "active",
    "ExecMainStartTimestampMonotonic": "100000000",
    "ActiveEnterTimestampMonotonic": "101000000",
    "StateChangeTimestampMonotonic": "150000000",
}


def test_the_start_of_the_process_counts():
    assert service_stale.read_since(RUNNING, False, now=1000.0, monotonic_now=200.0) == 900.0


def test_a_reload_counts_where_it_is_enough():
    assert service_stale.read_since(RUNNING, True, now=1000.0, monotonic_now=200.0) == 950.0


@pytest.mark.parametrize("state", ["inactive", "failed", "activating", ""])
def test_a_service_that_does_not_run_is_not_stale(state):
    assert service_stale.read_since({**RUNNING, "ActiveState": state}, False, 1000.0, 200.0) is None


def test_only_files_that_changed_since_are_stale(tmp_path):
    old, new, missing = tmp_path / "old", tmp_path / "new", tmp_path / "missing"
    old.write_text("")
    new.write_text("")
    since = old.stat().st_ctime + 1
    assert service_stale.stale_files([str(old), str(missing)], since) == []
    assert service_stale.stale_files([str(old), str(new)], since - 5) == [str(old), str(new)]


def test_the_output_of_systemctl_is_read_whatever_it_holds():
    assert service_stale.parse_show("A=1\nB=x=y\n\nnonsense\nC=\n") == {"A": "1", "B": "x=y", "C": ""}
