#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: overlay_support
short_description: Make the kernel of a node carry an overlay network
version_added: "1.0.0"
description:
  - An overlay needs the TUN device and IPv6. This module looks for both, creates the device where it is missing, and allows IPv6
    on interfaces that are made from now on. Interfaces that are there already keep the setting that their owner chose.
  - What a node cannot have (a container without the device, a kernel without IPv6) is an error that says what to do about it.
options:
  tun_device:
    description: Path of the TUN device.
    type: path
    default: /dev/net/tun
attributes:
  check_mode:
    support: full
    description: Says what would be done, and changes nothing.
  diff_mode:
    support: full
    description: Shows what is missing.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Make the node able to carry an overlay
  vdloo.mesh.overlay_support:
"""

RETURN = r"""
done:
  description: What was (or, in check mode, would be) done.
  type: list
  elements: str
  returned: always
  sample: ["created /dev/net/tun"]
ip:
  description: Path of the program ip of iproute2; empty when the node has none.
  type: str
  returned: always
  sample: /usr/sbin/ip
"""

import errno
import os
import stat

from ansible.module_utils.basic import AnsibleModule

TUN_DEVICE_NUMBER = os.makedev(10, 200)
IPV6_DEFAULT = "/proc/sys/net/ipv6/conf/default/disable_ipv6"
IPV6_LOOPBACK = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"


class SupportError(Exception):
    """What the node cannot have, and what to do about it."""


def provide_tun(path: str, check_mode: bool) -> list[str]:
    """Make sure that the TUN device is there and opens. Raises SupportError when it cannot be."""
    done = []
    try:
        mode = os.stat(path)
    except FileNotFoundError:
        done.append(f"created {path}")
        if check_mode:
            return done
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.mknod(path, 0o666 | stat.S_IFCHR, TUN_DEVICE_NUMBER)
            os.chmod(path, 0o666)
        except OSError as error:
            raise SupportError(
                f"{path} is missing and may not be created here ({error.strerror}): start the container with --device /dev/net/tun, "
                "allow TUN/TAP in the provider's panel, or run this as root"
            ) from error
    else:
        if not stat.S_ISCHR(mode.st_mode) or mode.st_rdev != TUN_DEVICE_NUMBER:
            raise SupportError(f"{path} is not the TUN device (character device 10:200): move it away, then run this again")
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        if done:
            # A device that does not open is no use to anybody: leave the node as it was found.
            os.unlink(path)
        if error.errno in (errno.ENODEV, errno.ENXIO):
            raise SupportError(
                f"{path} is there but the kernel has no TUN driver: load it with 'modprobe tun', or install the kernel's full modules package"
            ) from error
        raise SupportError(
            f"{path} cannot be opened ({error.strerror}): start the container with --device /dev/net/tun --cap-add NET_ADMIN, or run this as root"
        ) from error
    return done


def provide_ipv6(check_mode: bool) -> list[str]:
    """Make sure that new interfaces have IPv6. Raises SupportError when they cannot."""
    done = []
    for path, what in ((IPV6_DEFAULT, "new interfaces"), (IPV6_LOOPBACK, "the loopback interface")):
        try:
            with open(path, encoding="ascii") as file:
                disabled = file.read().strip() != "0"
        except FileNotFoundError as error:
            raise SupportError(
                "this kernel runs without IPv6: take ipv6.disable=1 off its command line, or load the module ipv6"
            ) from error
        if not disabled:
            continue
        done.append(f"allowed IPv6 on {what}")
        if check_mode:
            continue
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write("0\n")
        except OSError as error:
            raise SupportError(
                f"IPv6 is switched off for {what} and may not be switched on from here ({error.strerror}): "
                "start the container with --sysctl net.ipv6.conf.all.disable_ipv6=0 --sysctl net.ipv6.conf.default.disable_ipv6=0"
            ) from error
    return done


def main() -> None:
    module = AnsibleModule(argument_spec={"tun_device": {"type": "path", "default": "/dev/net/tun"}}, supports_check_mode=True)
    try:
        # A kernel without IPv6 is found before anything is changed.
        provide_ipv6(check_mode=True)
        done = provide_tun(module.params["tun_device"], module.check_mode) + provide_ipv6(module.check_mode)
    except SupportError as error:
        module.fail_json(msg=str(error))
    ip = module.get_bin_path("ip", opt_dirs=["/sbin", "/usr/sbin"]) or ""
    module.exit_json(changed=bool(done), done=done, ip=ip, diff={"before": "", "after": "".join(f"{line}\n" for line in done)})


if __name__ == "__main__":
    main()
