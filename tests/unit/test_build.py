# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The collection as it is published."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GALAXY = [str(Path(sys.executable).parent / "ansible-galaxy"), "collection"]


@pytest.fixture(scope="module")
def tarball(tmp_path_factory) -> Path:
    """Build from a copy of what git knows, as a release is."""
    folder = tmp_path_factory.mktemp("build")
    tree = folder / "tree"
    names = subprocess.check_output(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    for name in names:
        source, target = ROOT / name, tree / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_symlink():
                target.symlink_to(os.readlink(source))
            else:
                target.write_bytes(source.read_bytes())
    subprocess.run([*GALAXY, "build", "--output-path", str(folder), str(tree)], check=True, capture_output=True, cwd=folder)
    return next(folder.glob("vdloo-mesh-*.tar.gz"))


def test_the_tarball_holds_what_users_need_and_nothing_else(tarball):
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
        assert not [member.name for member in archive.getmembers() if member.issym() or member.islnk()]
    top = {name.split("/")[0] for name in names}
    assert {"roles", "plugins", "playbooks", "meta", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.json"} <= top
    assert not top & {"tests", "molecule", "collections", "script", ".ci", ".cache", ".venv", "ansible.cfg"}, sorted(top)
    assert not [name for name in names if "cjdroute" in Path(name).name and not name.endswith(".j2")], "a test double must not ship"


def test_the_tarball_installs_into_an_empty_folder_and_its_playbook_is_found(tarball, tmp_path):
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(tmp_path), "ANSIBLE_CONFIG": os.devnull}
    subprocess.run(
        [*GALAXY, "install", "--offline", str(tarball), "-p", str(tmp_path)], check=True, capture_output=True, cwd=tmp_path, env=environment
    )
    playbook = [str(Path(sys.executable).parent / "ansible-playbook"), "vdloo.mesh.site", "-i", "mesh,", "--list-tasks"]
    listed = subprocess.run(playbook, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert listed.returncode == 0, listed.stderr
    for play in ("Prepare the nodes", "Connect the overlay", "Start the service discovery", "Let names resolve", "Open the way in"):
        assert play in listed.stdout


def test_the_link_that_makes_a_clone_work_leads_to_the_root():
    link = ROOT / "collections" / "ansible_collections" / "vdloo" / "mesh"
    assert link.is_symlink()
    assert link.resolve() == ROOT


def test_versions_agree():
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert f"v{version}" in (ROOT / "CHANGELOG.md").read_text() or list((ROOT / "changelogs" / "fragments").glob("*.yml"))
