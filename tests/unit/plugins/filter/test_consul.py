# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.vdloo.mesh.plugins.filter import consul

peers = consul.FilterModule().filters()["consul_peers"]


def test_the_node_itself_is_left_out_and_every_other_named_once_with_its_port():
    listed = ["fc00::2", "[FC00:0::1]:8301", "fc00::1", "10.0.0.2:9000", "[fc00::2]:8301"]
    assert peers(listed, "fc00:0:0::1", 8301) == ["10.0.0.2:9000", "[fc00::2]:8301"]
    assert peers(["fc00::2"], "fc00::1", 7000) == ["[fc00::2]:7000"]
    assert peers([], "fc00::1") == []


@pytest.mark.parametrize(
    ("listed", "own"), [(["vps1.example.org"], "fc00::1"), (["fc00::2"], ""), (["fc00::2"], "vps1"), ([None], "fc00::1")]
)
def test_what_is_no_literal_address_is_refused_with_its_name(listed, own):
    with pytest.raises(AnsibleFilterError, match="literal addresses"):
        peers(listed, own)
