# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Venvs are made for real here, by the real pip, from wheels with a small stand-in for Ansible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pip
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.vdloo.mesh.plugins.module_utils import venvs
from ansible_collections.vdloo.mesh.plugins.modules import converger_ansible

MAIN = "import sys\ndef main():\n    print('ansible-playbook [core 2.19.99]')\n    return 0\n"
PYTHON = sys.executable


def make_wheel(path: Path, name: str, content: dict[str, str], scripts: str = "") -> None:
    info = f"{name.replace('-', '_')}-2.19.99.dist-info"
    with zipfile.ZipFile(path / f"{name.replace('-', '_')}-2.19.99-py3-none-any.whl", "w") as packed:
        for file, text in content.items():
            packed.writestr(file, text)
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.19.99\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        if scripts:
            packed.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{scripts}\n")
        packed.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """Wheels of a stand-in for Ansible, and of the real pip."""
    folder = tmp_path_factory.mktemp("wheels")
    content = {
        "ansible/__init__.py": "",
        "ansible/release.py": "__version__ = '2.19.99'\n",
        "ansible/cli/__init__.py": "",
        "ansible/cli/playbook.py": MAIN,
        "jinja2.py": "",
        "yaml.py": "",
    }
    make_wheel(folder, "ansible-core", content, "ansible-playbook = ansible.cli.playbook:main")
    make_wheel(folder, "consul-kv", {"consul_kv/__init__.py": ""})
    package = Path(pip.__file__).parent
    with zipfile.ZipFile(folder / f"pip-{pip.__version__}-py3-none-any.whl", "w") as packed:
        for file in package.rglob("*"):
            if file.suffix != ".pyc":
                packed.write(file, file.relative_to(package.parent))
    return folder


@pytest.fixture
def archive(wheels, tmp_path):
    path = tmp_path / "wheels.tar"
    with tarfile.open(path, "w") as packed:
        for wheel in wheels.glob("*.whl"):
            packed.add(wheel, wheel.name)
    return path


