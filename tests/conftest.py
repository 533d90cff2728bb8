# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Make `ansible_collections.vdloo.mesh` and the helpers beside this file importable in a plain checkout."""

from __future__ import annotations

import sys
from pathlib import Path

from ansible.utils.collection_loader._collection_finder import _AnsibleCollectionFinder
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT / "tests"))
_AnsibleCollectionFinder(paths=[str(ROOT / "collections")])._install()

# How long an example takes is a matter of what else the machine does.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")
