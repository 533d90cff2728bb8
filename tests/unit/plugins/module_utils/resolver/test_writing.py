# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

import os
import threading

from ansible_collections.vdloo.mesh.plugins.module_utils.resolver import host


def test_a_reader_of_a_mounted_file_always_finds_name_servers(house):
    """The write in place, seen by a program that reads all the time."""
    long = "".join(f"# line {number}\n" for number in range(200)) + "nameserver 192.0.2.1\n"
    short = "nameserver 192.0.2.2\n"
    house.write(host.RESOLV_CONF, long)
    house.mounts = {host.RESOLV_CONF}
    resolver, seen, stop = house.resolver(), [], threading.Event()

    def read():
        # As libc does, which takes a block at once. Python asks for the size first, and takes the rest later.
        with open(house.root / "etc/resolv.conf", "rb", buffering=0) as file:
            while not stop.is_set():
                seen.append(host.nameservers(os.pread(file.fileno(), 4096, 0).decode()))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(300):
        resolver.write(host.RESOLV_CONF, short if number % 2 else long)
    stop.set()
    reader.join()
    assert {server for servers in seen for server in servers} == {"192.0.2.1", "192.0.2.2"}
    assert all(seen) and len(seen) > 10
