# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The overlay addresses of the nodes, out of the registry of the node."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.names import overlay
from hypothesis import given
from hypothesis import strategies as st

REGISTRY = {
    "n1": {"state": "member", "address": "fc00::1"},
    "n2": {"state": "member", "address": "FC00:0::2"},
    "gone": {"state": "left", "address": "fc00::3"},
    "bad": {"state": "revoked", "address": "fc00::4"},
    "Odd Name": {"state": "member", "address": "fc00::5"},
    "odd": {"state": "member", "address": "nowhere"},
}


@pytest.fixture
def known(tmp_path, monkeypatch):
    monkeypatch.setattr(overlay, "LOOK_EVERY", 0)
    (tmp_path / "registry.json").write_text(json.dumps(REGISTRY))
    found = overlay.Overlay(str(tmp_path / "registry.json"))
    found.refresh()
    return found


def replace(known, text: str) -> None:
    with open(known.path + ".new", "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(known.path + ".new", known.path)
    known.refresh()


def test_only_members_are_known_in_both_directions(known):
    assert known.addresses == {"n1": "fc00::1", "n2": "fc00::2"}
    assert known.names == {"fc00::1": "n1", "fc00::2": "n2"}
    assert known.problem == ""


def test_a_changed_file_is_read_again(known):
    replace(known, json.dumps({"n9": {"state": "member", "address": "fc00::9"}}))
    assert known.addresses == {"n9": "fc00::9"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"n1": 5}', "[" * 100000])
def test_a_damaged_file_keeps_what_was_known_and_is_told(known, text):
    replace(known, text)
    assert known.addresses == {"n1": "fc00::1", "n2": "fc00::2"}
    assert "is damaged" in known.problem
    replace(known, json.dumps(REGISTRY))
    assert known.problem == ""


def test_a_file_that_is_gone_keeps_what_was_known(known):
    os.unlink(known.path)
    known.refresh()
    assert known.addresses and "is gone" in known.problem


def test_before_there_is_a_mesh_there_is_nothing_to_tell(tmp_path):
    found = overlay.Overlay(str(tmp_path / "registry.json"))
    found.refresh()
    assert (found.addresses, found.problem) == ({}, "")


@given(st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.dictionaries(st.sampled_from(["state", "address"]), st.text())))
def test_any_records_are_read_or_refused(registry):
    try:
        assert isinstance(overlay.members(registry), dict)
    except ValueError:
        assert registry
