"""Decoding: a token, a beam or a forecast's step at a time, against the other libraries' loops.

    python bench/decode.py                            # all questions, one core; JSON with --json
    python bench/decode.py --only greedy,outside      # some; --peers "PyTorch,ONNX Runtime"

PyTorch runs its loop eagerly, as TorchScript, and with steps by torch.compile; ONNX Runtime and OpenVINO run a graph of
one step, in which the choice of tokens and the gathering of beams' states stand, over buffers bound once. Weights are
random and the same for all; what each finds is compared before anything is timed, and one that cannot is told. Figures
are medians of rounds taken in turn, in µs a step of all rows together.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import decode_graphs  # noqa: E402
import decode_torch  # noqa: E402
import numpy as np  # noqa: E402

import cgru  # noqa: E402

HIDDEN, VOCABULARY, STEPS, LETTERS = 256, 74, 100, 12
HISTORY = 100  # frames that a forecast begins with
ROUNDS = 15
PEERS = (*decode_torch.WAYS, *decode_graphs.WAYS)


def arrays(hidden: int, vocabulary: int, inputs: int | None = None) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / shape[-1] ** 0.5).astype(np.float32)

    inputs = hidden if inputs is None else inputs
    return {
        "embedding": draw(vocabulary, inputs) * 4, "w_ih": draw(3 * hidden, inputs), "w_hh": draw(3 * hidden, hidden),
        "b_ih": draw(3 * hidden), "b_hh": draw(3 * hidden), "out": draw(vocabulary, hidden) * 4,
        "bias": draw(vocabulary), "key": draw(hidden, hidden), "both": draw(vocabulary, 2 * hidden) * 4,
    }  # fmt: skip


def decoder(w: dict[str, np.ndarray], attention: bool) -> cgru.Model:
    d = cgru.Graph()
    token, hidden = d.input(name="token", dtype="int64"), len(w["key"])
    h0 = d.input(hidden, name="h0", time=False)
    gru = cgru.GRU.from_arrays(w["w_ih"], w["w_hh"], w["b_ih"], w["b_hh"])
    y = d.layer(gru, d.layer(cgru.Embedding(w["embedding"]), token), h0)
    if attention:
        memory = d.input(hidden, name="memory", time="memory")
        key = d.dense(memory, units=hidden, weights={"weight": w["key"]})
        y = d.concat(y, d.attend(y, key, memory, memory=True))
    d.output(d.layer(cgru.Dense(w["both" if attention else "out"], w["bias"]), y))
    return cgru.Model(d)


# ---- questions -------------------------------------------------------------------------------------------------------


def timed(runs: dict[str, Callable[[], Any]], per: int) -> dict[str, float]:
    """Median µs of each, in rounds taken in turn."""
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begun = time.perf_counter()
            run()
            spent[name].append((time.perf_counter() - begun) / per * 1e6)
    return {name: float(np.median(times)) for name, times in spent.items()}


def others(names: Sequence[str], w: dict[str, np.ndarray], attention: bool, rows: int, kind: str) -> dict[str, Any]:
    """The other libraries' loops, by name; one that does not take the network is told and left out."""
    letters = HISTORY if kind == "forecast" else LETTERS
    made: dict[str, Any] = {}
    for name in names:
        try:
            if name in decode_torch.WAYS:
                made[name] = decode_torch.Torch(name, w, attention)
            else:
                made[name] = decode_graphs.Graphs(name, w, attention, rows, kind, letters)
        except Exception as error:
            print(f"# {name} is left out: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
    return made


def tokens_of(names: Sequence[str], rows: int, attention: bool, width: int = 0) -> dict[str, float]:
    w, rng = arrays(HIDDEN, VOCABULARY), np.random.default_rng(2)
    net = decoder(w, attention)
    h = rng.standard_normal((rows, HIDDEN)).astype(np.float32) * 0.5
    memory = rng.standard_normal((rows, LETTERS, HIDDEN)).astype(np.float32) * 0.5
    given = {"h0": h, "memory": memory} if attention else {"h0": h}
    peers = others(names, w, attention, width or rows, "beam" if width else "greedy")
    runs: dict[str, Callable[[], Any]] = {}
    if width:
        runs["cgru"] = lambda: cgru.beam(net, inputs=given, start=0, max_steps=STEPS, width=width).tokens[0]
        runs |= {name: partial(peer.beam, h, memory, STEPS, width) for name, peer in peers.items()}
    else:
        runs["cgru"] = lambda: np.stack(cgru.greedy(net, inputs=given, start=0, max_steps=STEPS).tokens)
        runs |= {name: partial(peer.greedy, h, memory, STEPS) for name, peer in peers.items()}
    return timed(agreeing(runs, same), STEPS)


def agreeing(
    runs: dict[str, Callable[[], Any]], check: Callable[[np.ndarray, np.ndarray, str], None]
) -> dict[str, Callable[[], Any]]:
    """Those that run, once each of them has found what cgru finds."""
    wanted, kept = runs["cgru"](), {}
    for name, run in runs.items():
        try:
            found = run()
        except Exception as error:
            print(f"# {name} is left out: {type(error).__name__}: {str(error).splitlines()[0][:200]}", flush=True)
            continue
        check(np.asarray(wanted), np.asarray(found), name)
        kept[name] = run
    return kept


def same(wanted: np.ndarray, found: np.ndarray, name: str) -> None:
    part = (wanted == found).mean() if wanted.shape == found.shape else 0.0
    if part < 0.9:  # a tie within rounding takes two searches apart for good
        raise SystemExit(f"{name} found something else: {part:.0%} alike")


def alike(wanted: np.ndarray, found: np.ndarray, name: str) -> None:
    """Two samples of the same paths, within five standard errors of their means and deviations at every step."""
    error = 5 * wanted.std(axis=0) * (2 / len(wanted)) ** 0.5
    if wanted.shape != found.shape or (np.abs(wanted.mean(axis=0) - found.mean(axis=0)) > error).any():
        raise SystemExit(f"{name} draws other paths")
    if (np.abs(wanted.std(axis=0) - found.std(axis=0)) > error).any():
        raise SystemExit(f"{name} draws paths that spread otherwise")


def forecast(names: Sequence[str], paths: int = 200, hidden: int = 64, steps: int = 52) -> dict[str, float]:
    """A Gaussian head, its draws fed back. The others' normal variates are numpy's, drawn anew in every call."""
    w = arrays(hidden, 2, inputs=1)
    w |= {"out": w["out"] / 8, "bias": np.array([0.0, -1.0], np.float32)}
    net = cgru.Model(
        [cgru.GRU.from_arrays(w["w_ih"], w["w_hh"], w["b_ih"], w["b_hh"]), cgru.Dense(w["out"], w["bias"])]
    )
    history = np.sin(np.arange(HISTORY, dtype=np.float32))[:, None]
    rng = np.random.default_rng(5)
    told: dict[str, Any] = {"steps": steps, "paths": paths, "head": "gaussian", "scale": "log"}

    def drawn(peer: Any) -> np.ndarray:
        made: np.ndarray = peer.paths(history, rng.standard_normal((steps, paths, 1), np.float32))
        return made

    runs: dict[str, Callable[[], Any]] = {"cgru": lambda: cgru.forecast(net, history, **told)[..., 0]}
    for name, peer in others(names, w, False, paths, "forecast").items():
        runs[name] = partial(drawn, peer)
    return timed(agreeing(runs, alike), steps)


def outside() -> dict[str, float]:
    """Greedy decoding, and the same with a network of one unit, in which there is next to nothing to multiply: what of
    a step is not the kernels' (the runner of the graph, the choice among all tokens, the call) is at most so much."""
    found: dict[str, float] = {}
    for attention in (False, True):
        runs: dict[str, Callable[[], Any]] = {}
        for hidden in (HIDDEN, 1):
            net, rng = decoder(arrays(hidden, VOCABULARY), attention), np.random.default_rng(2)
            given = {"h0": rng.standard_normal((1, hidden)).astype(np.float32)}
            if attention:
                given["memory"] = rng.standard_normal((1, LETTERS, hidden)).astype(np.float32)
            runs[str(hidden)] = partial(cgru.greedy, net, inputs=given, start=0, max_steps=STEPS)
        times = timed(runs, STEPS)
        name = "with" if attention else "without"
        found |= {f"{name}: a step": times[str(HIDDEN)], f"{name}: of one unit": times["1"]}
    return found


def top_k(names: Sequence[str], items: int = 1_000_000, features: int = 128, k: int = 20) -> dict[str, float]:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((items, features), np.float32)
    net, x = cgru.Model([cgru.Dense(weight)]), rng.standard_normal((1, features), np.float32)

    def by_numpy() -> np.ndarray:
        scores = weight @ x[0]
        best = np.argpartition(-scores, k)[:k]
        found: np.ndarray = best[np.argsort(-scores[best])]
        return found

    runs: dict[str, Callable[[], Any]] = {"cgru": lambda: net.top_k(x, k)[1][0], "numpy": by_numpy}
    return timed(agreeing(runs, same), 1)


QUESTIONS: dict[str, tuple[str, Callable[[Sequence[str]], dict[str, float]]]] = {
    "greedy": ("greedy, one word", lambda names: tokens_of(names, 1, False)),
    "attention": ("greedy with attention, one word", lambda names: tokens_of(names, 1, True)),
    "batch": ("greedy, 64 words", lambda names: tokens_of(names, 64, False)),
    "batch_attention": ("greedy with attention, 64 words", lambda names: tokens_of(names, 64, True)),
    "beam": ("beam of 5, one word", lambda names: tokens_of(names, 1, False, 5)),
    "beam_attention": ("beam of 5 with attention, one word", lambda names: tokens_of(names, 1, True, 5)),
    "forecast": ("forecast, 200 paths of 64 units", forecast),
    "top_k": ("the best 20 of a million items of 128", top_k),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join((*QUESTIONS, "outside")), help="questions, with commas between")
    parser.add_argument("--peers", default=",".join(PEERS), help="the other libraries, with commas between")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = [name for name in options.peers.split(",") if name]
    if unknown := set(options.only.split(",")) - {*QUESTIONS, "outside"} or set(names) - set(PEERS):
        raise SystemExit(
            f"{', '.join(unknown)}: questions are {', '.join(QUESTIONS)}, outside; peers {', '.join(PEERS)}"
        )
    found = {}
    for name in options.only.split(","):
        if name == "outside":
            times = found[name] = outside()
            for kind in ("without", "with"):
                step, rest = times[f"{kind}: a step"], times[f"{kind}: of one unit"]
                if not options.json:
                    share = f"outside the kernels at most {rest:.2f}: {rest / step:.1%}"
                    print(f"greedy, {kind} attention: {step:.2f} µs a step, {share}", flush=True)
            continue
        title, ask = QUESTIONS[name]
        times = found[name] = ask(names)
        if not options.json:
            others_said = ", ".join(f"{peer} {took:.1f}" for peer, took in times.items() if peer != "cgru")
            best = min((time for peer, time in times.items() if peer != "cgru"), default=float("nan"))
            print(f"{title}: cgru {times['cgru']:.1f} µs, {others_said}; {best / times['cgru']:.2f}×", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
