# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import stat
import threading

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import registry as records
from ansible_collections.vdloo.mesh.plugins.modules import mesh_state
from fake_mesh import KEYS, record

GIVEN = {"generation": "g1", "gossip_key": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "seeds": ["a"]}


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "etc" / "secrets.json")


def test_a_node_without_secrets_has_none(path):
    assert mesh_state.keep_secrets(path, None, False, [], False) == (None, False)


def test_founding_makes_secrets_for_root_alone_and_only_once(path, tmp_path):
    made, changed = mesh_state.keep_secrets(path, None, True, ["b", "a"], False)
    assert changed
    assert made["seeds"] == ["a", "b"]
    assert stat.S_IMODE((tmp_path / "etc" / "secrets.json").stat().st_mode) == 0o600
    assert mesh_state.keep_secrets(path, None, True, ["c"], False) == (made, False)


def test_secrets_are_placed_and_found_again(path):
    assert mesh_state.keep_secrets(path, GIVEN, False, [], False) == (GIVEN, True)
    assert mesh_state.keep_secrets(path, GIVEN, False, [], False) == (GIVEN, False)


def test_secrets_of_another_mesh_are_refused_and_left_alone(path, tmp_path):
    mesh_state.keep_secrets(path, GIVEN, False, [], False)
    before = (tmp_path / "etc" / "secrets.json").read_bytes()
    with pytest.raises(mesh_state.StateError, match="belongs to another mesh.*g1.*g2"):
        mesh_state.keep_secrets(path, {**GIVEN, "generation": "g2"}, False, [], False)
    assert (tmp_path / "etc" / "secrets.json").read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"gossip_key": "short", "generation": "g", "seeds": []}', '{"generation": "g"}'])
def test_a_broken_file_is_told_of_and_left_alone(path, tmp_path, content):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "secrets.json").write_text(content)
    with pytest.raises(ValueError, match="restore it from another node"):
        mesh_state.keep_secrets(path, None, True, ["a"], False)
    assert (tmp_path / "etc" / "secrets.json").read_text() == content


def test_check_mode_writes_nothing(path, tmp_path):
    _made, changed = mesh_state.keep_secrets(path, None, True, ["a"], True)
    assert changed
    assert not (tmp_path / "etc").exists()


