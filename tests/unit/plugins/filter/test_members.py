# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import yaml
from ansible_collections.vdloo.mesh.plugins.filter.members import members_table
from hypothesis import given
from hypothesis import strategies as st

N1 = {
    "mesh_address": "fc5e::1",
    "mesh_status": "alive",
    "mesh_role": "server",
    "mesh_services": {"web": "passing", "db": "critical"},
    "mesh_converged": "2026-01-02T03:04:05Z",
    "members_cjdns": {"peers_up": 1, "peers_known": 2, "failed": False},
}


def test_each_member_has_one_line_under_the_header_and_columns_line_up():
    n2 = {"mesh_address": "fcff:1234::2", "mesh_status": "left", "mesh_role": "client", "mesh_services": {}, "mesh_converged": ""}
    assert members_table(["n2", "n1"], {"n1": N1, "n2": n2}) == [
        "node  address       status  role    peers(up/known)  services          converged",
        "n1    fc5e::1       alive   server  1/2              db(critical),web  2026-01-02T03:04:05Z",
        "n2    fcff:1234::2  left    client  -                -                 -",
    ]


def test_a_conflict_marks_the_status_and_is_told_below_the_table():
    conflict = "Consul says failed, cjdns says ESTABLISHED"
    lines = members_table(["n1"], {"n1": {**N1, "mesh_status": "failed", "mesh_conflicts": [conflict]}})
    assert " failed* " in lines[1]
    assert lines[2:] == [f"n1* {conflict}"]


def test_a_host_of_a_static_inventory_shows_what_is_known():
    assert members_table(["vps1"], {"vps1": {"ansible_host": "192.0.2.10"}})[1].split() == ["vps1", "192.0.2.10", "-", "-", "-", "-", "-"]


def test_a_node_without_a_single_link_shows_a_zero_and_no_dash():
    line = members_table(["n1"], {"n1": {**N1, "members_cjdns": {"peers_up": 0, "peers_known": 0}}})[1]
    assert " 0/0 " in line


def test_a_node_that_could_not_be_asked_is_shown_with_the_reason():
    lines = members_table(["n1"], {"n1": {**N1, "members_cjdns": {"unreachable": True, "msg": "Connection timed out\r\n"}}})
    assert lines[1].split()[4] == "-"
    assert lines[2:] == ["n1 did not tell its peers, Connection timed out"]
    assert members_table(["n1"], {"n1": {**N1, "members_cjdns": {"failed": True, "msg": "no /etc/cjdroute.conf"}}})[2:] == [
        "n1 did not tell its peers, no /etc/cjdroute.conf"
    ]


def test_a_host_in_two_groups_is_shown_once():
    assert len(members_table(["n1", "n1"], {"n1": N1})) == 2


@given(st.text(), st.text(), st.dictionaries(st.text(), st.text()), st.lists(st.text()))
def test_no_value_from_outside_breaks_a_line_or_reaches_the_terminal(status, address, services, conflicts):
    variables = {**N1, "mesh_status": status, "mesh_address": address, "mesh_services": services, "mesh_conflicts": conflicts}
    lines = members_table(["n1"], {"n1": variables})
    assert len(lines) == 2 + len(conflicts)
    assert all(line.isprintable() for line in lines)


def test_a_long_row_stays_on_one_line_when_ansible_prints_it_as_yaml():
    services = {f"service-{number}": "critical" for number in range(20)}
    lines = members_table(["n1"], {"n1": {**N1, "mesh_services": services}})
    assert yaml.safe_dump(lines).splitlines() == [f"- {line}" for line in lines]
