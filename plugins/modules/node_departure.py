#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: node_departure
short_description: Stop what the mesh runs on a node that has left it
version_added: "1.0.0"
description:
  - Stops the services that the roles manage here, and lets none of them start at boot. The overlay goes last, some seconds after the module has
    answered, as whoever calls it may have come over it.
  - Takes the lines of the mesh out of all C(authorized_keys), so that no node logs in here any more.
  - All data stays, so that the node can come back. With O(wipe) it is put into an archive, and then removed.
  - Without a manifest of a role on the node there is nothing to stop, so that a second call changes nothing.
options:
  wipe:
    description:
      - Remove the files that the roles manage, the configuration and the identity of cjdns, Consul's data, C(/etc/vdloo-mesh) and C(/var/lib/vdloo-mesh),
        after all of it is in O(archive) and was read back from there.
      - Packages, programs and C(/opt/vdloo-mesh) stay, as well as every file that no role has made.
    type: bool
    default: false
  archive:
    description: Where the archive goes. It holds the node's keys and the secrets of the mesh, and is readable by root alone.
    type: path
  overlay:
    description: The unit of the overlay.
    type: str
    default: cjdns.service
  delay:
    description: Seconds after which the overlay is stopped.
    type: int
    default: 5
  state_dir:
    description: Where the nodes keep what they know of the mesh, the records of the manifests among it.
    type: path
    default: /var/lib/vdloo-mesh
attributes:
  check_mode:
    support: full
    description: Says what would be stopped and removed.
  diff_mode:
    support: none
    description: RV(stopped) and RV(removed) tell what changes.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Stop all that is left of the mesh
  vdloo.mesh.node_departure:

- name: The same, and remove its data
  vdloo.mesh.node_departure:
    wipe: true
    archive: /var/backups/vdloo-mesh-vps1.tar.gz
"""

RETURN = r"""
stopped:
  description: The services that were stopped, or start no more at boot.
  type: list
  elements: str
  returned: success
  sample: [h2o.service]
removed:
  description: The paths that were removed with all that is below them.
  type: list
  elements: str
  returned: success
  sample: [/etc/vdloo-mesh]
archive:
  description: Where all that was removed is now; empty when nothing was.
  type: str
  returned: success
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import archive, authorized_keys, files, manifest, systemd

ETC = "/etc/vdloo-mesh"
# What the role cjdns keeps beside its manifest, as only the node knows it.
OVERLAY_FILES = ("/etc/cjdroute.conf", "/etc/cjdns")


class DepartureError(Exception):
    """What could not be stopped, and why."""


def records(state_dir: str) -> list[dict]:
    """What the roles have recorded of what they manage here."""
    folder = os.path.join(state_dir, "manifests")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [manifest.load(name[: -len(".json")], folder) for name in names if name.endswith(".json")]
    return [record for record in found if record is not None]


def systemctl(module: AnsibleModule, *arguments: str) -> None:
    rc, out, err = module.run_command(["systemctl", *arguments])
    if rc != 0:
        raise DepartureError(f"systemctl {' '.join(arguments)} failed: {err.strip() or out.strip()}")


def stop_services(module: AnsibleModule, found: list[dict]) -> list[str]:
    """Stop all services but the overlay, which is only kept from starting at boot; return those that ran or would have started."""
    overlay = module.params["overlay"]
    names = sorted({name for record in found for name in record["services"]} | {overlay})
    judged = systemd.services({name: {"restart": [], "reload": []} for name in names})
    wanted = [name for name in names if judged[name]["running"] or judged[name]["enabled"]]
    for name in wanted if not module.check_mode else ():
        if name != overlay:
            systemctl(module, "disable", "--now", name)
        elif judged[name]["enabled"]:
            systemctl(module, "disable", name)
    return wanted


def stop_overlay(module: AnsibleModule) -> None:
    """Stop it soon, by systemd: this call may have come over it, and has to be answered."""
    overlay, delay = module.params["overlay"], module.params["delay"]
    rc, _out, err = module.run_command(
        ["systemd-run", f"--on-active={delay}", "--timer-property=AccuracySec=100ms", "systemctl", "stop", overlay]
    )
    if rc != 0:
        raise DepartureError(f"systemd-run failed, so {overlay} still runs: {err.strip()}")


def let_nobody_in(module: AnsibleModule) -> list[str]:
    """Take the lines of the mesh out of all users' files; return the paths of those that had some."""
    found, problems = authorized_keys.put_out(set(), module.check_mode)
    for problem in problems:
        module.warn(problem)
    return [path for path, (before, after) in sorted(found.items()) if before != after]


def doomed(found: list[dict], state_dir: str) -> tuple[list[str], list[str]]:
    """The paths that a wipe removes, and the folders that it removes when they are empty then."""
    wanted = [path for record in found for path in record["files"]]
    # Root owns what is configuration; what belongs to the daemon is its data.
    data = [path for record in found for path, entry in record["directories"].items() if entry.get("owner") != "root"]
    folders = [path for record in found for path in record["directories"] if path not in data]
    return sorted({path for path in (*wanted, *data, *OVERLAY_FILES, ETC, state_dir) if os.path.lexists(path)}), folders


def wipe(module: AnsibleModule, found: list[dict]) -> list[str]:
    """Remove it all, once it is in the archive; return the paths."""
    paths, folders = doomed(found, module.params["state_dir"])
    if paths and not module.check_mode:
        everything = archive.members(paths)
        archive.save(module.params["archive"], everything)
        archive.remove(everything, folders)
        systemctl(module, "daemon-reload")
    return paths


def depart(module: AnsibleModule) -> dict:
    found = records(module.params["state_dir"])
    stopped = stop_services(module, found)
    closed = let_nobody_in(module)
    removed = wipe(module, found) if module.params["wipe"] else []
    if module.params["overlay"] in stopped and not module.check_mode:
        stop_overlay(module)
    return {
        "changed": bool(stopped or closed or removed),
        "stopped": stopped,
        "removed": removed,
        "archive": module.params["archive"] if removed else "",
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "wipe": {"type": "bool", "default": False},
            "archive": {"type": "path"},
            "overlay": {"type": "str", "default": "cjdns.service"},
            "delay": {"type": "int", "default": 5},
            "state_dir": {"type": "path", "default": "/var/lib/vdloo-mesh"},
        },
        required_if=[("wipe", True, ["archive"])],
        supports_check_mode=True,
    )
    try:
        if os.path.isdir(module.params["state_dir"]) and not module.check_mode:
            # Not while a role writes its files.
            with files.locked(os.path.join(module.params["state_dir"], "manifest.lock"), 60):
                result = depart(module)
        else:
            result = depart(module)
    except (DepartureError, archive.ArchiveError, systemd.SystemdError, OSError) as error:
        module.fail_json(msg=f"The node is not done with leaving: {error}. Nothing more was removed or stopped; run again")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
