# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import outside


def test_the_host_is_asked_in_a_new_process():
    assert outside.Outside().host_resolves(["localhost", "no.such.name.invalid"], timeout=5) == {"localhost"}


def test_mount_points_are_read():
    assert "/proc" in outside.Outside().mount_points()
