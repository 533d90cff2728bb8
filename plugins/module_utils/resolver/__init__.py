# Copyright: (c) 2026, vdloo.mesh contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
#
# A local DNS forwarder in front of a host's own resolver. The role dnsmasq also installs this package on the host, as the program that
# the systemd units call. No Ansible is there, and its collections may be of another version: so the files of this package import
# nothing but the standard library, and each other by relative names.
