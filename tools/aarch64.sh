#!/bin/sh
# Runs the tests of kernels, cells and precisions on an emulated AArch64 machine: NEON is tested without an Arm one.
#
#   tools/aarch64.sh                 set up (once), build, test on a CPU that has SDOT and on one that has not
#   tools/aarch64.sh FILE [OPTION…]  the same with other tests: what stands here is handed to pytest
#   CPUS=cortex-a53 tools/aarch64.sh
#   tools/aarch64.sh setup           only fetch the emulated Python
#
# Needs: gcc-aarch64-linux-gnu and qemu-user-static (Debian, Ubuntu), apt-get with a Debian source that has
# python3.11, and a Python with pip, Cython 3 and setuptools ($PYTHON, default python3). Everything fetched is
# unpacked in .cache/aarch64 and nothing is installed: Python, its headers and the C library for arm64 from
# Debian, numpy and pytest for arm64 from PyPI. Times under emulation say nothing.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
CPUS=${CPUS:-max cortex-a53}
CACHE=$PWD/.cache/aarch64
ROOT=$CACHE/root
SITE=$CACHE/site
TREE=$CACHE/tree
VERSION=3.11
mkdir -p "$CACHE"

for program in aarch64-linux-gnu-gcc qemu-aarch64-static apt-get dpkg-deb; do
    if ! command -v "$program" >/dev/null; then
        echo "$0: $program is missing; apt-get install gcc-aarch64-linux-gnu qemu-user-static" >&2
        exit 2
    fi
done

# ---- Python for arm64, from Debian: an apt of our own, which neither needs root nor touches the system's ------------
if [ ! -x "$ROOT/usr/bin/python$VERSION" ]; then
    APT=$CACHE/apt
    rm -rf "$APT" "$ROOT"
    mkdir -p "$APT/lists/partial" "$APT/cache/archives/partial" "$ROOT"
    : >"$APT/status"
    apt() {
        apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::status="$APT/status" \
            -o Dir::State::lists="$APT/lists" -o Dir::Cache="$APT/cache" -o Debug::NoLocking=1 "$@"
    }
    apt update
    (cd "$APT" && apt download libc6 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libgcc-s1 \
        libstdc++6 libuuid1 python$VERSION-minimal libpython$VERSION-minimal libpython$VERSION-stdlib \
        libpython$VERSION-dev)
    for package in "$APT"/*.deb; do dpkg-deb -x "$package" "$ROOT"; done
fi

# ---- numpy and the test tools for arm64, from PyPI -------------------------------------------------------------------
if [ ! -d "$SITE/numpy" ]; then
    rm -rf "$SITE"
    "$PYTHON" -m pip install -q --disable-pip-version-check --target "$SITE" --platform manylinux2014_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_28_aarch64 --python-version $VERSION \
        --implementation cp --only-binary=:all: "numpy>=2.0" "pytest>=8" "hypothesis>=6.100"
fi

[ "${1:-}" != setup ] || exit 0

# ---- the C core and its binding --------------------------------------------------------------------------------------
rm -rf "$TREE"
mkdir -p "$TREE/build"
cp -R src tests pyproject.toml "$TREE"
find "$TREE/src" -name '*.so' -delete
"$PYTHON" -m cython -3 src/cgru/engine/backends/_packed.pyx -o "$TREE/build/_packed.c"
jobs=
for source in "$TREE/build/_packed.c" src/cgru/core/*.c src/cgru/core/ops/*.c src/cgru/core/isa/*_generic.c src/cgru/core/isa/*_neon*.c; do
    # The flags of setup.py.
    case $source in *_neondot.c) own=-march=armv8.2-a+dotprod ;; *) own= ;; esac
    aarch64-linux-gnu-gcc -std=gnu11 -O3 -g0 -ffp-contract=off -fvisibility=hidden -pthread -fPIC -w $own \
        -DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION -Iinclude -Isrc/cgru/core -I"$SITE/numpy/_core/include" \
        -I"$ROOT/usr/include/python$VERSION" -I"$ROOT/usr/include" -c "$source" \
        -o "$TREE/build/$(basename "$source" .c).o" &
    jobs="$jobs $!"
done
for job in $jobs; do wait "$job"; done
aarch64-linux-gnu-gcc -shared -pthread "$TREE"/build/*.o -lm \
    -o "$TREE/src/cgru/engine/backends/_packed.cpython-311-aarch64-linux-gnu.so"

# ---- the tests -------------------------------------------------------------------------------------------------------
# A wrapper, so that tests that start a Python of their own start an emulated one.
cat >"$CACHE/python" <<END
#!/bin/sh
exec qemu-aarch64-static -L "$ROOT" "$ROOT/usr/bin/python$VERSION" "\$@"
END
chmod +x "$CACHE/python"
# Some kinds of network are left to the ordinary suite: emulation is some fifty times slower than a machine.
[ $# -gt 0 ] || set -- tests/test_kernel_math.py tests/test_isa.py tests/test_packed.py tests/test_cells.py \
    tests/test_cell_laws.py tests/test_int8.py tests/test_reduced.py::test_halves_on_every_instruction_set \
    -k "not last] and not hidden and not two] and not embedding] and not masking] and not every_tile and not scratch \
    and not cells_equal and not [reference and not [blas"
for cpu in $CPUS; do
    echo "== AArch64, -cpu $cpu"
    (
        cd "$TREE"
        export QEMU_CPU="$cpu" QEMU_LD_PREFIX="$ROOT" PYTHONHOME="$ROOT/usr" PYTHONPATH="$TREE/src:$SITE"
        export PYTHONDONTWRITEBYTECODE=1 CGRU_TEST_PYTHON="$CACHE/python" CI=1
        "$CACHE/python" -m pytest -q -p no:cacheprovider "$@"
    )
done
