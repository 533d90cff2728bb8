# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import sys
import tarfile
import zipfile

import pytest
from ansible_collections.vdloo.mesh.plugins.plugin_utils import wheels
from packaging import tags

KEY = "cp311-glibc2.36-x86_64-0123abcd"


def target(key: str = KEY) -> dict[str, str]:
    return wheels.KEY.match(key).groupdict()


def wheel(folder, name: str, version: str = "1.0", tag: str = "py3-none-any", needs: str = "") -> None:
    """Make a wheel that can be installed, with nothing in it."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as packed:
        packed.writestr(f"{info}/METADATA", metadata)
        packed.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        packed.writestr(f"{info}/RECORD", "")


@pytest.fixture
def given(tmp_path):
    """A folder of the user, with wheels for several kinds of nodes."""
    folder = tmp_path / "given"
    folder.mkdir()
    wheel(folder, "pip", "30.0")
    wheel(folder, "tool", needs="inner")
    for tag in ("cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_99_x86_64", "cp313-cp313-manylinux_2_28_aarch64"):
        wheel(folder, "inner", tag=tag)
    wheel(folder, "inner", tag="cp312-cp312-musllinux_1_2_x86_64")
    return folder


def gathered(path) -> list[str]:
    with tarfile.open(path) as archive:
        return sorted(archive.getnames())


@pytest.mark.parametrize(
    ("key", "tag"),
    [
        ("cp311-glibc2.36-x86_64-00", "cp311-cp311-manylinux_2_28_x86_64"),
        ("cp313-glibc2.41-aarch64-00", "cp313-cp313-manylinux_2_28_aarch64"),
        ("cp312-musl1.2-x86_64-00", "cp312-cp312-musllinux_1_2_x86_64"),
    ],
)
def test_the_wheels_that_fit_the_node_are_chosen_with_all_that_they_need_and_pip(given, tmp_path, key, tag):
    path = wheels.archive(key, ["tool>=1"], str(given), tmp_path / "cache")
    assert gathered(path) == [f"inner-1.0-{tag}.whl", "pip-30.0-py3-none-any.whl", "tool-1.0-py3-none-any.whl"]


def test_a_folder_that_lacks_one_is_told_of_with_what_to_do(given, tmp_path):
    with pytest.raises(
        wheels.WheelsError, match=r"converger_wheels .*given lacks wheels for Python 3\.11 with glibc 2\.17 on x86_64.*fill it"
    ):
        wheels.archive("cp311-glibc2.17-x86_64-00", ["tool"], str(given), tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*.tar")) == []


@pytest.mark.parametrize("folder", ["relative/one", "/nowhere/at/all"])
def test_a_folder_without_wheels_is_named(tmp_path, folder):
    with pytest.raises(wheels.WheelsError, match=f"converger_wheels.*{folder}"):
        wheels.archive(KEY, ["tool"], folder, tmp_path / "cache")


def test_a_folder_that_was_filled_meanwhile_is_read_again(given, tmp_path):
    with pytest.raises(wheels.WheelsError):
        wheels.archive(KEY, ["more"], str(given), tmp_path / "cache")
    wheel(given, "more")
    assert "more-1.0-py3-none-any.whl" in gathered(wheels.archive(KEY, ["more"], str(given), tmp_path / "cache"))


def test_settings_of_pip_do_not_reach_into_a_folder_of_the_user(given, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    assert wheels.archive(KEY, ["tool"], str(given), tmp_path / "cache").is_file()


def test_what_is_kept_from_before_is_taken_without_asking_anyone(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "_download", None)
    (tmp_path / f"{KEY}.tar").write_bytes(b"kept")
    assert wheels.archive(KEY, ["tool"], cache=tmp_path).read_bytes() == b"kept"


def test_a_node_hands_its_own_wheels_on(tmp_path, monkeypatch):
    own = tmp_path / "own"
    (own / KEY).mkdir(parents=True)
    wheel(own / KEY, "tool")
    monkeypatch.setattr(wheels, "OWN", own)
    monkeypatch.setattr(wheels, "_download", None)
    assert gathered(wheels.archive(KEY, ["tool"], cache=tmp_path / "cache")) == ["tool-1.0-py3-none-any.whl"]


def test_an_index_that_cannot_be_reached_is_tried_again_later_and_nodes_of_one_kind_wait_once(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "OWN", tmp_path / "none")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "2")
    with pytest.raises(wheels.WheelsError, match="could not be fetched.*or give a folder of wheels as converger_wheels") as first:
        wheels.archive(KEY, ["tool"], cache=tmp_path)
    assert first.value.lasting is False
    monkeypatch.setattr(wheels, "_download", None)
    with pytest.raises(wheels.WheelsError) as second:
        wheels.archive(KEY, ["tool"], cache=tmp_path)
    assert str(second.value) == str(first.value)
    monkeypatch.setattr(wheels, "REMEMBERED_S", 0)
    with pytest.raises(TypeError):
        wheels.archive(KEY, ["tool"], cache=tmp_path)


def test_wheels_that_nobody_has_are_a_lasting_problem():
    said = "ERROR: Could not find a version that satisfies the requirement pyyaml\nERROR: No matching distribution found for pyyaml"
    error = wheels._explained(target("cp311-glibc2.31-armv7l-00"), said, None)
    assert error.lasting
    assert "no wheels for Python 3.11 with glibc 2.31 on armv7l (Could not find a version that satisfies the requirement pyyaml)" in str(
        error
    )
    assert "converger_wheels" in str(error)


@pytest.mark.parametrize("key", ["", "cp311--x86_64-00", "cp311-glibc2.36-x86_64-../x", "-00"])
def test_a_kind_that_cannot_be_told_is_refused(tmp_path, key):
    with pytest.raises(wheels.WheelsError, match="names no Python and C library"):
        wheels.archive(key, ["tool"], cache=tmp_path)


@pytest.mark.skipif(not hasattr(os, "confstr") or not (os.confstr("CS_GNU_LIBC_VERSION") or ""), reason="needs glibc")
def test_the_platforms_are_those_that_an_installer_on_such_a_node_would_take():
    version = os.confstr("CS_GNU_LIBC_VERSION").split()[1]
    asked = wheels.platforms(target(f"cp311-glibc{version}-{os.uname().machine}-00"))
    taken = [name for name in dict.fromkeys(tag.platform for tag in tags.sys_tags()) if name.startswith("manylinux")]
    assert set(asked) == set(taken)


def test_an_older_c_library_is_asked_for_no_newer_wheels():
    names = wheels.platforms(target("cp311-glibc2.28-aarch64-00"))
    assert names[0] == "manylinux_2_28_aarch64"
    assert names[-1] == "manylinux2014_aarch64"
    assert wheels.platforms(target("cp312-musl1.2-x86_64-00")) == ["musllinux_1_2_x86_64", "musllinux_1_1_x86_64", "musllinux_1_0_x86_64"]


def test_pip_is_run_from_its_wheel_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(wheels, "OWN", tmp_path / "own")
    monkeypatch.setattr(wheels, "DEBIAN", tmp_path / "debian")
    with pytest.raises(wheels.WheelsError, match="has no pip.*install pip"):
        wheels.pip()
    (tmp_path / "own" / KEY).mkdir(parents=True)
    wheel(tmp_path / "own" / KEY, "pip")
    assert wheels.pip() == [sys.executable, f"{tmp_path}/own/{KEY}/pip-1.0-py3-none-any.whl/pip"]


def test_a_library_is_packed_as_it_is(tmp_path):
    path = wheels.library({"consul_kv/__init__.py": "é", "consul_kv/api.py": ""}, tmp_path)
    assert gathered(path) == ["consul_kv/__init__.py", "consul_kv/api.py"]
    with tarfile.open(path) as archive:
        assert archive.extractfile("consul_kv/__init__.py").read().decode() == "é"
