# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations


class ModuleDocFragment:
    """The options of the modules that ask the admin interface of cjdns."""

    DOCUMENTATION = r"""
options:
  admin_host:
    description:
      - Address of the admin interface of cjdns, as seen from the node.
      - By default it is read from O(config_path), and V(127.0.0.1) when there is no such file.
    type: str
  admin_port:
    description:
      - UDP port of the admin interface.
      - By default it is read from O(config_path), and V(11234) when there is no such file.
    type: int
  admin_password:
    description:
      - Password of the admin interface.
      - By default it is read from O(config_path), so that it never leaves the node.
    type: str
  config_path:
    description: Configuration file of cjdns on the node.
    type: path
    default: /etc/cjdroute.conf
  timeout:
    description: How many seconds to wait for a reply, for each of three attempts.
    type: float
    default: 2.0
  unit:
    description: Name of the unit that runs cjdns; it is named in error messages.
    type: str
    default: cjdns.service
"""
