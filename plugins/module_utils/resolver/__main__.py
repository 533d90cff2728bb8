# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program that the systemd units of dnsmasq call.

``learn``
    note which name servers the host has by itself, for dnsmasq to ask
``follow``
    learn, then hand over (again), if the host is one that was handed over
``dnsmasq-stops``, ``spare-stops``
    put the host's own resolver back while dnsmasq is down, and mesh-names does not stand in for it; the one that says so goes away, or is gone
"""

from __future__ import annotations

import sys

from .handover import Handover
from .host import ResolverError

STEPS = ("learn", "follow", "dnsmasq-stops", "spare-stops")


def main(argv):
    if len(argv) != 2 or argv[1] not in STEPS:
        sys.stderr.write("usage: python -m resolver " + "|".join(STEPS) + "\n")
        return 2
    try:
        resolver = Handover()
        with resolver.locked():
            getattr(resolver, argv[1].replace("-", "_"))()
    except (ResolverError, OSError) as exc:
        sys.stderr.write(f"{argv[1]}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
