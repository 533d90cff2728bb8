# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import sys
from types import MappingProxyType

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import python
from ansible_collections.vdloo.mesh.plugins.modules import converger_preflight
from ansible_collections.vdloo.mesh.plugins.plugin_utils import wheels

FOUND = MappingProxyType(
    {
        "path": "/usr/bin/python3",
        "version": [3, 11, 2],
        "implementation": "cpython",
        "libc": "glibc2.36",
        "arch": "x86_64",
        "venv": True,
        "ansible": "",
    }
)


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node on which nothing is wrong."""
    monkeypatch.setattr(converger_preflight.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(converger_preflight, "free_mb", lambda _directory: 5000)
    return tmp_path


def judge(found=FOUND, refused=(), init="systemd", venv=""):
    return converger_preflight.judge(found, list(refused), init, "/opt/vdloo-mesh", venv)


def test_a_node_that_has_all_has_no_problem(node):
    assert judge() == ("", False)


@pytest.mark.parametrize(
    ("given", "words", "lasting"),
    [
        (
            {"found": None, "refused": ["/usr/bin/python3 is cpython 3.9"]},
            ["/usr/bin/python3 is cpython 3.9", "needs 3.11", "ansible_python_interpreter"],
            True,
        ),
        ({"found": {**FOUND, "venv": False}}, ["/usr/bin/python3 has no module venv", "python3-venv"], False),
        ({"found": {**FOUND, "libc": ""}}, ["C library", "ansible-core, 2.19"], True),
        ({"init": ""}, ["neither systemd nor a cron", "install cron"], False),
    ],
)
def test_each_problem_says_what_to_do_and_whether_it_lasts(node, given, words, lasting):
    problem, lasts = judge(**given)
    assert all(word in problem for word in words), problem
    assert lasts is lasting


def test_space_is_needed_for_what_is_not_there_yet_only(node, monkeypatch):
    monkeypatch.setattr(converger_preflight, "free_mb", lambda _directory: 120)
    assert judge()[0] == "/opt/vdloo-mesh has 120 MB of space left and needs 300 MB: make room there"
    assert judge(venv="cp311") == ("", False)


def test_ssh_is_needed(node, monkeypatch):
    monkeypatch.setattr(converger_preflight.shutil, "which", lambda _name, path=None: None)
    assert "install openssh-client" in judge()[0]


def test_an_ansible_of_the_node_needs_no_wheels_for_its_c_library(node):
    assert judge({**FOUND, "libc": "", "ansible": "2.19.4"}) == ("", False)


def test_space_is_that_of_the_nearest_folder_that_is_there(tmp_path):
    assert converger_preflight.free_mb(str(tmp_path / "not" / "there")) == converger_preflight.free_mb(str(tmp_path))


def test_the_module_looks_at_this_machine_and_changes_nothing(tmp_path, capsys):
    with patch_module_args({"directory": str(tmp_path / "opt"), "sha256": "ab" * 32}), pytest.raises(SystemExit):
        converger_preflight.main()
    result = json.loads(capsys.readouterr().out)
    assert (result["changed"], result["collection"], result["venv"], result["sha256"]) == (False, "", "", "ab" * 32)
    assert wheels.KEY.match(f"{result['platform']}-00")
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- Pythons


def test_a_python_tells_what_it_is():
    found = python.ask(sys.executable)
    assert found["version"] == list(sys.version_info[:3])
    assert (found["implementation"], found["venv"]) == ("cpython", True)
    assert python.has_ansible(found), "these tests are run by an Ansible that the collection works with"


@pytest.mark.parametrize("path", ["/no/python", "/bin/true", "/etc/passwd"])
def test_what_is_no_python_does_not_answer(path):
    assert python.ask(path) is None


def stand_in(path, version: str) -> str:
    """A program that answers as a Python of a version would."""
    answer = json.dumps({**{key: value for key, value in FOUND.items() if key != "path"}, "version": [*map(int, version.split(".")), 0]})
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("system", "beside", "chosen"),
    [("3.11", {}, "system"), ("3.13", {"python3.12": "3.12"}, "system"), ("3.9", {"python3.12": "3.12"}, "python3.12"), ("3.9", {}, None)],
)
def test_the_systems_own_python_is_chosen_where_it_is_new_enough(tmp_path, monkeypatch, system, beside, chosen):
    monkeypatch.setattr(python, "SYSTEM", stand_in(tmp_path / "system", system))
    monkeypatch.setattr(python.sys, "executable", str(tmp_path / "system"))
    monkeypatch.setattr(python, "FOLDERS", str(tmp_path))
    for name, version in beside.items():
        stand_in(tmp_path / name, version)
    found, refused = python.choose()
    assert (found["path"] if found else None) == (str(tmp_path / chosen) if chosen else None)
    assert refused == ([f"{tmp_path}/system is cpython 3.9"] if system == "3.9" else [])


@pytest.mark.parametrize(
    ("version", "good"), [("2.19.4", True), ("2.22.0rc1", True), ("2.18.9", False), ("2.23.0", False), ("", False), ("x", False)]
)
def test_an_ansible_is_used_in_the_range_that_the_collection_was_tried_with(version, good):
    assert python.has_ansible({**FOUND, "ansible": version}) is good
