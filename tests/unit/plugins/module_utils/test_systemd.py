# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import systemd
from hypothesis import given
from hypothesis import strategies as st

RUNNING = {
    "ActiveState": "active",
    "ExecMainStartTimestampMonotonic": "100000000",
    "ActiveEnterTimestampMonotonic": "101000000",
    "StateChangeTimestampMonotonic": "150000000",
    "UnitFileState": "enabled",
}
READS = {"restart": [], "reload": []}


def test_the_start_of_the_process_counts():
    assert systemd.read_since(RUNNING, False, now=1000.0, monotonic_now=200.0) == 900.0


def test_a_reload_counts_where_it_is_enough():
    assert systemd.read_since(RUNNING, True, now=1000.0, monotonic_now=200.0) == 950.0


@pytest.mark.parametrize("state", ["inactive", "failed", "activating", ""])
def test_a_service_that_does_not_run_is_not_stale(tmp_path, state):
    path = tmp_path / "new"
    path.write_text("")
    told = systemd.judge({**RUNNING, "ActiveState": state}, {"restart": [str(path)], "reload": [str(path)]}, 1000.0, 200.0)
    assert told == {"running": False, "enabled": True, "since": None, "restart": [], "reload": []}


@pytest.mark.parametrize(
    ("state", "enabled"), [("enabled", True), ("static", True), ("enabled-runtime", False), ("disabled", False), ("", False)]
)
def test_only_what_outlives_a_reboot_counts_as_enabled(state, enabled):
    assert systemd.judge({**RUNNING, "UnitFileState": state}, READS, 1000.0, 200.0)["enabled"] is enabled


def test_only_files_that_changed_since_are_stale(tmp_path):
    old, new, missing = tmp_path / "old", tmp_path / "new", tmp_path / "missing"
    old.write_text("")
    new.write_text("")
    since = old.stat().st_ctime + 1
    assert systemd.stale_files([str(old), str(missing)], since) == []
    assert systemd.stale_files([str(old), str(new)], since - 5) == [str(old), str(new)]


def test_a_link_that_was_moved_to_an_older_program_is_stale(tmp_path, monkeypatch):
    (tmp_path / "program").write_text("")
    link = tmp_path / "current"
    link.symlink_to("program")
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **options: os.stat_result((0,) * 10) if path == str(link) else real(path, **options))
    assert systemd.stale_files([str(link)], link.lstat().st_ctime - 1) == [str(link)]


def test_all_units_are_asked_for_in_one_call():
    calls = []

    def run(argv):
        calls.append(argv)
        return 0, "ActiveState=active\nUnitFileState=enabled\n\nActiveState=failed\n", ""

    assert systemd.show(["one.service", "two.service"], ("ActiveState",), run) == {
        "one.service": {"ActiveState": "active", "UnitFileState": "enabled"},
        "two.service": {"ActiveState": "failed"},
    }
    assert len(calls) == 1
    assert calls[0][-3:] == ["--", "one.service", "two.service"]


def test_nothing_is_asked_where_there_is_no_service():
    assert systemd.services({}, run=None) == {}


def test_an_answer_about_other_units_than_asked_for_is_refused():
    with pytest.raises(systemd.SystemdError, match="told of 1 units and not of one.service two.service"):
        systemd.show(["one.service", "two.service"], ("Id",), lambda argv: (0, "Id=one.service\n", ""))


def test_what_systemctl_says_of_its_failure_is_told():
    with pytest.raises(systemd.SystemdError, match="show one.service failed: no bus"):
        systemd.show(["one.service"], ("Id",), lambda argv: (1, "", "no bus\n"))


def test_a_node_without_systemd_is_told(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(systemd.SystemdError, match="systemctl cannot be run"):
        systemd.show(["one.service"], ("Id",))


def test_a_systemd_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(systemd, "TIMEOUT_S", 0.1)
    with pytest.raises(systemd.SystemdError, match="did not end within 0.1 s"):
        systemd.run_command(["sleep", "5"])


LINE = st.text(st.characters(exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=20)


@given(st.lists(st.dictionaries(st.from_regex(r"[A-Z][A-Za-z]{0,8}", fullmatch=True), LINE, min_size=1, max_size=4), max_size=5))
def test_the_output_of_systemctl_is_read_whatever_the_values_are(units):
    text = "\n".join("".join(f"{name}={value}\n" for name, value in unit.items()) for unit in units)
    assert systemd.parse(text) == units
