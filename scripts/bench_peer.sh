#!/bin/sh
# scripts/bench_peer.sh: PyTorch of Debian's package at its best setting, for `hdlua -m bench`.
#
#   bench_peer.sh --install        install python3-torch and numpy (apt, as root or through sudo); nothing else does
#   bench_peer.sh --check          succeeds where they are installed
#   bench_peer.sh --child NAME …   run scripts/bench_peer.py
#
# Measured to matter: the core that OpenBLAS is told to be (it takes new processors for old ones), PyTorch's own vector
# code, and huge pages with nothing given back between the steps (glibc's malloc). PYTHON names another interpreter.
set -eu

# Debian's package is seen by Debian's own Python alone.
for python in ${PYTHON:-/usr/bin/python3 python3}; do
    if "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("numpy")))' 2>/dev/null; then
        found=$python
        break
    fi
done

case ${1:-} in
--install)
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -qq
    exec $sudo apt-get install -y -qq --no-install-recommends python3-torch python3-numpy
    ;;
--check) [ -n "${found:-}" ] && exit 0 || exit 1 ;;
esac

if [ -z "${found:-}" ]; then
    echo 'bench_peer.sh: no PyTorch here: bench_peer.sh --install installs it' >&2
    exit 1
fi

if grep -q avx512f /proc/cpuinfo 2>/dev/null; then
    core=Cooperlake capability=avx512
else
    core=Haswell capability=avx2
fi
export OPENBLAS_CORETYPE="${OPENBLAS_CORETYPE:-$core}" ATEN_CPU_CAPABILITY="${ATEN_CPU_CAPABILITY:-$capability}"
export GLIBC_TUNABLES="glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184"
exec "$found" "$(dirname "$0")/bench_peer.py" "$@"
