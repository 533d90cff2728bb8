# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import stat
import threading

import pytest
from ansible_collections.vdloo.mesh.plugins.modules import mesh_state

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
