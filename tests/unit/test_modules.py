# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What runs on a node may ask for no more than Python 3.8 and its standard library."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ON_NODES = sorted([*(ROOT / "plugins" / "modules").glob("*.py"), *(ROOT / "plugins" / "module_utils").rglob("*.py")])
ALLOWED = ("ansible.module_utils.", "ansible_collections.vdloo.mesh.plugins.module_utils")
# Came with Python 3.9 or later.
NEWER = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "randbytes", "bit_count", "hardlink_to"}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", ON_NODES, ids=named)
def test_it_keeps_to_the_grammar_of_python_3_8(path):
    ast.parse(path.read_text(), filename=str(path), feature_version=(3, 8))


@pytest.mark.parametrize("path", ON_NODES, ids=named)
def test_it_imports_the_standard_library_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in names:
            assert name.split(".")[0] in sys.stdlib_module_names or name.startswith(ALLOWED), name


@pytest.mark.parametrize("path", ON_NODES, ids=named)
def test_it_uses_nothing_newer_at_run_time(path):
    tree = ast.parse(path.read_text())
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body) or not tree.body, "annotations"
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & NEWER


@pytest.mark.parametrize("path", sorted((ROOT / "plugins" / "modules").glob("*.py")), ids=named)
def test_a_module_is_documented_and_honest_in_check_mode(path):
    text = path.read_text()
    for part in ('DOCUMENTATION = r"""', 'EXAMPLES = r"""', 'RETURN = r"""', "supports_check_mode=True"):
        assert part in text, part
