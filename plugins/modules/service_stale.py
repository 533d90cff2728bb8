#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: service_stale
short_description: Tell whether a running service has read its present files
version_added: "1.0.0"
description:
  - Compares the time at which a systemd service was started (or last reloaded) with the change time of the files that it reads.
  - A handler is lost when a run is killed between the change of a file and the end of the play. A task with this module
    that notifies the same handler makes up for that, as it judges by what is on the node and not by what this run did.
  - It changes nothing itself. It reports C(changed) when the service is stale, so that it can notify a handler.
options:
  name:
    description: Unit name of the service, with or without C(.service).
    type: str
    required: true
  files:
    description: Files that the service reads when it starts. A missing file is ignored.
    type: list
    elements: path
    required: true
  reloads:
    description: Whether a reload is enough for the service to read the files again.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: The module only looks.
  diff_mode:
    support: full
    description: Shows the files that are newer than the service.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: See whether cjdns runs with its present files
  vdloo.mesh.service_stale:
    name: cjdns
    files:
      - /etc/cjdroute.conf
      - /usr/local/bin/cjdroute
      - /etc/systemd/system/cjdns.service
  notify: Restart cjdns
"""

RETURN = r"""
stale:
  description: The files that changed after the service last read them. Empty when the service does not run.
  type: list
  elements: str
  returned: always
  sample: [/etc/cjdroute.conf]
running:
  description: Whether the service runs.
  type: bool
  returned: always
since:
  description: When the service was started or, with O(reloads=true), last reloaded; in seconds since the epoch. C(null) when it does not run.
  type: float
  returned: always
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

# The two clocks are read one after the other, on a machine that may be busy.
CLOCK_SLACK_S = 0.02


def parse_show(text: str) -> dict[str, str]:
    """Turn the output of `systemctl show` into a dictionary of its properties."""
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def read_since(properties: dict[str, str], reloads: bool, now: float, monotonic_now: float) -> float | None:
    """Tell when the service last read its files, in seconds since the epoch; None when it does not run.

    systemd's monotonic stamps are used: the wall clock of a machine without a battery jumps after boot.
    """
    if properties.get("ActiveState") not in ("active", "reloading"):
        return None
    stamps = [int(properties.get("ExecMainStartTimestampMonotonic") or 0), int(properties.get("ActiveEnterTimestampMonotonic") or 0)]
    # The earlier of the two: files are read between the start of the process and the moment it counts as active.
    started = min((stamp for stamp in stamps if stamp), default=0)
    if reloads:
        started = max(started, int(properties.get("StateChangeTimestampMonotonic") or 0))
    if not started:
        return None
    return now - (monotonic_now - started / 1e6)


def stale_files(files: list[str], since: float) -> list[str]:
    """List the files whose content, owner or mode changed after `since` (seconds since the epoch)."""
    stale = []
    for path in files:
        try:
            changed = os.stat(path).st_ctime
        except FileNotFoundError:
            continue
        if changed > since + CLOCK_SLACK_S:
            stale.append(path)
    return stale


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "path", "required": True},
            "reloads": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    systemctl = module.get_bin_path("systemctl")
    if systemctl is None:
        module.fail_json(msg="systemctl was not found: this module needs a node that runs systemd")
    properties = "ActiveState,ActiveEnterTimestampMonotonic,ExecMainStartTimestampMonotonic,StateChangeTimestampMonotonic"
    rc, out, err = module.run_command([systemctl, "show", "--property", properties, module.params["name"]])
    if rc != 0:
        module.fail_json(msg=f"systemctl show {module.params['name']} failed: {err.strip() or out.strip()}")

    since = read_since(parse_show(out), module.params["reloads"], time.time(), time.clock_gettime(time.CLOCK_MONOTONIC))
    stale = [] if since is None else stale_files(module.params["files"], since)
    module.exit_json(
        changed=bool(stale),
        stale=stale,
        running=since is not None,
        since=since,
        diff={
            "before_header": f"{module.params['name']} (files read by the running process)",
            "after_header": f"{module.params['name']} (files on disk)",
            "before": "",
            "after": "".join(f"{path} changed since\n" for path in stale),
        },
    )


if __name__ == "__main__":
    main()
