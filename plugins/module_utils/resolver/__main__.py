# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program that the systemd units of dnsmasq call.

``learn``
    note which name servers the host has by itself, for dnsmasq to ask
``follow``
    learn, then hand over (again), if the host is one that was handed over
``release``
    put the host's own resolver back for as long as dnsmasq is down
"""

from __future__ import annotations

import sys

from .handover import Handover
from .host import ResolverError


def main(argv):
    if len(argv) != 2 or argv[1] not in ("learn", "follow", "release"):
        sys.stderr.write("usage: python -m resolver learn|follow|release\n")
        return 2
    try:
        resolver = Handover()
        with resolver.locked():
            getattr(resolver, argv[1])()
    except (ResolverError, OSError) as exc:
        sys.stderr.write(f"{argv[1]}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv))
