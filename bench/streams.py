"""What do streams and pools cost, and what does stepping many together bring? `python bench/streams.py [--quick]`

Every table is one run in one process, the ways compared taking turns. Medians; a ratio is one median over another.
One core, but for two Python threads. `--precision` reduces cgru's weights (the others keep float32), and a pool in
float32 joins the comparison; `--only pool` leaves the other tables out. `--cpu` takes processor time instead of the
clock on the wall, for a machine that does something else as well.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from cells import Cell, make_tensors

import cgru

# What a method of an extension type costs that checks its array and allocates its result, and does nothing else.
EMPTY = """
# cython: language_level=3, boundscheck=False, wraparound=False
cimport numpy as cnp
cnp.import_array()

cdef class Empty:
    def step(self, x, out=None):
        cdef cnp.npy_intp shape[2]
        if not (
            cnp.PyArray_CheckExact(x)
            and cnp.PyArray_TYPE(<cnp.ndarray>x) == cnp.NPY_FLOAT32
            and cnp.PyArray_NDIM(<cnp.ndarray>x) == 2
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x)
            and cnp.PyArray_DIM(<cnp.ndarray>x, 0) == 1
            and cnp.PyArray_DIM(<cnp.ndarray>x, 1) == 1
        ):
            raise ValueError
        if out is not None:
            return out
        shape[0] = shape[1] = 1
        return cnp.PyArray_SimpleNew(2, shape, cnp.NPY_FLOAT32)
