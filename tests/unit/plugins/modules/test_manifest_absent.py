# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A role that is to manage nothing on the node any more."""

from __future__ import annotations

import os

import pytest
import test_manifest

pytestmark = test_manifest.pytestmark


@pytest.fixture
def node(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return test_manifest.Node(tmp_path, capsys)


def absent(node, check=False, **sections):
    return node.run(check=check, state="absent", manifest=node.manifest(**sections))


def test_its_files_and_its_record_are_removed_and_all_else_stays(node):
    node.run()
    (node.etc / "others").write_text("mine\n")
    gone = absent(node)
    assert gone["changed_paths"] == node.paths("first", "conf")
    assert node.tree() == {"others": ("mine\n", 0o644)}
    assert not (node.state / "manifests" / "web.json").exists()
    assert (absent(node)["changed"], absent(node)["diff"]) == (False, [])
    # Nothing is kept of what nobody asks for.
    assert list((node.state / "previous").iterdir()) == []


def test_where_it_never_was_nothing_changes(node):
    assert absent(node)["changed"] is False
    assert not (node.state / "manifests" / "web.json").exists()


def test_a_dry_run_says_what_would_go_and_leaves_it(node):
    node.run()
    told = absent(node, check=True)
    assert told["changed_paths"] == node.paths("first", "conf")
    assert told["diff"][1]["before"] == "a = 1\n" and told["diff"][1]["after"] == ""
    assert set(node.tree()) == {"first", "conf"}


def test_what_is_left_is_judged_before_anything_goes(node):
    node.run()
    (node.etc / "others").write_text("nonsense\n")
    checks = [{"directory": str(node.etc), "command": [str(node.base / "judge"), "%s"]}]
    told = absent(node, checks=checks)
    assert told["failed"] and "nothing was changed" in told["msg"]
    assert set(node.tree()) == {"first", "conf", "others"}


def test_it_can_be_put_back(node):
    node.run()
    before = node.tree()
    assert absent(node)["can_roll_back"] is True
    node.run(state="rolled_back")
    assert node.tree() == before
    assert node.run()["changed"] is False


@pytest.mark.parametrize("state", ["absent", "present"])
def test_it_needs_a_manifest(node, state):
    told = node.run(state=state)
    assert told["failed"] and "manifest" in told["msg"]
