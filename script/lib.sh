# Shared by the scripts beside this file; sourced, never run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE="$ROOT/.cache"
VENV="$ROOT/.venv"
# Names of everything that these scripts make in Docker begin with this, and nothing else is ever touched.
NODE_IMAGE=${VDLOO_MESH_NODE_IMAGE:-vdloo-mesh-node:bookworm}
export ROOT CACHE VENV NODE_IMAGE
export ANSIBLE_CONFIG="$ROOT/ansible.cfg"

SECONDS=0
say() { printf '\033[1m==>\033[0m [%3ds] %s\n' "$SECONDS" "$*" >&2; }
die() { printf '\033[1;31merror:\033[0m %s\n' "$*" >&2; exit 1; }

# Runs a command quietly; its whole output is shown only when it fails.
quietly() {
    local log rc=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || rc=$?
    [ "$rc" -eq 0 ] || cat "$log" >&2
    rm -f "$log"
    return "$rc"
}

is_root() { [ "$(id -u)" -eq 0 ]; }

apt_updated=
apt_install() {
    command -v apt-get >/dev/null || die "this needs the packages '$*': install them with your package manager, then run this again"
    is_root || die "this needs the packages '$*': run 'sudo apt-get install $*', then run this again"
    if [ -z "$apt_updated" ]; then quietly apt-get update; apt_updated=yes; fi
    DEBIAN_FRONTEND=noninteractive quietly apt-get install -y --no-install-recommends "$@"
}
