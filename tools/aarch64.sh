#!/bin/sh
# Runs the tests of kernels, cells and precisions on an emulated AArch64 machine: NEON is tested without an Arm one.
#
#   tools/aarch64.sh                 set up (once), build, test on a CPU that has SDOT and on one that has not
#   tools/aarch64.sh FILE [OPTION…]  the same with other tests: what stands here is handed to pytest
#   CPUS=cortex-a53 JOBS=1 tools/aarch64.sh    on one of the two; one compiler at a time
#   tools/aarch64.sh graphs          with the tests of graphs: every operation by its formula, random graphs, decoding, top-k
#   tools/aarch64.sh core            the programs of tests/c alone, which need no Python
#   tools/aarch64.sh setup           only fetch the emulated Python
#
# Needs: gcc-aarch64-linux-gnu and qemu-user-static (Debian, Ubuntu); for all but "core" apt-get with a Debian source that
# has python3.11, and a Python with pip, Cython 3 and setuptools ($PYTHON, default python3). Everything fetched is
# unpacked in .cache/aarch64 and nothing is installed: Python, its headers and the C library for arm64 from
# Debian, numpy and pytest for arm64 from PyPI. Times under emulation say nothing.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
CPUS=${CPUS:-max cortex-a53}
JOBS=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
CACHE=$PWD/.cache/aarch64
ROOT=$CACHE/root
SITE=$CACHE/site
TREE=$CACHE/tree
VERSION=3.11
mkdir -p "$CACHE"

programs="aarch64-linux-gnu-gcc qemu-aarch64-static"
[ "${1:-}" = core ] || programs="$programs apt-get dpkg-deb"
for program in $programs; do
    if ! command -v "$program" >/dev/null; then
        echo "$0: $program is missing; apt-get install gcc-aarch64-linux-gnu qemu-user-static" >&2
        exit 2
    fi
done

wait_for_jobs() {
    for job in $jobs; do wait "$job"; done
    jobs=
}

# Compiles the files named after the folder for their objects, JOBS of them at a time, each with the flags of setup.py. More
# flags are in $MORE.
compile() {
    folder=$1
    shift
    jobs= count=0
    for source; do
        own=
        case $source in *_neondot.c) own=-march=armv8.2-a+dotprod ;; esac
        case $source in */loops_*.c) own="$own -fno-math-errno -fno-trapping-math" ;; esac
        # shellcheck disable=SC2086
        aarch64-linux-gnu-gcc -std=gnu11 -O3 -g0 -ffp-contract=off -pthread -w $own $MORE -Iinclude -Isrc/cgru/core \
            -c "$source" -o "$folder/$(basename "$source" .c).o" &
        jobs="$jobs $!" count=$((count + 1))
        [ $((count % JOBS)) != 0 ] || wait_for_jobs
    done
    wait_for_jobs
}
CORE=$(ls src/cgru/core/*.c src/cgru/core/ops/*.c src/cgru/core/isa/*_generic.c src/cgru/core/isa/*_neon*.c)

# ---- the core alone --------------------------------------------------------------------------------------------------
if [ "${1:-}" = core ]; then
    build=$CACHE/core
    rm -rf "$build"
    mkdir -p "$build/c"
    MORE="-DCGRU_WAKE_WORK=1 -DCGRU_SHARE_WORK=1"
    # shellcheck disable=SC2086
    compile "$build" $CORE
    compile "$build/c" tests/c/*.c
    for program in "$build"/c/*.o; do
        aarch64-linux-gnu-gcc -static -pthread "$build"/*.o "$program" -lm -o "${program%.o}"
        for cpu in $CPUS; do
            echo "== $(basename "$program" .o).c on AArch64, -cpu $cpu"
            QEMU_CPU=$cpu qemu-aarch64-static "${program%.o}" all
        done
    done
    exit
fi

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
# shellcheck disable=SC2086
MORE="-fvisibility=hidden -fPIC -DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION -I$SITE/numpy/_core/include \
    -I$ROOT/usr/include/python$VERSION -I$ROOT/usr/include" compile "$TREE/build" "$TREE/build/_packed.c" $CORE
aarch64-linux-gnu-gcc -shared -pthread "$TREE"/build/*.o -lm \
    -o "$TREE/src/cgru/engine/backends/_packed.cpython-311-aarch64-linux-gnu.so"

# ---- the tests -------------------------------------------------------------------------------------------------------
# A wrapper, so that tests that start a Python of their own start an emulated one.
cat >"$CACHE/python" <<END
#!/bin/sh
exec qemu-aarch64-static -L "$ROOT" "$ROOT/usr/bin/python$VERSION" "\$@"
END
chmod +x "$CACHE/python"
[ "${1:-}" != graphs ] || set -- tests/test_operations.py tests/test_random_graphs.py tests/test_graph_threads.py \
    tests/test_attention.py tests/test_scan_rows.py tests/test_inner_operations.py tests/test_search.py tests/test_sampling.py \
    tests/test_top_k.py -k "not [reference and not [blas and not variates_against and not one_row_is_shared and not hears_ctrl_c"
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
