#!/bin/sh
# Runs the int8 tests with the AVX-VNNI kernels on a processor that has AVX512-VNNI instead: it has the same instruction
# under another encoding, which core/dot_avx2.h takes where it is compiled for that one too.
#
#   tools/avxvnni.sh                 build, then tests/test_int8.py and test_reduced.py under CGRU_ISA=avxvnni
#   tools/avxvnni.sh FILE [OPTION…]  the same with other tests: what stands here is handed to pytest
#
# Needs what building the package and its tests need, in $PYTHON (default python3). All is built in .cache/avxvnni.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
TREE=$PWD/.cache/avxvnni

if ! grep -qw avx512_vnni /proc/cpuinfo; then
    echo "$0: this processor has no AVX512-VNNI" >&2
    exit 2
fi
rm -rf "$TREE"
mkdir -p "$TREE"
cp -R src include tests bench setup.py pyproject.toml README.md "$TREE"
cd "$TREE"
find src -name '*.so' -delete

replace() { # file, what stands there, what is to stand there: once
    [ "$(grep -cF -- "$2" "$1")" = 1 ] || { echo "$0: $1 no longer has: $2" >&2; exit 1; }
    sed -i "s/$2/$3/" "$1"
}
# The other encoding, and a processor that is taken to have AVX-VNNI.
replace setup.py '"-mavxvnni", ' '"-mavxvnni", "-mavx512vnni", "-mavx512vl", '
replace src/cgru/core/dispatch.c '(more_a & 1u << 4) != 0' '1'

"$PYTHON" setup.py -q build_ext --inplace
[ $# -gt 0 ] || set -- tests/test_int8.py tests/test_reduced.py
CGRU_ISA=avxvnni PYTHONPATH="$TREE/src" "$PYTHON" -m pytest -q -p no:cacheprovider "$@"
