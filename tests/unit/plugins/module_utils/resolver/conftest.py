# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from houses import KINDS, House


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def any_house(request, house):
    request.param(house)
    return house
