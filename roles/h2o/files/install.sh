#!/bin/sh
# Puts one release of h2o into a folder of its own, whole or not at all.
# Usage: install.sh build|unpack ARCHIVE DESTINATION USER
#   build   ARCHIVE is upstream's source; it is built as USER
#   unpack  ARCHIVE holds bin/h2o and share/h2o, at its top or below folders
# The running h2o is not touched: the caller moves the link once this has ended well.
set -eu
mode=$1 archive=$2 destination=$3 user=$4

# The user may not enter the folder that we were called in.
cd /
# Not /tmp, which may be small, or forbid programs.
work=$(mktemp -d /var/tmp/h2o-install.XXXXXX)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/unpacked"
chown "$user" "$work" "$work/unpacked"

as_user() {
    runuser -u "$user" -- env HOME="$work" "$@"
}

fail() {
    echo "$1" >&2
    exit 1
}

as_user tar -x --no-same-owner -C "$work/unpacked" -f "$archive" || fail "$archive cannot be unpacked"

if [ "$mode" = build ]; then
    cmakelists=$(find "$work/unpacked" -maxdepth 2 -name CMakeLists.txt | sort | head -n 1)
    [ -n "$cmakelists" ] || fail "$archive holds no CMakeLists.txt: it is not the source of h2o"
    source=${cmakelists%/*}
    # mruby's build files hand options to FileUtils in a way that Ruby 3 refuses.
    if [ -d "$source/deps/mruby" ]; then
        # shellcheck disable=SC2016  # $verbose is Ruby's
        as_user find "$source/deps/mruby" -type f \( -name Rakefile -o -name '*.rake' -o -name '*.rb' \) \
            -exec sed -i 's/, *{ *:verbose => \$verbose *}//' {} +
    fi
    cd "$source"
    # The policy version: h2o asks for rules that CMake 4 has dropped.
    as_user cmake -DCMAKE_INSTALL_PREFIX=/h2o -DCMAKE_POLICY_VERSION_MINIMUM=3.5 -DWITH_BUNDLED_SSL=off -DWITH_MRUBY=on . ||
        fail "cmake failed, see above"
    as_user make -j "$(nproc)" || fail "the build failed, see above"
    as_user make install DESTDIR="$work/unpacked/stage" || fail "make install failed, see above"
    prefix=$work/unpacked/stage/h2o
else
    program=$(find "$work/unpacked" -type f -path '*/bin/h2o' | sort | head -n 1)
    [ -n "$program" ] || fail "$archive holds no bin/h2o: pack what \`make install\` of h2o writes, bin/h2o and share/h2o"
    prefix=${program%/bin/h2o}
fi

[ -f "$prefix/share/h2o/start_server" ] || fail "share/h2o/start_server is missing beside bin/h2o: h2o cannot reload without it"
cd /
as_user env H2O_ROOT="$prefix" "$prefix/bin/h2o" --version || fail "the new h2o does not run on this node: \`h2o --version\` failed"

# Left over by a run that was killed here.
rm -rf "$destination.partial"
mkdir -p "$destination.partial/share"
cp -R "$prefix/share/h2o" "$destination.partial/share/h2o"
mkdir "$destination.partial/bin"
cp "$prefix/bin/h2o" "$destination.partial/bin/h2o"
chown -R 0:0 "$destination.partial"
chmod -R u=rwX,go=rX "$destination.partial"
rm -rf "$destination"
mv "$destination.partial" "$destination"
