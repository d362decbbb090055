#!/bin/sh
# The C core under sanitizers. Anything they find ends the run with an error; nothing is suppressed.
#
#   tools/sanitize.sh core     the programs of tests/c under ThreadSanitizer, then AddressSanitizer and UndefinedBehaviorSanitizer
#   tools/sanitize.sh python   the extensions under the latter two, with the tests of the packed backend and of decoding;
#                              then those of graphs under ThreadSanitizer
#   tools/sanitize.sh          both
#   tools/sanitize.sh core address     of one of them only what goes under address and undefined; or thread
#
# The C programs run every instruction set of the machine, the tests of Python that of CGRU_ISA or the best, and some all.
# Needs gcc (or CC) with its sanitizers; "python" also what building the package needs, in $PYTHON (default python3).
# All calls are shared by the threads asked for, however small they are: three, where the tests of Python ask for none.
# ROUNDS=3 repeats the programs on other numbers; JOBS compilers run at a time, of which each takes 300 MB. All is built in
# .cache/sanitize, beside the ordinary build.
set -eu
cd "$(dirname "$0")/.."
CC=${CC:-gcc}
PYTHON=${PYTHON:-python3}
ROUNDS=${ROUNDS:-1}
JOBS=${JOBS:-$(getconf _NPROCESSORS_ONLN)}
CACHE=$PWD/.cache/sanitize

# Flags of setup.py for the instruction set that a file of core/isa is for.
flags() {
    avx2="-mavx2 -mfma -mf16c"
    avx512="-mavx512f -mavx512bw -mavx512dq -mavx512vl $avx2"
    case $1 in
    *_avx2.c) echo "$avx2" ;;
    *_avxvnni.c) echo "-mavxvnni $avx2" ;;
    *_avx512.c) echo "$avx512" ;;
    *_avx512vnni.c) echo "$avx512 -mavx512vnni" ;;
    *_avx512bf16.c) echo "$avx512 -mavx512vnni -mavx512bf16" ;;
    *_neondot.c) echo "-march=armv8.2-a+dotprod" ;;
    esac
}

sources() {
    ls src/cgru/core/*.c src/cgru/core/ops/*.c src/cgru/core/isa/*_generic.c
    case $(uname -m) in
    x86_64) ls src/cgru/core/isa/*_avx*.c ;;
    aarch64) ls src/cgru/core/isa/*_neon*.c ;;
    esac
    ls tests/c/*.c
}

wait_for_jobs() {
    for job in $jobs; do wait "$job"; done
    jobs=
}

programs() { # name, sanitizers
    echo "== tests/c under -fsanitize=$2"
    folder=$CACHE/$1
    rm -rf "$folder"
    mkdir -p "$folder/c"
    jobs= count=0
    for source in $(sources); do
        object=$folder/$(basename "$source" .c).o
        case $source in tests/c/*) object=$folder/c/$(basename "$source" .c).o ;; esac
        # shellcheck disable=SC2046
        $CC -std=gnu11 -O1 -g -ffp-contract=off -pthread -fno-omit-frame-pointer -fsanitize="$2" \
            -DCGRU_WAKE_WORK=1 -DCGRU_SHARE_WORK=1 -fno-sanitize-recover=all $(flags "$source") -Iinclude -Isrc/cgru/core -c "$source" \
            -o "$object" &
        jobs="$jobs $!" count=$((count + 1))
        [ $((count % JOBS)) != 0 ] || wait_for_jobs
    done
    wait_for_jobs
    for program in "$folder"/c/*.o; do
        $CC -pthread -fsanitize="$2" "$folder"/*.o "$program" -lm -o "${program%.o}"
        "${program%.o}" all "$ROUNDS"
    done
}

core() { # thread, address or all
    [ "$1" = address ] || TSAN_OPTIONS=halt_on_error=1 programs thread thread
    # Leaks are looked for too: here nothing but the core allocates.
    [ "$1" = thread ] || ASAN_OPTIONS=detect_leaks=1 programs address address,undefined
}

# The extensions under some sanitizers in a tree of their own, with some tests: name, sanitizers, libraries to load before
# Python (which is not linked with the sanitizer), tests and pytest's options.
tests() {
    name=$1 sanitizers=$2 libraries=$3
    shift 3
    echo "== the packed backend's tests under -fsanitize=$sanitizers"
    tree=$CACHE/tree-$name
    mkdir -p "$tree"
    rm -rf "$tree/tests"
    cp -R -p src include tests setup.py pyproject.toml README.md LICENSE "$tree"
    find "$tree/src" -name '*.so' -delete
    preload=
    for library in $libraries; do preload="$preload $($CC -print-file-name="$library")"; done
    (
        cd "$tree"
        CC=$CC CGRU_SANITIZE=$sanitizers CGRU_SHARE_ALL=1 CGRU_NO_OPENMP=1 "$PYTHON" setup.py -q build_ext --inplace --force
        # Python itself leaves memory behind at its end. Its own allocator would hide small objects in arenas.
        LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0:verify_asan_link_order=0:allocator_may_return_null=1 \
            UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1 PYTHONMALLOC=malloc \
            PYTHONPATH=src OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CI=1 CGRU_NUM_THREADS=3 CGRU_CORES=4 \
            "$PYTHON" -m pytest -q -p no:cacheprovider --capture=sys "$@"
    )
}

python() { # thread, address or all
    others="not [blas and not [reference and not one_row_is_shared"
    graphs="tests/test_operations.py tests/test_random_graphs.py tests/test_graph_threads.py tests/test_attention.py
        tests/test_scan_rows.py tests/test_inner_operations.py tests/test_given_streams.py tests/test_shared_tables.py"
    # shellcheck disable=SC2086
    [ "$1" = thread ] || tests address address,undefined "libasan.so libubsan.so" $graphs tests/test_packed.py tests/test_threads.py \
        tests/test_isa.py tests/test_kernel_math.py tests/test_int8.py tests/test_reduced.py tests/test_cells.py \
        tests/test_laws.py tests/test_cell_laws.py tests/test_streams.py tests/test_pool.py tests/test_graph.py \
        tests/test_entries.py tests/test_search.py tests/test_sampling.py tests/test_top_k.py \
        -k "$others and not processor_time and not scratch_does_not_grow and not variates_against and not threads_start"
    # shellcheck disable=SC2086
    [ "$1" = address ] || tests thread thread libtsan.so $graphs -k "$others"
}

part=${2:-all}
case "${1:-all} $part" in
"core all" | "core thread" | "core address") core "$part" ;;
"python all" | "python thread" | "python address") python "$part" ;;
"all all")
    core all
    python all
    ;;
*)
    echo "$0: expected core, python or nothing, then address, thread or nothing; found $*" >&2
    exit 2
    ;;
esac
