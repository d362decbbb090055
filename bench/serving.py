"""How many real-time streams one core serves within their frame: the scheduler of ``cgru serve`` by itself.

Each stream sends a frame of 10 ms every 10 ms, from memory, at a phase of its own; its latency is from the moment the
frame was due to the moment its output was handed on. The network is a denoiser's: 161 features, two GRUs of 400, a
Dense of 161 with a sigmoid. The same scheduler drives every engine:

    cgru, cgru int8              a pool
    ONNX Runtime gathered        states gathered, one call of the session, states scattered; everything bound
    ONNX Runtime per stream      one call a stream, everything bound beforehand

    python bench/serving.py                       # the largest number of streams with p99 within 10 ms, each engine
    python bench/serving.py --streams 200         # latencies at that number
    python bench/serving.py --seconds 10 --repeat 5 --json serving.json

Time is virtual: it advances by the processor time that the scheduler and the engine take, and jumps over the time in
which nothing is due. Other programs on the machine thus cost no latency (but do cost cache), and one core is one core.
ONNX Runtime has no int8 GRU (its dynamic quantization leaves the operator as it is), so it runs in float32.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import cgru
from cgru.serve.ticks import Channel, Ticks

FEATURES, HIDDEN, FRAME = 161, 400, 0.010


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the denoiser, in torch's names and gate order."""
    rng = np.random.default_rng(seed)
    shapes = {"head.weight": (FEATURES, HIDDEN), "head.bias": (FEATURES,)}
    for layer, width in enumerate((FEATURES, HIDDEN)):
        shapes[f"gru.weight_ih_l{layer}"] = (3 * HIDDEN, width)
        shapes[f"gru.weight_hh_l{layer}"] = (3 * HIDDEN, HIDDEN)
        shapes[f"gru.bias_ih_l{layer}"] = shapes[f"gru.bias_hh_l{layer}"] = (3 * HIDDEN,)
    return {name: rng.uniform(-0.05, 0.05, shape).astype(np.float32) for name, shape in shapes.items()}


def network() -> cgru.Model:
    held = tensors()
    gru = cgru.GRU.from_torch({k: v for k, v in held.items() if k.startswith("gru.")}, prefix="gru.")
    return cgru.Model([gru, cgru.Dense(held["head.weight"], held["head.bias"], activation="sigmoid")])


class CgruEngine:
    """A pool, as the server has it."""

    def __init__(self, streams: int, precision: str = "float32") -> None:
        net = network()
        self.pool = (net if precision == "float32" else net.quantize(precision)).pool(streams)
        self.sids = [self.pool.open() for _ in range(streams)]
        self.step: Callable[[np.ndarray, np.ndarray], np.ndarray] = self.pool.step


