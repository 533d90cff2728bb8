# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The settings of the program."""

from __future__ import annotations

import json

import pytest
from ansible_collections.vdloo.mesh.plugins.module_utils.converger import config
from hypothesis import given
from hypothesis import strategies as st

GOOD = {
    "node": "n1",
    "period_s": 900,
    "lock_ttl_s": 30,
    "island_after_s": 2700,
    "consul_addr": "127.0.0.1:8500",
    "ansible_playbook": "ansible-playbook",
    "ansible_cfg": "/etc/vdloo-mesh/ansible.cfg",
    "inventory": "/etc/vdloo-mesh/inventory/mesh.yml",
    "playbook": "vdloo.mesh.site",
    "timeout_s": 1800,
}


@pytest.fixture
def written(tmp_path):
    """A function that writes the settings; it returns their path."""

    def write(**changes):
        path = tmp_path / "converger.json"
        path.write_text(json.dumps({**GOOD, **changes}))
        return str(path)

    return write


def test_what_the_role_writes_is_read(written):
    settings, unknown = config.load(written())
    assert {name: getattr(settings, name) for name in GOOD} == GOOD
    assert unknown == []
    assert settings.state("last-run.json") == "/var/lib/vdloo-mesh/last-run.json"
    assert settings.run("lock") == "/run/vdloo-mesh-converge.lock"


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("node", "N 1", "write the name of this node"),
        ("node", 1, "write the name of this node"),
        ("period_s", "900", "write a number of seconds from 1"),
        ("period_s", True, "write a number of seconds"),
        ("period_s", float("nan"), "write a number of seconds"),
        ("lock_ttl_s", 9, "write a whole number of seconds from 10 to 86400"),
        ("lock_ttl_s", 10.5, "write a whole number of seconds"),
        ("island_after_s", -1, "write a number of seconds from 0"),
        ("consul_addr", "::1", "write the address of Consul's agent"),
        ("consul_addr", None, "write the address of Consul's agent"),
        ("ansible_playbook", "", "write a name or a path"),
        ("ansible_cfg", "ansible.cfg", "write a path that begins with /"),
        ("inventory", ["/x"], "write a path that begins with /"),
        ("playbook", "--version", "write a name or a path"),
        ("timeout_s", 0, "write a number of seconds from 1"),
        ("state_dir", "", "write a path that begins with /"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(written, name, value, advice):
    with pytest.raises(config.ConfigError) as refused:
        config.load(written(**{name: value}))
    assert f": {name} is " in str(refused.value)
    assert advice in str(refused.value)


@pytest.mark.parametrize("name", GOOD)
def test_a_value_that_is_missing_is_named(tmp_path, name):
    path = tmp_path / "converger.json"
    path.write_text(json.dumps({key: value for key, value in GOOD.items() if key != name}))
    with pytest.raises(config.ConfigError, match=f"lacks {name}: run vdloo.mesh.site"):
        config.load(str(path))


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100000, " " * 70000 + "{}"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text):
    path = tmp_path / "converger.json"
    path.write_text(text)
    with pytest.raises(config.ConfigError, match=str(path)):
        config.load(str(path))


def test_a_file_that_is_missing_is_named():
    with pytest.raises(config.ConfigError, match="^/nowhere/converger.json: No such file or directory: run vdloo.mesh.site"):
        config.load("/nowhere/converger.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(name=st.sampled_from(sorted(GOOD)), value=json_values)
def test_any_other_value_is_taken_or_refused_by_name(tmp_path_factory, name, value):
    path = tmp_path_factory.getbasetemp() / "any-converger.json"
    path.write_text(json.dumps({**GOOD, name: value}))
    try:
        assert getattr(config.load(str(path))[0], name) == value
    except config.ConfigError as error:
        assert f": {name} is " in str(error)


def test_programs_are_found_where_cron_does_not_look(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert config.search_path().startswith(f"{tmp_path}:")
    assert {"/usr/sbin", "/usr/local/sbin"} <= set(config.search_path().split(":"))


@pytest.mark.parametrize("missing", ["ansible_playbook", "ansible_cfg", "inventory"])
def test_what_a_run_needs_must_be_there(written, tmp_path, missing):
    program = tmp_path / "ansible-playbook"
    program.write_text("")
    program.chmod(0o755)
    there = {"ansible_playbook": str(program), "ansible_cfg": str(program), "inventory": str(program)}
    assert config.require_programs(config.load(written(**there))[0]) == str(program)
    with pytest.raises(config.ConfigError, match="/nowhere/it"):
        config.require_programs(config.load(written(**{**there, missing: "/nowhere/it"}))[0])
