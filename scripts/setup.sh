#!/bin/sh
# scripts/setup.sh [test] [neon]: installs the packages that are missing; `test` adds those of `make test` and `make
# lint`, `neon` those of `make test-neon` (Debian only).
# Silent and quick when all is there; never asks; needs root or a sudo that asks for no password. `make` calls it.

apt_build='gcc libc6-dev make pkg-config liblua5.4-dev libopenblas-openmp-dev libsdl2-dev libstb-dev libsndfile1-dev
libcjson-dev zlib1g-dev libedit-dev fonts-noto-color-emoji'
apt_test='lua5.4 lua-busted lua-check lua-cjson lua-lpeg lua-filesystem lua-socket lua-penlight libcmocka-dev clang
clang-format libclang-rt-dev libomp-dev procps valgrind xvfb xauth xdotool x11-apps'
apt_neon='gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user'

dnf_build='gcc make pkgconf-pkg-config lua-devel openblas-devel SDL2-devel stb-devel libsndfile-devel cjson-devel
zlib-devel libedit-devel google-noto-color-emoji-fonts'
dnf_test='lua luarocks libcmocka-devel clang clang-tools-extra libomp-devel valgrind xorg-x11-server-Xvfb xdotool xwd'

pacman_build='gcc make pkgconf lua54 openblas sdl2 stb libsndfile cjson zlib libedit noto-fonts-emoji'
pacman_test='lua54-busted luacheck lua54-cjson lua54-lpeg lua54-filesystem lua54-socket cmocka clang openmp valgrind
xorg-server-xvfb xdotool xorg-xwd'

brew_build='gcc make pkg-config lua@5.4 openblas sdl2 libsndfile cjson zlib libedit'
brew_test='luarocks luacheck cmocka llvm clang-format'

# Print those of the named packages that are not installed.
missing_apt() {
    have=$(dpkg-query -W -f '${Package}=${db:Status-Status}\n' "$@" 2>/dev/null)
    for package; do
        case "
$have
" in *"
$package=installed
"*) ;; *) printf ' %s' "$package" ;; esac
    done
}
missing_dnf() { for package; do rpm -q "$package" >/dev/null 2>&1 || printf ' %s' "$package"; done; }
missing_pacman() { pacman -T "$@" | while read -r package; do printf ' %s' "$package"; done; }
missing_brew() { for package; do brew list --versions "$package" >/dev/null 2>&1 || printf ' %s' "$package"; done; }

install_apt='apt-get install -y --no-install-recommends -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300'
install_dnf='dnf install -y'
install_pacman='pacman -S --needed --noconfirm'
install_brew='brew install'

manager=none
for name in apt-get:apt dnf:dnf pacman:pacman brew:brew; do
    if command -v "${name%:*}" >/dev/null 2>&1; then manager=${name#*:} && break; fi
done
if [ $manager = none ]; then
    echo "setup: found none of apt, dnf, pacman and brew: install the counterparts of these Debian packages by hand, then
  run make with SETUP=no:" $apt_build $apt_test >&2
    exit 1
fi

eval "wanted=\$${manager}_build"
for more; do eval "wanted=\"\$wanted \$${manager}_$more\""; done
missing=$(missing_$manager $wanted)
if [ -z "$missing" ]; then exit 0; fi

eval "install=\$install_$manager"
echo "setup: $install$missing"
as_root=
if [ $manager != brew ] && [ "$(id -u)" != 0 ]; then
    if ! sudo -n true 2>/dev/null; then
        echo "setup: this needs root, and sudo is not there or wants a password. As root, run the line above." >&2
        exit 1
    fi
    as_root='sudo -n'
fi
if [ $manager = apt ]; then $as_root apt-get update -q -o Acquire::Retries=3 || exit 1; fi
if ! $as_root env DEBIAN_FRONTEND=noninteractive $install $missing </dev/null; then
    echo "setup: the installation failed: see above. Missing:$missing" >&2
    exit 1
fi
