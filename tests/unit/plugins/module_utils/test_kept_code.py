# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import importlib
import os
import shutil
import sys
import zipfile

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils import kept_code

PACKAGE = "kept_code_sample"


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with an empty cache, whose root is whoever runs the tests."""
    monkeypatch.setattr(kept_code, "FOLDER", str(tmp_path / "code"))
    monkeypatch.setattr(kept_code, "ROOT", os.geteuid())
    yield tmp_path
    forget()


def forget():
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    importlib.invalidate_caches()


def send(node, monkeypatch, files, name="module.zip"):
    """Import the package out of a new archive with these files, as Ansible's wrapper does; return it."""
    forget()
    path = node / name
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {"__init__.py": "", **files}.items():
            archive.writestr(f"{PACKAGE}/{member}", text)
    monkeypatch.syspath_prepend(str(path))
    return importlib.import_module(PACKAGE)


def use(name):
    kept_code.use(PACKAGE)
    return importlib.import_module(f"{PACKAGE}.{name}")


def value_of(name):
    return use(name).VALUE


def copies(node):
    return sorted(entry.name for entry in (node / "code").iterdir())


def test_what_is_imported_comes_compiled_from_the_copy(node, monkeypatch):
    send(
        node,
        monkeypatch,
        {
            "one.py": "from . import inner\nVALUE = inner.deep.VALUE\n",
            "inner/__init__.py": "from . import deep\n",
            "inner/deep.py": "VALUE = 7\n",
        },
    )
    found = use("one")
    assert found.VALUE == 7
    assert found.__file__.startswith(str(node / "code"))
    assert os.path.exists(found.__cached__)
    assert found.__cached__.startswith(str(node / "code"))


def test_the_next_time_nothing_is_written(node, monkeypatch):
    send(node, monkeypatch, {"one.py": "VALUE = 1\n"})
    use("one")
    before = {path: path.stat().st_mtime_ns for path in (node / "code").rglob("*")}
    # Ansible stamps each archive anew.
    send(node, monkeypatch, {"one.py": "VALUE = 1\n"}, "again.zip")
    assert value_of("one") == 1
    assert {path: path.stat().st_mtime_ns for path in (node / "code").rglob("*")} == before


def test_other_code_never_comes_from_an_old_copy(node, monkeypatch):
    for value in (1, 2, 1):
        send(node, monkeypatch, {"one.py": f"VALUE = {value}\n"}, f"{value}.zip")
        assert value_of("one") == value
    assert len(copies(node)) == 2


def test_only_the_youngest_copies_and_no_leftovers_stay(node, monkeypatch):
    for value in range(kept_code.KEPT + 2):
        send(node, monkeypatch, {"one.py": f"VALUE = {value}\n"}, f"{value}.zip")
        use("one")
        for number, entry in enumerate(sorted((node / "code").iterdir(), key=lambda entry: entry.stat().st_mtime)):
            os.utime(entry, (number, number))
    (node / "code" / ".killed-1").mkdir()
    os.utime(node / "code" / ".killed-1", (0, 0))
    send(node, monkeypatch, {"one.py": "VALUE = 99\n"}, "99.zip")
    assert value_of("one") == 99
    assert len(copies(node)) == kept_code.KEPT
    assert not [name for name in copies(node) if name.startswith(".")]


def test_who_is_not_root_imports_out_of_the_archive(node, monkeypatch):
    monkeypatch.setattr(kept_code, "ROOT", os.geteuid() + 1)
    send(node, monkeypatch, {"one.py": "VALUE = 1\n"})
    assert ".zip" in use("one").__file__
    assert not (node / "code").exists()


def test_a_folder_that_others_may_write_to_is_not_used(node, monkeypatch):
    (node / "code").mkdir()
    (node / "code").chmod(0o777)
    send(node, monkeypatch, {"one.py": "VALUE = 1\n"})
    assert ".zip" in use("one").__file__


def test_a_full_disk_costs_the_time_only(node, monkeypatch):
    send(node, monkeypatch, {"one.py": "VALUE = 1\n"})

    def full(**_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept_code.tempfile, "mkdtemp", full)
    assert ".zip" in use("one").__file__


def test_a_copy_that_breaks_off_leaves_nothing_behind(node, monkeypatch):
    send(node, monkeypatch, {"one.py": "VALUE = 1\n", "two.py": "this is no Python\n"})
    assert ".zip" in use("one").__file__
    assert copies(node) == []


def test_two_at_once_end_with_one_copy(node, monkeypatch):
    send(node, monkeypatch, {"one.py": "VALUE = 1\n"})

    def late(source, target):
        # The other one's copy has the name already.
        shutil.copytree(source, target)
        raise OSError(39, "Directory not empty")

    monkeypatch.setattr(kept_code.os, "rename", late)
    assert use("one").__file__.startswith(str(node / "code"))
    assert len(copies(node)) == 1


def test_without_an_archive_nothing_changes(node):
    before = list(sys.modules[kept_code.__package__].__path__)
    kept_code.use()
    assert list(sys.modules[kept_code.__package__].__path__) == before
    assert not (node / "code").exists()
