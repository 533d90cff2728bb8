#!/usr/bin/python
# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: h2o_preflight
short_description: Look at a node before h2o is installed or changed on it
version_added: "1.0.0"
description:
  - Refuses a node that cannot run the ingress, naming the reason and what to do. Otherwise it reports what is there.
  - It refuses a node without systemd, a port that another process holds, a certificate that does not exist or does
    not fit its key, and a running h2o that somebody else configured.
  - It changes nothing.
options:
  ports:
    description: The ports that h2o is to listen on, by the name of the variable that sets them.
    type: dict
    required: true
  config:
    description: The configuration file that the role writes. A running h2o that reads it is ours.
    type: path
    required: true
  binary:
    description: The program h2o.
    type: path
    required: true
  root:
    description: Where h2o finds its support files, as in the environment variable E(H2O_ROOT). Empty for the place that it was built with.
    type: str
    default: ""
  unit:
    description: Name of the systemd unit.
    type: str
    default: h2o.service
  packages:
    description: The packages that bring O(binary) and what it needs, to be looked for on Debian. Empty when it is not from a package.
    type: list
    elements: str
    default: []
  certificate_file:
    description: Certificate chain for TLS, in PEM. Empty for no TLS.
    type: str
    default: ""
  key_file:
    description: Private key of the certificate, in PEM and not encrypted.
    type: str
    default: ""
  access_log:
    description: File for the access log. Empty when the log is no file.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
    description: The module only looks.
  diff_mode:
    support: none
    description: There is nothing to compare.
author:
  - vdloo.mesh contributors (@vdloo)
"""

EXAMPLES = r"""
- name: Look at the node
  vdloo.mesh.h2o_preflight:
    ports:
      h2o_http_port: 80
    config: /etc/h2o/mesh.conf
    binary: /usr/bin/h2o
    packages: [h2o, perl]
"""

RETURN = r"""
version:
  description: Version of the installed h2o. Empty when there is none.
  type: str
  returned: always
  sample: 2.2.5
mruby:
  description: Whether the installed h2o runs mruby handlers.
  type: bool
  returned: always
release:
  description: Name of the folder that O(root) links to. Empty when it is no link.
  type: str
  returned: always
package_installed:
  description: Whether all of O(packages) are fully installed; elsewhere than on Debian, whether O(binary) runs.
  type: bool
  returned: always
unit_present:
  description: Whether systemd knows the unit.
  type: bool
  returned: always
package_manager:
  description: The node's package manager, C(apt), C(dnf) or C(pacman). Empty when it has none of these.
  type: str
  returned: always
distribution:
  description: C(ID) and C(VERSION_ID) of the node's C(/etc/os-release).
  type: dict
  returned: always
  sample: {id: debian, version: "12"}
"""

import os
import re
import ssl

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.vdloo.mesh.plugins.module_utils import ports, systemd

PACKAGE_MANAGERS = {"apt-get": "apt", "dnf": "dnf", "pacman": "pacman"}


def parse_os_release(text: str) -> dict[str, str]:
    """Read the fields of /etc/os-release."""
    fields = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not name.startswith("#"):
            fields[name.strip()] = value.strip().strip("\"'")
    return fields


def parse_version(text: str) -> tuple[str, bool]:
    """Read the version, and whether there is mruby, from the output of `h2o --version`."""
    version = re.search(r"^h2o version (\S+)", text, re.MULTILINE)
    return (version.group(1) if version else ""), bool(re.search(r"^mruby: YES", text, re.MULTILINE))


def read_text(path: str) -> str:
    """Read a small file of the kernel's; empty when it is gone or hidden."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def belongs_to(pid: int, ancestor: int) -> bool:
    """Tell whether a process is the ancestor or descends from it."""
    while pid > 1:
        if pid == ancestor:
            return True
        # The name of a process may hold blanks and parentheses; the fields after the last one cannot.
        fields = read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 else 0
    return False


def port_problem(variable: str, port: int, main_pid: int) -> str | None:
    """Say who holds a port, unless it is the h2o that we manage."""
    inodes = {listener.inode for listener in ports.listeners(["tcp"]) if listener.port == port}
    if not inodes:
        return None
    holders = ports.holders(inodes)
    others = [holder for holder in holders if not (main_pid and belongs_to(holder.pid, main_pid))]
    if holders and not others:
        return None
    who = f"{others[0].name} (pid {others[0].pid})" if others else "a process that this node does not show"
    return f"port {port} is taken by {who}: stop it, or set {variable} to a free port"