@pytest.fixture
def run(tmp_path, archive, capsys):
    def run(key="k1", check=False, **options):
        arguments = {
            "key": key,
            "python": PYTHON,
            "requirements": ["ansible-core>=2.19", "consul-kv"],
            "directory": str(tmp_path / "opt"),
            "archive": str(archive),
            **options,
            "_ansible_check_mode": check,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            converger_ansible.main()
        return json.loads(capsys.readouterr().out)

    return run


def versions(tmp_path) -> list[str]:
    return sorted(entry.name for entry in (tmp_path / "opt/venv").iterdir() if not entry.name.startswith("."))


def test_a_venv_is_made_without_a_network_and_used(run, tmp_path, monkeypatch):
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_USER": "1", "PIP_TARGET": "/nowhere", "PYTHONPATH": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    result = run()
    assert (result["changed"], result["problem"]) == (True, "")
    assert result["diff"]["after"] == "current -> k1\n"
    said = subprocess.check_output([result["program"], "--version"], text=True)
    assert said == "ansible-playbook [core 2.19.99]\n"
    subprocess.check_call([Path(result["program"]).with_name("python3"), "-c", "import consul_kv"])
    assert sorted(path.name for path in (tmp_path / "opt/wheels/k1").iterdir())[0].startswith("ansible_core"), "to hand them on"
    assert run()["changed"] is False


def test_the_next_one_lies_beside_it_and_one_older_stays(run, tmp_path):
    for key in ("k1", "k2", "k3"):
        result = run(key)
        assert os.readlink(tmp_path / "opt/venv/current") == key
    assert versions(tmp_path) == ["current", "k2", "k3"]
    assert sorted(entry.name for entry in (tmp_path / "opt/wheels").iterdir()) == ["k2", "k3"]
    assert result["program"] == str(tmp_path / "opt/venv/current/bin/ansible-playbook")


def test_a_dry_run_makes_nothing(run, tmp_path):
    assert run(check=True)["changed"] is True
    assert not (tmp_path / "opt").exists()


@pytest.mark.parametrize("damage", ["note", "modules", "program"])
def test_a_damaged_one_is_made_anew_beside_it_as_it_may_be_what_runs_this(run, tmp_path, damage):
    run()
    venv = tmp_path / "opt/venv/k1"
    if damage == "note":
        (venv / "complete.json").unlink()
    elif damage == "modules":
        next(venv.glob("lib/python3.*/site-packages/ansible/release.py")).unlink()
    else:
        (venv / "bin/ansible-playbook").unlink()
    assert venvs.current(str(tmp_path / "opt/venv")) == ""
    assert run()["changed"] is True
    assert os.readlink(tmp_path / "opt/venv/current") == "k1-2"
    assert venvs.current(str(tmp_path / "opt/venv")) == "k1"
    assert venv.is_dir(), "the run that makes it may be made of it"


def test_what_a_killed_run_left_does_not_count(run, tmp_path):
    half = tmp_path / "opt/venv/k1/bin"
    half.mkdir(parents=True)
    (half / "ansible-playbook").write_text("half")
    assert run()["changed"] is True
    assert os.readlink(tmp_path / "opt/venv/current") == "k1"


def test_wheels_that_cannot_be_installed_are_a_problem_and_leave_what_was_there(run, tmp_path):
    run()
    result = run("k2", requirements=["ansible-core>=3"])
    assert result["changed"] is False
    assert "failed" not in result
    assert "Ansible could not be installed on the node" in result["problem"]
    assert "ansible-core" in result["problem"]
    assert os.readlink(tmp_path / "opt/venv/current") == "k1"
    assert versions(tmp_path) == ["current", "k1"]


def test_an_archive_without_wheels_is_a_problem(run, tmp_path):
    with tarfile.open(tmp_path / "empty.tar", "w") as packed:
        packed.add(__file__, "readme.txt")
    result = run(archive=str(tmp_path / "empty.tar"))
    assert "has no wheels" in result["problem"]
    assert not (tmp_path / "opt/venv/current").is_symlink()


def test_a_python_that_is_not_there_is_a_problem(run, tmp_path):
    assert "/no/python cannot be run: No such file or directory" in run(python="/no/python")["problem"]


def test_an_ansible_of_the_node_gets_the_library_beside_it(run, tmp_path, wheels, monkeypatch):
    # A Python that has Ansible: the stand-in is put where the Python of this test looks, by a path file in the venv.
    site = tmp_path / "site"
    with zipfile.ZipFile(next(wheels.glob("ansible_core*"))) as packed:
        packed.extractall(site)
    library = tmp_path / "library.tar"
    (tmp_path / "consul_kv").mkdir()
    (tmp_path / "consul_kv/__init__.py").write_text("HERE = True\n")
    with tarfile.open(library, "w") as packed:
        packed.add(tmp_path / "consul_kv/__init__.py", "consul_kv/__init__.py")
    fill = venvs._fill

    def with_site(path, *arguments):
        fill(path, *arguments)
        next(Path(path).glob("lib/python3.*/site-packages")).joinpath("system.pth").write_text(f"{site}\n")

    monkeypatch.setattr(venvs, "_fill", with_site)
    result = run(system=True, archive=str(library))
    assert (result["changed"], result["problem"]) == (True, "")
    assert "core 2.19.99" in subprocess.check_output([result["program"], "--version"], text=True)
    python = Path(result["program"]).with_name("python3")
    assert subprocess.check_output([python, "-c", "import consul_kv; print(consul_kv.HERE)"], text=True) == "True\n"
    assert "include-system-site-packages = true" in (tmp_path / "opt/venv/current/pyvenv.cfg").read_text()


def test_two_runs_at_once_make_one_venv(tmp_path, archive):
    options = {"key": "k1", "python": PYTHON, "requirements": ["ansible-core"], "directory": str(tmp_path / "opt"), "archive": str(archive)}
    options["system"] = False
    (tmp_path / "opt").mkdir()
    threads = [threading.Thread(target=converger_ansible.provide, args=(options,)) for _number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert versions(tmp_path) == ["current", "k1"]
    assert venvs.current(str(tmp_path / "opt/venv")) == "k1"
