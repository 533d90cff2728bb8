# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The package as the role dnsmasq installs it: complete, by itself, and called as its units call it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible_collections.vdloo.mesh.plugins.module_utils import manifest_reader
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import __main__ as program
from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import handover, host
from ansible_collections.vdloo.mesh.plugins.plugin_utils import rendering

PACKAGE = Path(host.__file__).parent
GIVEN = {"__dnsmasq_facts": {"python": sys.executable}, "ansible_facts": {"os_family": "Debian"}}
UNIT = "/etc/systemd/system/dnsmasq-mesh.service"
FOLLOW_UNIT = "/etc/systemd/system/dnsmasq-mesh-follow.service"


@pytest.fixture
def role(monkeypatch):
    """The role dnsmasq with its defaults, as a plan sees it."""
    monkeypatch.setattr(rendering, "load_extra_vars", lambda _loader: {})
    return rendering.Host(rendering.Roles(DataLoader()), {})


@pytest.fixture
def files(role):
    return manifest_reader.read(role.role_value("dnsmasq", "__dnsmasq_manifest", GIVEN))["files"]


@pytest.fixture
def installed(role, files, tmp_path):
    """What the role puts in the folder of the program."""
    folder = Path(role.role_value("dnsmasq", "__dnsmasq_resolver_dir", GIVEN))
    for path, entry in files.items():
        if folder in Path(path).parents:
            place = tmp_path / Path(path).relative_to(folder)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(entry["content"])
    return tmp_path


def settings(text: bytes, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.decode().splitlines() if line.startswith(name + "=")]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.py")}


def run(folder, *command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_file_of_the_package_is_installed_to_the_byte(installed):
    assert contents(installed / "resolver") == contents(PACKAGE)


def test_its_folders_are_made_before_its_files(role, files):
    directories = manifest_reader.read(role.role_value("dnsmasq", "__dnsmasq_manifest", GIVEN))["directories"]
    for path, entry in files.items():
        if path.endswith(".py"):
            assert (entry["owner"], entry["group"], entry["mode"]) == ("root", "root", "0644")
            assert directories[str(Path(path).parent)] == {"owner": "root", "group": "root", "mode": "0755"}
            assert str(Path(path).parent.parent) in directories


def test_a_plan_can_tell_when_the_manifest_stays_the_same(role):
    assert role.inputs("dnsmasq", ["__dnsmasq_manifest"], GIVEN)


def test_it_is_taken_away_with_its_folder(role):
    assert role.role_value("dnsmasq", "__dnsmasq_resolver_dir", GIVEN) in role.role_value("dnsmasq", "__dnsmasq_manifest_paths", GIVEN)


def test_the_installed_files_run_by_themselves_and_leave_nothing_behind(role, installed):
    command = role.role_value("dnsmasq", "__dnsmasq_resolver_command", GIVEN).split()
    before = sorted(installed.rglob("*"))
    assert run(installed, *command) == (2, "usage: python -m resolver learn|follow|dnsmasq-stops|spare-stops\n")
    assert run(installed, *command, "remove") == (2, "usage: python -m resolver learn|follow|dnsmasq-stops|spare-stops\n")
    assert sorted(installed.rglob("*")) == before


def test_neither_ansible_nor_a_collection_is_there_for_the_installed_files(role, installed):
    python = role.role_value("dnsmasq", "__dnsmasq_resolver_command", GIVEN).split()[:2]
    for name in ("ansible", "ansible_collections"):
        assert run(installed, *python, "-c", f"import {name}")[0] == 1
    assert run(installed, *python, "-c", "import resolver.__main__") == (0, "")


def test_to_look_at_a_host_no_other_file_is_read(installed):
    loaded = "import sys, resolver.host; sys.exit(' '.join(sorted(name for name in sys.modules if name.startswith('resolver'))))"
    assert run(installed, sys.executable, "-BES", "-c", loaded) == (1, "resolver resolver.host\n")


def test_without_the_files_python_fails_and_finds_no_other_program(role, tmp_path):
    code, output = run(tmp_path, *role.role_value("dnsmasq", "__dnsmasq_resolver_command", GIVEN).split(), "learn")
    assert (code, "No module named resolver" in output) == (1, True)


def test_the_units_call_it_where_its_files_are(role, files):
    folder, command = (role.role_value("dnsmasq", f"__dnsmasq_resolver_{name}", GIVEN) for name in ("dir", "command"))
    # A dash lets what follows fail: dnsmasq starts without the folder, too.
    assert settings(files[UNIT]["content"], "WorkingDirectory") == [f"-{folder}"]
    for name, step in (
        ("ExecStartPre", "learn"),
        ("ExecStartPost", "follow"),
        ("ExecStop", "dnsmasq-stops"),
        ("ExecStopPost", "dnsmasq-stops"),
    ):
        assert settings(files[UNIT]["content"], name) == [f"-+{command} {step}"]
        assert step in program.STEPS
    assert all(callable(getattr(handover.Handover, step.replace("-", "_"))) for step in program.STEPS)
    for name in ("ExecStop", "ExecStopPost"):
        (stop,) = settings(files["/etc/systemd/system/mesh-names.service"]["content"], name)
        assert f"cd {folder} && exec {command} spare-stops; }}" in stop
    assert settings(files[FOLLOW_UNIT]["content"], "WorkingDirectory") == [folder]
    assert settings(files[FOLLOW_UNIT]["content"], "ExecStart") == [f"{command} follow"]


@pytest.fixture
def small_house(tmp_path, monkeypatch):
    """A host in a directory for the program, which makes its own resolver."""
    (tmp_path / "run").mkdir()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    monkeypatch.setattr(program, "Handover", lambda: handover.Handover(None, str(tmp_path)))
    monkeypatch.setattr(host.Machine, "run", lambda _self, *_argv: (3, ""))
    return tmp_path


def test_the_program_takes_a_step(small_house):
    assert program.main(["resolver", "learn"]) == 0
    assert (small_house / "etc" / "dnsmasq-mesh" / "upstream.conf").read_text() == "nameserver 192.0.2.53\n"


def test_the_program_says_why_it_could_not(small_house, capsys):
    folder = small_house / host.STATE_DIR.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "handover.json").write_text("{")
    assert program.main(["resolver", "dnsmasq-stops"]) == 1
    assert capsys.readouterr().err.startswith(f"dnsmasq-stops: {host.SETTINGS} is damaged")