def test_two_runs_that_found_at_once_end_with_one_mesh(path):
    results = []
    start = threading.Barrier(8)

    def found():
        start.wait()
        results.append(mesh_state.keep_secrets(path, None, True, ["a"], False))

    threads = [threading.Thread(target=found) for _number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({json.dumps(made, sort_keys=True) for made, _changed in results}) == 1
    assert [changed for _made, changed in results].count(True) == 1


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "registry.json"
    target.write_text("{}")
    with pytest.raises(TypeError):
        mesh_state.write_json(str(target), {"a": object()}, replace=True)
    assert target.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [target]


# ---------------------------------------------------------------- settings


def settings(version: int, **variables) -> dict:
    values = {"mesh": variables, "hosts": {}, "consul_servers": None, "withheld": []}
    return {"version": version, "updated": "2026-01-01T00:00:00Z", "by": "laptop", "values": values, "ancestors": []}


@pytest.fixture
def run(tmp_path, capsys):
    """run(options) is what the module says with its files in a folder of the test."""

    def run(**options):
        paths = {f"{kind}_file": str(tmp_path / f"{kind}.json") for kind in ("secrets", "registry", "settings", "rollout")}
        with patch_module_args({**paths, **options}), pytest.raises(SystemExit):
            mesh_state.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_settings_are_kept_for_root_alone_and_once(run, tmp_path):
    first = run(settings=settings(1, h2o_attempts=2), registry={})
    assert (first["changed"], first["settings"]) == (True, settings(1, h2o_attempts=2))
    assert json.loads((tmp_path / "settings.json").read_text()) == settings(1, h2o_attempts=2)
    assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o600
    assert not run(settings=settings(1, h2o_attempts=2))["changed"]
    assert run()["settings"] == settings(1, h2o_attempts=2)


def test_newer_settings_that_came_meanwhile_stay(run):
    run(settings=settings(5, h2o_attempts=2))
    result = run(settings=settings(4))
    assert (result["changed"], result["settings"]) == (False, settings(5, h2o_attempts=2))


def test_the_change_of_settings_is_shown_and_in_check_mode_nothing_is_written(run, tmp_path):
    result = run(settings=settings(1, h2o_attempts=2), _ansible_check_mode=True, _ansible_diff=True)
    assert result["changed"] and '"h2o_attempts": 2' in result["diff"][0]["after"]
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_be_a_record_are_refused_before_anything_is_written(run, tmp_path):
    result = run(settings={"version": 0}, registry={"n1": {}}, found=True)
    assert result["failed"] and "settings: they have no valid version" in result["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 1}'])
def test_damaged_settings_are_set_aside_and_not_lost(run, tmp_path, content, monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(mesh_state.AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    (tmp_path / "settings.json").write_text(content)
    assert run()["settings"] == {}
    assert (tmp_path / "settings.json").read_text() == content
    result = run(settings=settings(1))
    assert result["changed"] and "were set aside" in warnings[-1]
    assert json.loads((tmp_path / "settings.json").read_text()) == settings(1)
    (aside,) = tmp_path.glob("settings.json.damaged-*")
    assert aside.read_text() == content


# ---------------------------------------------------------------- registry


def test_a_run_with_an_older_registry_does_not_take_in_again_who_left_meanwhile(run, tmp_path):
    before = {name: record(name) for name in KEYS}
    run(registry=before)
    gone = records.depart(before, "n3", "left", "2026-02-02T00:00:00Z")
    assert run(registry=gone)["registry"] == gone
    told = run(registry=before)
    assert (told["changed"], told["registry"]) == (False, gone)
    assert json.loads((tmp_path / "registry.json").read_text()) == gone


def test_a_damaged_record_on_the_node_goes_with_the_next_registry(run, tmp_path):
    whole = {name: record(name) for name in KEYS}
    (tmp_path / "registry.json").write_text(json.dumps({**whole, "n9": {"name": "n9"}}))
    assert run(registry=whole)["registry"] == whole


# ---------------------------------------------------------------- the mark of a rollout

MARK = {"by": "laptop", "values": "v", "stopped": ""}


def test_a_node_is_marked_and_the_mark_is_taken_away(run, tmp_path):
    path = tmp_path / "rollout.json"
    assert run(rollout={"by": "laptop", "values": "v"})["changed"]
    assert json.loads(path.read_text()) == MARK
    assert not run(rollout={"by": "laptop", "values": "v"})["changed"]
    assert run(rollout={"by": "laptop", "values": "v", "stopped": "h2o does not run"})["changed"]
    assert json.loads(path.read_text())["stopped"] == "h2o does not run"
    assert not run()["changed"]
    assert path.exists()
    assert run(rollout={})["changed"]
    assert not path.exists()
    assert not run(rollout={})["changed"]


def test_a_mark_that_is_made_again_is_young_again(run, tmp_path):
    path = tmp_path / "rollout.json"
    run(rollout=MARK)
    os.utime(path, (1, 1))
    run(rollout=MARK)
    assert path.stat().st_mtime > 1


def test_a_damaged_mark_is_replaced(run, tmp_path):
    (tmp_path / "rollout.json").write_text("{")
    assert run(rollout=MARK)["changed"]
    assert json.loads((tmp_path / "rollout.json").read_text()) == MARK


def test_check_mode_marks_nothing(run, tmp_path):
    assert run(rollout=MARK, _ansible_check_mode=True)["changed"]
    assert not (tmp_path / "rollout.json").exists()
    run(rollout=MARK)
    assert run(rollout={}, _ansible_check_mode=True)["changed"]
    assert (tmp_path / "rollout.json").exists()
