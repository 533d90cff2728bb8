# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import json
import os
import tarfile

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import builds, collection_files
from ansible_collections.vdloo.mesh.plugins.modules import converger_collection


@pytest.fixture
def build(tmp_path):
    """Make a small collection: (its digest, its archive)."""

    def build(text: str) -> tuple[str, str]:
        root = tmp_path / "source"
        (root / "playbooks").mkdir(parents=True, exist_ok=True)
        (root / "playbooks/site.yml").write_text(text)
        archive = tmp_path / f"{text}.tar.gz"
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(root / "playbooks/site.yml", f"{builds.INSIDE}/playbooks/site.yml")
        return collection_files.digest(str(root)), str(archive)

    return build


@pytest.fixture
def run(tmp_path, capsys):
    def run(sha256, archive, check=False):
        arguments = {"sha256": sha256, "archive": archive, "directory": str(tmp_path / "opt"), "_ansible_check_mode": check}
        with patch_module_args(arguments), pytest.raises(SystemExit):
            converger_collection.main()
        return json.loads(capsys.readouterr().out)

    return run


def text(tmp_path) -> str:
    return (tmp_path / "opt/current" / builds.INSIDE / "playbooks/site.yml").read_text()


def test_a_build_is_placed_once_and_the_one_before_stays(build, run, tmp_path):
    made = [build(name) for name in ("one", "two", "three")]
    results = [run(*entry) for entry in made]
    assert [result["changed"] for result in results] == [True, True, True]
    assert text(tmp_path) == "three"
    assert results[2]["removed"] == [made[0][0][:16]]
    assert results[2]["diff"]["before"] == f"current -> {made[1][0][:16]}\n"
    assert run(*made[2])["changed"] is False


def test_a_dry_run_needs_no_archive(build, run, tmp_path):
    sha256, _archive = build("one")
    assert run(sha256, None, check=True)["changed"] is True
    assert not (tmp_path / "opt").exists()


def test_what_arrives_as_another_build_is_refused_and_the_old_one_stays(build, run, tmp_path):
    run(*build("one"))
    result = run("ab" * 32, build("two")[1])
    assert "is put" not in result["msg"]
    assert "and not abababababababab: run this again" in result["msg"]
    assert text(tmp_path) == "one"
    assert not [name for name in os.listdir(tmp_path / "opt") if name.startswith(".") and name != ".lock"]


@pytest.mark.parametrize("damage", ["edited", "removed", "unnoted"])
def test_a_build_that_somebody_changed_is_brought_anew(build, run, tmp_path, damage):
    entry = build("one")
    run(*entry)
    path = tmp_path / "opt/current" / builds.INSIDE / "playbooks/site.yml"
    if damage == "edited":
        path.write_text("other")
    elif damage == "removed":
        path.unlink()
    else:
        (tmp_path / "opt/current/build.json").unlink()
    assert run(*entry)["changed"] is True
    assert text(tmp_path) == "one"
    assert run(*entry)["changed"] is False


def test_a_cache_of_python_in_a_build_does_no_harm(build, run, tmp_path):
    entry = build("one")
    run(*entry)
    cache = tmp_path / "opt/current" / builds.INSIDE / "playbooks/__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_text("")
    assert run(*entry)["changed"] is False


def test_without_its_action_plugin_it_says_what_to_do(run):
    assert "use the full name vdloo.mesh.converger_collection" in run("", None)["msg"]
