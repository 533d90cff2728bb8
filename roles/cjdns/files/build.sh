#!/bin/sh
# Builds cjdroute from its release archive. Runs as the user cjdns-build, in a directory of its own, and leaves the
# result in out/$BUILD_KEY/cjdroute. What it is to do comes by environment variables from the cjdns role.
set -eu

# at_least HAVE WANTED: compare versions of the form 1.2.3.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# need TOOL MINIMUM: fail unless the tool is new enough.
need() {
    found=$("$1" --version 2>/dev/null | grep -o '[0-9][0-9]*\(\.[0-9][0-9]*\)*' | head -n 1) || found=
    if [ -z "$found" ] || ! at_least "$found" "$2"; then
        echo "$1 of version $2 or newer is needed for the build, but the node has ${found:-none}: set cjdns_install_method to binary," \
            "or put a newer $1 into /usr/local/bin" >&2
        exit 1
    fi
}

main() {
    # Waits for the build of an earlier run that was killed, and takes over its result.
    exec 9>lock
    flock 9
    if [ -x "out/$BUILD_KEY/cjdroute" ]; then
        exit 0
    fi

    rm -rf work
    mkdir -p work/source work/tools out
    export CARGO_HOME="$PWD/work/cargo"
    if [ -n "$NODE_ARCHIVE" ]; then
        mkdir work/node
        tar -xzf "$NODE_ARCHIVE" -C work/node --strip-components=1
        PATH="$PWD/work/node/bin:$PATH"
    fi
    if [ -n "$RUST_ARCHIVE" ]; then
        mkdir work/rust
        tar -xzf "$RUST_ARCHIVE" -C work/rust --strip-components=1
        # The documentation alone is as large as all the rest.
        work/rust/install.sh --prefix="$PWD/work/tools" --without=rust-docs --disable-ldconfig >build.log 2>&1 || {
            tail -n 20 build.log >&2
            exit 1
        }
        rm -rf work/rust
        PATH="$PWD/work/tools/bin:$PATH"
    fi
    export PATH
    need node "$NODE_MINIMUM"
    need rustc "$RUST_MINIMUM"
    need cargo "$RUST_MINIMUM"

    tar -xzf "$BUILD_ARCHIVE" -C work/source --strip-components=1
    if ! (cd work/source && ./do) >build.log 2>&1 9>&-; then
        tail -n 40 build.log >&2
        exit 1
    fi
    if ! work/source/cjdroute --version >>build.log 2>&1; then
        echo "The built cjdroute does not run:" >&2
        tail -n 5 build.log >&2
        exit 1
    fi
    rm -rf "out/$BUILD_KEY.new" "out/$BUILD_KEY"
    mkdir "out/$BUILD_KEY.new"
    mv work/source/cjdroute "out/$BUILD_KEY.new/cjdroute"
    mv "out/$BUILD_KEY.new" "out/$BUILD_KEY"
    rm -rf work
}

main </dev/null
