# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What all roles have in common."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())


def load(role: str, path: str):
    return yaml.safe_load((ROOT / "roles" / role / path).read_text()) or {}


def options(role: str) -> dict:
    return load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_say_the_same(role):
    defaults = load(role, "defaults/main.yml")
    specified = options(role)
    assert set(defaults) <= set(specified)
    for name, option in specified.items():
        if "default" in option:
            assert option["default"] == defaults[name], name
        elif name in defaults:
            # A default that Ansible computes cannot be given in the specification.
            assert "{{" in str(defaults[name]), name
        else:
            assert option.get("required"), f"{name} has no default and is not required"


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_has_the_prefix_of_its_role(role):
    for name in load(role, "defaults/main.yml"):
        assert name.startswith(f"{role}_"), name
    for path in (ROOT / "roles" / role / "vars").rglob("*.yml"):
        for name in yaml.safe_load(path.read_text()) or {}:
            assert name.startswith(f"__{role}_"), f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.parametrize("role", ROLES)
def test_the_readme_of_a_role_tells_of_every_variable(role):
    readme = (ROOT / "roles" / role / "README.md").read_text()
    for name in options(role):
        assert name in readme, name


@pytest.mark.parametrize("role", ROLES)
def test_a_role_does_not_read_the_variables_of_another(role):
    for path in (ROOT / "roles" / role).rglob("*"):
        if path.suffix not in (".yml", ".j2"):
            continue
        text = path.read_text()
        for other in ROLES:
            if other != role:
                for name in load(other, "defaults/main.yml"):
                    assert name not in text, f"{path.relative_to(ROOT)}: {name}"
