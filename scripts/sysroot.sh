#!/bin/sh
# scripts/sysroot.sh DIR: unpacks Debian's arm64 packages with all that a build of hdlua for that processor links and
# loads into DIR. Nothing is installed and no root is needed. Called by `make test-neon`; needs Debian's apt.
set -e
dir=$(mkdir -p "$1" && cd "$1" && pwd)
packages='libc6-dev liblua5.4-dev libopenblas-openmp-dev libstb-dev libcjson-dev zlib1g-dev libedit-dev libcmocka-dev
lua-filesystem lua-system lua-term'

# An apt of its own: another architecture, nothing installed yet, its lists and packages in DIR/apt.
mkdir -p "$dir/apt/lists/partial" "$dir/apt/archives/partial"
own_apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User="$(id -un)" \
        -o Acquire::Retries=3 -o Dir::State::Lists="$dir/apt/lists" -o Dir::State::status=/dev/null \
        -o Dir::Cache="$dir/apt" -o Debug::NoLocking=1 "$@"
}
own_apt update
# shellcheck disable=SC2086
own_apt install -y --download-only --no-install-recommends $packages >&2
for package in "$dir"/apt/archives/*.deb; do dpkg -x "$package" "$dir"; done
rm -r "$dir/apt"

# The linker follows absolute links outside of DIR.
find "$dir" -lname '/*' | while read -r link; do ln -snrf "$dir$(readlink "$link")" "$link"; done
