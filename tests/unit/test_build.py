# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The collection as it is published."""

from __future__ import annotations

import tarfile
from pathlib import Path

import collection
import pytest


@pytest.fixture(scope="module")
def tarball(tmp_path_factory) -> Path:
    return collection.build(tmp_path_factory.mktemp("build"))


def test_the_tarball_holds_what_users_need_and_nothing_else(tarball):
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
        assert not [member.name for member in archive.getmembers() if member.issym() or member.islnk()]
    top = {name.split("/")[0] for name in names}
    assert {"roles", "plugins", "playbooks", "meta", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.json"} <= top
    assert not top & {"tests", "molecule", "collections", "script", ".ci", ".cache", ".venv", "ansible.cfg"}, sorted(top)
    assert not [name for name in names if Path(name).name == "cjdroute"], "a test double must not ship"


def test_the_tarball_installs_into_an_empty_folder_and_its_playbook_is_found(tarball, tmp_path):
    collection.install(tarball, tmp_path)
    listed = collection.run(tmp_path, "ansible-playbook", "vdloo.mesh.site", "-i", "mesh,", "--list-tasks")
    for play in ("Prepare the nodes", "Bring the nodes to what is planned", "Keep the settings"):
        assert play in listed


def test_the_link_that_makes_a_clone_work_leads_to_the_root():
    link = collection.ROOT / "collections" / "ansible_collections" / "vdloo" / "mesh"
    assert link.is_symlink()
    assert link.resolve() == collection.ROOT