"""


def compile_empty(folder: str) -> Any:
    """The reference method, built here and now."""
    source, suffix = Path(folder, "empty_method.pyx"), sysconfig.get_config_var("EXT_SUFFIX")
    source.write_text(EMPTY)
    subprocess.run([sys.executable, "-m", "cython", "-3", str(source)], check=True)
    command = [
        *(sysconfig.get_config_var("CC") or "cc").split(), "-O3", "-shared", "-fPIC", "-w",
        "-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION", f"-I{sysconfig.get_paths()['include']}", f"-I{np.get_include()}",
        str(source.with_suffix(".c")), "-o", str(source.with_name(f"empty_method{suffix}")),
    ]  # fmt: skip
    subprocess.run(command, check=True)
    sys.path.insert(0, folder)
    import empty_method  # type: ignore[import-not-found]

    return empty_method.Empty()


def alternate(ways: dict[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """The median seconds of each way, taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for work in ways.values():
        work()
    names = list(ways)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            begin = clock()
            ways[name]()
            seconds[name].append(clock() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


TABLES = ("call", "pool", "silence", "memory", "threads")
# How far outputs may be from float32's before they count as wrong.
TOLERANCE = {"float32": 5e-6, "fp16": 5e-3, "bf16": 5e-2, "int8": 1e-1, "int8x16": 5e-2}


def network(H: int, precision: str = "float32") -> cgru.Model:
    net = cgru.Model([cgru.GRU.from_torch(make_tensors(Cell(1, 1, H, H)))])
    return net if precision == "float32" else net.quantize(precision)


def resident() -> int:
    """Bytes of memory this process has in use."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- the tables ------------------------------------------------------------------------------------------------


def call(args: argparse.Namespace) -> dict[str, float]:
    """One step of H = I = 1 beside an empty method."""
    n = 2000
    with tempfile.TemporaryDirectory() as folder:
        empty = compile_empty(folder).step
    step = network(1, args.precision).stream().step
    x, out = np.ones((1, 1), np.float32), np.empty((1, 1), np.float32)

    def times(function: Callable[..., Any], *arguments: Any) -> Callable[[], None]:
        repeats = [None] * n

        def run() -> None:
            for _ in repeats:
                function(*arguments)

        return run

    nothing = alternate({"": times(int)}, args.rounds, args.clock)[""]
    ways = {"step": times(step, x), "step, out=": times(step, x, out), "empty": times(empty, x), "int()": times(int)}
    found = {name: 1e9 * value / n for name, value in alternate(ways, 5 * args.rounds, args.clock).items()}
    print(f"call, H = I = 1: step {found['step']:.0f} ns, with out= {found['step, out=']:.0f} ns, "
          f"an empty method {found['empty']:.0f} ns (the loop and int() {1e9 * nothing / n:.0f} ns): "
          f"{found['step'] / found['empty']:.2f} times the empty method")  # fmt: skip
    return found


def onnx_ways(H: int, n: int, xs: np.ndarray, order: np.ndarray) -> dict[str, Callable[[], Any]]:
    """ONNX Runtime a stream at a time, and once on gathered states. Everything bound beforehand in both."""
    import onnxruntime as ort
    from runners import onnx_model

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session(batch: int) -> Any:
        cell = Cell(batch, 1, H, H)
        model = onnx_model.build(cell, make_tensors(Cell(1, 1, H, H)), "after", sequence_output=False)
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    value, one = ort.OrtValue.ortvalue_from_numpy, session(1)
    turns: list[list[Any]] = [[], []]
    for i in range(n):
        row = value(xs[i].reshape(1, 1, H))
        pair = [value(np.zeros((1, 1, H), np.float32)) for _ in range(2)]
        for k in range(2):
            binding = one.io_binding()
            binding.bind_ortvalue_input("x", row)
            binding.bind_ortvalue_input("h0", pair[k])
            binding.bind_ortvalue_output("h_n", pair[1 - k])
            turns[k].append(binding)
    calls = [0]

    def each() -> np.ndarray:
        run, bindings = one.run_with_iobinding, turns[calls[0] % 2]
        calls[0] += 1
        for i in order:
            run(bindings[i])
        return bindings[order[0]].get_outputs()[0].numpy()[0]

    many = session(n)
    states, gathered, after = (np.zeros((n, H), np.float32) for _ in range(3))
    x = xs[order].copy()
    binding = many.io_binding()
    for name, array in (("x", x), ("h0", gathered)):
        binding.bind_input(name, "cpu", 0, np.float32, (1, n, H), array.ctypes.data)
    binding.bind_output("h_n", "cpu", 0, np.float32, (1, n, H), after.ctypes.data)

    held = x  # the binding knows addresses only

    def together() -> np.ndarray:
        assert held is not None
        np.take(states, order, axis=0, out=gathered)
        many.run_with_iobinding(binding)
        states[order] = after
        return after[:1]

    return {"ONNX Runtime per stream": each, "ONNX Runtime gathered": together}


def pools(args: argparse.Namespace, n: int, H: int, onnx: bool) -> dict[str, float]:
    """A round: each of n streams takes one step, in an order of no meaning."""
    net, rng = network(H, args.precision), np.random.default_rng(0)
    xs = rng.standard_normal((n, H)).astype(np.float32)
    order = rng.permutation(n)
    pool = net.pool(n)
    sids = np.array([pool.open() for _ in range(n)])
    alone = [net.stream() for _ in range(n)]
    rows = [xs[i] for i in range(n)]
    named, x = sids[order], xs[order].copy()

    def one_by_one() -> np.ndarray:
        for i in order:
            y = alone[i].step(rows[i])
        return y[None]

    ways: dict[str, Callable[[], Any]] = {"pool": lambda: pool.step(named, x), "streams one by one": one_by_one}
    if args.precision != "float32":
        plain = network(H).pool(n)
        plain_named = np.array([plain.open() for _ in range(n)])[order]
        ways["pool in float32"] = lambda: plain.step(plain_named, x)
    if onnx:
        try:
            ways |= onnx_ways(H, n, xs, order)
        except ImportError as error:
            print(f"(without ONNX Runtime: {error})")
    # They agree before anything is timed: the first stream of the order, after the same number of steps.
    want, errors = pool.step(named, x)[0], {}
    assert np.array_equal(alone[order[0]].step(rows[order[0]]), want)
    for name, way in list(ways.items())[2:]:
        errors[name] = float(np.abs(way()[0] - want).max())
        assert errors[name] < TOLERANCE[args.precision], (name, errors[name])
    found = alternate(ways, args.rounds, args.clock)
    print(
        f"{n} streams, H = {H}, {args.precision}, a round: "
        + ", ".join(f"{name} {1e3 * s:.2f} ms" for name, s in found.items())
    )
    for name, seconds in list(found.items())[1:]:
        apart = f" (outputs differ by {errors[name]:.0e})" if errors.get(name, 0) > TOLERANCE["float32"] else ""
        print(f"    pool against {name}: {seconds / found['pool']:.2f} times{apart}")
    return found


def two_threads(args: argparse.Namespace) -> dict[str, float]:
    """Throughput of two Python threads, each with its own stream, over that of one. H = 512."""
    net, rng = network(512, args.precision), np.random.default_rng(0)
    x = rng.standard_normal((1000, 512)).astype(np.float32)
    rows = list(x)
    streams = [net.stream() for _ in range(2)]

    def feed(me: int) -> None:
        streams[me].feed(x)

    def steps(me: int) -> None:
        step = streams[me].step
        for row in rows:
            step(row)

    def both(work: Callable[[int], None]) -> None:
        threads = [threading.Thread(target=work, args=(me,)) for me in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    ways = {
        "T=1000 fed, one thread": lambda: feed(0),
        "T=1000 fed, two threads": lambda: both(feed),
        "1000 steps, one thread": lambda: steps(0),
        "1000 steps, two threads": lambda: both(steps),
    }
    found = alternate(ways, args.rounds, time.perf_counter)
    for name in ("T=1000 fed", "1000 steps"):
        one, two = found[f"{name}, one thread"], found[f"{name}, two threads"]
        print(f"two Python threads, H = 512, {name}: {1e3 * one:.1f} ms by one, {1e3 * two:.1f} ms by two: "
              f"{2 * one / two:.2f} times the throughput")  # fmt: skip
    return found


def memory(args: argparse.Namespace) -> dict[str, float]:
    """How much the resident memory grows over steps, and over pairs of open and close."""
    net, scale = network(32, args.precision), 10 if args.quick else 1
    x, stream, pool = np.ones(32, np.float32), net.stream(), net.pool(100)
    found: dict[str, float] = {}

    def steps(n: int) -> None:
        for _ in range(n):
            stream.step(x)

    def pairs(n: int) -> None:
        for _ in range(n):
            pool.close(pool.open())

    for name, work, n in (("steps", steps, 1_000_000 // scale), ("open/close pairs", pairs, 100_000 // scale)):
        work(1000)
        before = resident()
        work(n)
        found[name] = resident() - before
        print(f"memory after {n:,} {name}: {found[name] / 2**20:+.3f} MB")
    return found


def silence(args: argparse.Namespace) -> dict[str, float]:
    """Decaying silence beside noise: states that fade below the smallest normal number must cost no more."""
    n = 10_000 if args.quick else 100_000
    rng = np.random.default_rng(0)
    noise = [rng.standard_normal(128).astype(np.float32) for _ in range(100)]
    inputs = {"noise": noise, "silence": [np.zeros(128, np.float32)] * 100}
    # Without biases a silent stream fades to zero.
    tensors = {k: v for k, v in make_tensors(Cell(1, 1, 128, 128)).items() if "bias" not in k}
    net = cgru.Model([cgru.GRU.from_torch(tensors)])
    net = net if args.precision == "float32" else net.quantize(args.precision)
    streams = {name: net.stream() for name in inputs}
    for stream in streams.values():
        stream.feed(np.stack(noise))

    def run(name: str) -> Callable[[], None]:
        def work() -> None:
            step = streams[name].step
            for x in inputs[name]:
                step(x)

        return work

    found = alternate({name: run(name) for name in inputs}, n // 100, args.clock)
    print(f"{n:,} steps, H = 128: noise {1e4 * found['noise']:.2f} µs a step, decaying silence "
          f"{1e4 * found['silence']:.2f} µs: {found['silence'] / found['noise']:.3f} times")  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and steps: under a minute")
    parser.add_argument("--precision", choices=tuple(TOLERANCE), default="float32", help="of cgru's weights")
    parser.add_argument("--only", choices=TABLES, help="this table alone")
    parser.add_argument("--rounds", type=int, help="default 60, with --quick 7")
    parser.add_argument("--cpu", action="store_true", help="processor time instead of the clock on the wall")
    parser.add_argument("--json", type=Path, help="write the seconds here as well")
    args = parser.parse_args(argv)
    args.rounds = args.rounds or (7 if args.quick else 60)
    wanted = [args.only] if args.only else TABLES
    args.clock = time.thread_time if args.cpu else time.perf_counter
    every = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    found: dict[str, Any] = {
        "cgru": cgru.__version__,
        "quick": args.quick,
        "cpu": args.cpu,
        "precision": args.precision,
    }
    if every:
        os.sched_setaffinity(0, {max(every)})
    if "call" in wanted:
        found["call"] = call(args)
    if "pool" in wanted:
        found["pool 1000x256"] = pools(args, 1000, 256, onnx=True)
        found["pool 200x1024"] = pools(args, 200, 1024, onnx=True)
    if "silence" in wanted:
        found["silence"] = silence(args)
    if "memory" in wanted:
        found["memory"] = memory(args)
    if "threads" in wanted and len(every) > 1:
        os.sched_setaffinity(0, every)
        found["two threads"] = two_threads(args)
    elif "threads" in wanted:
        print("two Python threads: this process may use one core")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
