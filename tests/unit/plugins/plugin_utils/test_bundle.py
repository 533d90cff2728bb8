# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import shutil
import tarfile

import collection
import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import builds, collection_files, versioned_folder
from ansible_collections.vdloo.mesh.plugins.plugin_utils import bundle


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A copy of what a bundle is made of, so that it stays the same while others work on the original."""
    path = tmp_path / "clone"
    path.mkdir()
    for name in collection_files.FOLDERS:
        shutil.copytree(collection.ROOT / name, path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(collection.ROOT / "LICENSE", path)
    monkeypatch.setattr(bundle, "COLLECTION", path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def test_the_archive_is_the_same_each_time_and_holds_what_a_run_needs(clone, tmp_path):
    bundle.build(tmp_path / "1.tar.gz")
    (clone / "roles/node/README.md").touch()
    bundle.build(tmp_path / "2.tar.gz")
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "1.tar.gz") as archive:
        members = archive.getmembers()
    inside = [member.name.removeprefix("ansible_collections/vdloo/mesh/") for member in members]
    assert {"playbooks/site.yml", "plugins/inventory/mesh.py", "roles/node/tasks/main.yml", "meta/runtime.yml", "LICENSE"} <= set(inside)
    assert {name.split("/")[0] for name in inside} == {"meta", "playbooks", "plugins", "roles", "LICENSE"}
    assert inside == sorted(inside)
    assert {(member.uid, member.gid, member.mtime, member.mode) for member in members} == {(0, 0, 0, 0o644)}


def test_a_clone_a_published_build_and_the_copy_on_a_node_have_one_digest(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # All from one state, that of the tree that the tarball was built from.
    tarball = collection.build(tmp_path)
    (tmp_path / "installed").mkdir()
    collection.install(tarball, tmp_path / "installed")
    monkeypatch.setattr(bundle, "COLLECTION", tmp_path / "tree")
    sha256, archive = bundle.cached()
    (tmp_path / "node").mkdir()
    node = versioned_folder.place(str(tmp_path / "node"), "1", str(archive), lambda folder: builds.note(folder, sha256))
    assert collection_files.digest(str(tmp_path / "installed" / builds.INSIDE)) == sha256
    assert builds.sound(node) == sha256


@pytest.mark.parametrize("name", ["roles/node/.main.yml.swp", "roles/node/main.yml~", "plugins/modules/__pycache__/x.pyc", "plugins/x.pyc"])
def test_what_programs_leave_behind_does_not_count(clone, name):
    before = bundle.digest()
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text("left")
    assert bundle.digest() == before


@pytest.mark.parametrize("change", ["content", "name", "new"])
def test_another_name_or_content_is_another_build(clone, change):
    before = bundle.digest()
    path = clone / "roles/node/README.md"
    if change == "content":
        path.write_text("other")
    elif change == "name":
        path.rename(path.with_name("README2.md"))
    else:
        path.with_name("new.md").write_text("")
    assert bundle.digest() != before


def test_it_is_built_once(clone, monkeypatch):
    first = bundle.cached()
    monkeypatch.setattr(bundle, "build", None)
    assert bundle.cached() == first
    assert bundle.cached(first[0]) == first


def test_a_collection_that_was_edited_since_the_plan_is_not_handed_over(clone):
    planned, _archive = bundle.cached()
    (clone / "roles/node/README.md").write_text("other")
    with pytest.raises(bundle.BundleError, match="has changed since this run was planned"):
        bundle.cached(planned)


def test_few_old_archives_are_kept(clone):
    for number in range(6):
        (clone / "roles/node/README.md").write_text(str(number))
        _sha256, path = bundle.cached()
    assert path.is_file()
    assert len(list(path.parent.glob("*.tar.gz"))) == bundle.KEPT


def test_the_copy_on_a_node_is_handed_on_only_as_it_was_put_there(clone, tmp_path, monkeypatch):
    sha256, archive = bundle.cached()
    assert not bundle.is_placed()
    base = tmp_path / "opt"
    base.mkdir()
    node = versioned_folder.place(str(base), "1", str(archive), lambda folder: builds.note(folder, sha256))
    monkeypatch.setattr(builds, "DIRECTORY", str(base))
    monkeypatch.setattr(bundle, "COLLECTION", base / "1" / builds.INSIDE)
    assert bundle.is_placed()
    assert bundle.cached()[0] == sha256
    with pytest.raises(bundle.BundleError, match="a run from a node that has it brings it here"):
        bundle.cached("ab" * 32)
    (base / "1" / builds.INSIDE / "roles/node/README.md").write_text("damaged")
    with pytest.raises(bundle.BundleError, match="was changed since it was put there.*from another one"):
        bundle.cached()
    (base / "1" / builds.NOTE).unlink()
    with pytest.raises(bundle.BundleError, match="was changed"):
        bundle.digest()
    assert builds.sound(node) == ""
