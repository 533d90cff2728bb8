# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
#
# The DNS program between dnsmasq and the local Consul agent. The role dnsmasq installs this package on the host, as the program of the unit
# mesh-names.service. No Ansible is there, and its collections may be of another version: so the files of this package import nothing but
# the standard library, and each other by relative names.