def tls_problem(certificate_file: str, key_file: str) -> str | None:
    """Say why h2o could not serve with this certificate and key."""
    for name, path in (("certificate_file", certificate_file), ("key_file", key_file)):
        if not os.path.isfile(path):
            return f"h2o_tls.{name} {path} does not exist: put the file on the node, or clear h2o_tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # The empty password turns a key that is encrypted into an error instead of a prompt.
        context.load_cert_chain(certificate_file, key_file, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return (
                f"h2o_tls.key_file {key_file} is not the key of h2o_tls.certificate_file {certificate_file}: give the two files of one pair"
            )
        return f"h2o_tls: {certificate_file} and {key_file} cannot be loaded ({error}): give a certificate and its unencrypted key, both in PEM"
    except OSError as error:
        return f"h2o_tls: {certificate_file} and {key_file} cannot be read ({error.strerror}): give files that root can read"
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "ports": {"type": "dict", "required": True},
            "config": {"type": "path", "required": True},
            "binary": {"type": "path", "required": True},
            "root": {"type": "str", "default": ""},
            "unit": {"type": "str", "default": "h2o.service"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "access_log": {"type": "str", "default": ""},
            "certificate_file": {"type": "str", "default": ""},
            "key_file": {"type": "str", "default": "", "no_log": False},
        },
        required_by={"certificate_file": ["key_file"]},
        supports_check_mode=True,
    )
    params = module.params
    if module.get_bin_path("systemctl") is None or not os.path.isdir("/run/systemd/system"):
        module.fail_json(msg="this node does not run systemd, which the h2o role needs: leave it out of the hosts that get an ingress")

    try:
        unit = systemd.show([params["unit"]], ("ActiveState", "MainPID", "FragmentPath", "LoadState"), module.run_command)[params["unit"]]
    except systemd.SystemdError as error:
        module.fail_json(msg=str(error))
    running = unit.get("ActiveState") in ("active", "activating", "reloading")
    ours = params["config"] in read_text(unit.get("FragmentPath") or "")
    main_pid = int(unit.get("MainPID") or 0) if running else 0

    problems = []
    if running and not ours:
        problems.append(
            f"{params['unit']} already runs here with a configuration of its own ({unit.get('FragmentPath')}): "
            f"stop it first with `systemctl disable --now {params['unit']}`; its files are left alone"
        )
    for variable, port in sorted(params["ports"].items()):
        problem = port_problem(variable, int(port), main_pid)
        if problem:
            problems.append(problem)
    if params["certificate_file"]:
        problem = tls_problem(params["certificate_file"], params["key_file"])
        if problem:
            problems.append(problem)
    folder = os.path.dirname(params["access_log"])
    if folder and not os.path.isdir(folder):
        problems.append(
            f"h2o_access_log {params['access_log']}: the folder {folder} does not exist on the node: create it, or set h2o_access_log to journal"
        )
    if problems:
        module.fail_json(msg="; ".join(problems), problems=problems)

    version, mruby = "", False
    if os.access(params["binary"], os.X_OK):
        environment = {"H2O_ROOT": params["root"]} if params["root"] else {}
        rc, out, err = module.run_command([params["binary"], "--version"], environ_update=environment)
        if rc == 0:
            version, mruby = parse_version(out)
    installed = bool(version)
    dpkg_query = module.get_bin_path("dpkg-query")
    if params["packages"] and dpkg_query:
        # Exits with 1 when it does not know one of them, and still tells of the others.
        rc, out, err = module.run_command([dpkg_query, "--show", "--showformat", "${db:Status-Status}\\n", *params["packages"]])
        installed = out.split() == ["installed"] * len(params["packages"])
    fields = parse_os_release(read_text("/etc/os-release"))
    module.exit_json(
        changed=False,
        version=version,
        mruby=mruby,
        release=os.path.basename(os.readlink(params["root"])) if params["root"] and os.path.islink(params["root"]) else "",
        package_installed=installed,
        unit_present=unit.get("LoadState") == "loaded",
        package_manager=next((name for command, name in PACKAGE_MANAGERS.items() if module.get_bin_path(command)), ""),
        distribution={"id": fields.get("ID", "linux"), "version": fields.get("VERSION_ID", "")},
    )


if __name__ == "__main__":
    main()