def session() -> Any:
    """ONNX Runtime's session of the same network, one thread, any number of rows."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    held = tensors()
    order = np.r_[HIDDEN : 2 * HIDDEN, 0:HIDDEN, 2 * HIDDEN : 3 * HIDDEN]  # r, z, n → z, r, h
    constants: dict[str, np.ndarray] = {}
    nodes, source = [], "x"
    for layer in range(2):
        w, r, b, c = (held[f"gru.{name}_l{layer}"][order] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        constants |= {f"w{layer}": w[None], f"r{layer}": r[None], f"b{layer}": np.concatenate([b, c])[None]}
        inputs = [source, f"w{layer}", f"r{layer}", f"b{layer}", "", f"h{layer}"]
        outputs = ["", f"n{layer}"]
        nodes.append(helper.make_node("GRU", inputs, outputs, hidden_size=HIDDEN, linear_before_reset=1))
        source = f"n{layer}"  # (1, n, H): of one step, the state is the output
    constants |= {"head": held["head.weight"].T.copy(), "bias": held["head.bias"]}
    nodes += [
        helper.make_node("MatMul", [source, "head"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["y"]),
    ]

    def value(name: str, width: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n", width])

    graph = helper.make_graph(
        nodes,
        "denoiser",
        [value("x", FEATURES), value("h0", HIDDEN), value("h1", HIDDEN)],
        [value("y", FEATURES), value("n0", HIDDEN), value("n1", HIDDEN)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def bind(binding: Any, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, np.float32, (1, *array.shape), array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, np.float32, (1, *array.shape), array.ctypes.data)


class OnnxGathered:
    """The states of all streams in two arrays: gather, one call, scatter."""

    def __init__(self, streams: int) -> None:
        self.session, self.sids = session(), list(range(streams))
        self.states = [np.zeros((streams, HIDDEN), np.float32) for _ in range(2)]
        self.before = [np.zeros((streams, HIDDEN), np.float32) for _ in range(2)]
        self.after = [np.zeros((streams, HIDDEN), np.float32) for _ in range(2)]
        self.y = np.zeros((streams, FEATURES), np.float32)
        self.binding = self.session.io_binding()

    def step(self, sids: np.ndarray, x: np.ndarray) -> np.ndarray:
        n = len(sids)
        for state, gathered in zip(self.states, self.before, strict=True):
            np.take(state, sids, axis=0, out=gathered[:n], mode="clip")
        bind(
            self.binding,
            {"x": x, "h0": self.before[0][:n], "h1": self.before[1][:n]},
            {"y": self.y[:n], "n0": self.after[0][:n], "n1": self.after[1][:n]},
        )
        self.session.run_with_iobinding(self.binding)
        for state, result in zip(self.states, self.after, strict=True):
            state[sids] = result[:n]
        return self.y[:n]


class OnnxPerStream:
    """Two bindings a stream, taking turns at which of its states is read and which is written."""

    def __init__(self, streams: int) -> None:
        self.session, self.sids = session(), list(range(streams))
        self.x = np.zeros((streams, 1, FEATURES), np.float32)
        self.y = np.zeros((streams, 1, FEATURES), np.float32)
        self.states = np.zeros((streams, 2, 2, 1, HIDDEN), np.float32)
        self.turn = [0] * streams
        self.bindings = [[self._binding(i, turn) for turn in range(2)] for i in range(streams)]

    def _binding(self, i: int, turn: int) -> Any:
        binding = self.session.io_binding()
        old, new = self.states[i, turn], self.states[i, 1 - turn]
        bind(binding, {"x": self.x[i], "h0": old[0], "h1": old[1]}, {"y": self.y[i], "n0": new[0], "n1": new[1]})
        return binding

    def step(self, sids: np.ndarray, x: np.ndarray) -> np.ndarray:
        self.x[sids, 0] = x
        run, turn = self.session.run_with_iobinding, self.turn
        for i in sids.tolist():
            run(self.bindings[i][turn[i]])
            turn[i] ^= 1
        return self.y[sids, 0]


ENGINES: dict[str, Callable[[int], Any]] = {
    "cgru": CgruEngine,
    "cgru int8": lambda streams: CgruEngine(streams, "int8"),
    "ONNX Runtime gathered": OnnxGathered,
    "ONNX Runtime per stream": OnnxPerStream,
}


def agree() -> float:
    """The engines in float32 give the same numbers: the largest difference over ragged steps of five streams."""
    rng = np.random.default_rng(1)
    engines = [ENGINES[name](5) for name in ENGINES if name != "cgru int8"]
    apart = 0.0
    for _ in range(20):
        chosen = rng.permutation(5)[: rng.integers(1, 6)]
        x = rng.standard_normal((len(chosen), FEATURES)).astype(np.float32)
        found = [np.array(engine.step(np.array([engine.sids[i] for i in chosen]), x)) for engine in engines]
        apart = max(apart, *(float(np.abs(y - found[0]).max()) for y in found[1:]))
    assert apart < 1e-5, f"the engines differ by {apart}"
    return apart


def simulate(make: Callable[[int], Any], streams: int, seconds: float, *, limit: float = np.inf) -> dict[str, float]:
    """Latencies (s) of ``streams`` streams over ``seconds`` of virtual time, and the share of the core."""
    engine, rng = make(streams), np.random.default_rng(streams)
    frames = [row.tobytes() for row in rng.standard_normal((64, FEATURES)).astype(np.float32)]
    ticks = Ticks(FEATURES, np.dtype("<f4"))
    channels = [Channel(sid) for sid in engine.sids]
    ticks.open = streams
    phases = np.sort(rng.uniform(0, FRAME, streams))
    rounds = int(seconds / FRAME)
    clock, step = time.thread_time, engine.step
    found: list[np.ndarray] = []
    now = busy = 0.0
    sent, total, batches = 0, rounds * streams, 0
    gc.collect()
    gc.disable()
    try:
        while True:
            begin = clock()
            while sent < total:
                turn, i = divmod(sent, streams)
                due = turn * FRAME + phases[i]
                if due > now:
                    break
                ticks.push(channels[i], (frames[sent & 63],), due)
                sent += 1
            wait = ticks.wait(now)
            if wait is None or wait > 0:
                took = clock() - begin
                busy += took
                if wait is None and sent == total:
                    break
                until = np.inf if wait is None else now + wait
                if sent < total:
                    turn, i = divmod(sent, streams)
                    until = min(until, turn * FRAME + phases[i])
                now = max(now + took, until)
                continue
            batch = ticks.take(now)
            assert batch is not None
            outputs = step(batch.sids, batch.x)
            end = now + (clock() - begin)
            ticks.deliver(batch, outputs, end)
            for channel in batch.channels:
                ticks.collect(channel, end)
            took = clock() - begin
            now += took
            busy += took
            batches += 1
            found.append(now - batch.arrived)
            if found[-1].max() > limit:
                break
    finally:
        gc.enable()
    latencies = np.concatenate(found[len(found) // 5 :])  # the first fifth warms caches up
    p50, p99, p999 = np.percentile(latencies, [50, 99, 99.9])
    return {"streams": streams, "p50": p50, "p99": p99, "p99.9": p999, "core": busy / now, "rows": sent / batches}


def largest(make: Callable[[int], Any], seconds: float, first: int) -> dict[str, float]:
    """The largest number of streams, to 2 %, whose p99 stays within a frame."""
    good: dict[str, float] = {}
    low, high = 0, 0
    streams = first
    while not high or high - low > max(1, high // 50):
        found = simulate(make, streams, seconds, limit=5 * FRAME)
        if found["p99"] <= FRAME:
            low, good = streams, found
        else:
            high = streams
        streams = (low + high) // 2 if high else 2 * streams
        if not streams:
            break
    return good


def told(name: str, found: dict[str, float]) -> str:
    return (
        f"{name:25} {found['streams']:6.0f} streams  p50 {1e3 * found['p50']:6.2f}  p99 {1e3 * found['p99']:6.2f}  "
        f"p99.9 {1e3 * found['p99.9']:6.2f} ms  core {100 * found['core']:3.0f} %  {found['rows']:.0f} rows a step"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, help="latencies at this number, instead of the largest number")
    parser.add_argument("--seconds", type=float, default=3.0, help="of virtual time in each try (3)")
    parser.add_argument("--repeat", type=int, default=3, help="rounds over the engines; the median counts (3)")
    parser.add_argument("--engines", nargs="+", choices=tuple(ENGINES), default=tuple(ENGINES))
    parser.add_argument("--json", type=Path, help="write every figure here as well")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if any(name.startswith("ONNX") for name in args.engines):
        print(f"float32 engines agree within {agree():.0e}")
    every: dict[str, list[dict[str, float]]] = {name: [] for name in args.engines}
    for _ in range(args.repeat):
        for name in args.engines:
            if args.streams:
                found = simulate(ENGINES[name], args.streams, args.seconds, limit=1.0)
            else:
                found = largest(ENGINES[name], args.seconds, 100)
            every[name].append(found)
            print(told(name, found), flush=True)
    if not args.streams:
        medians = {name: statistics.median(one["streams"] for one in found) for name, found in every.items()}
        print("\nstreams within 10 ms at p99, median: " + ", ".join(f"{k} {v:.0f}" for k, v in medians.items()))
        others = [v for k, v in medians.items() if k.startswith("ONNX")]
        for name in ("cgru", "cgru int8"):
            if others and name in medians:
                print(f"{name}: {medians[name] / max(others):.2f} times the better of ONNX Runtime's")
    if args.json:
        args.json.write_text(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
