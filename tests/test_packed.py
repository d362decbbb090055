"""The packed backend at sizes where its tiles, panels, blocks, chunks and threads begin and end.

``test_laws.py`` holds every backend to the same laws on small networks; here they are held to the bit where blocks
of rows (128), chunks of time (256 rows times steps), several panels and several threads come into play.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
import warnings
from itertools import pairwise

import isa
import numpy as np
import pytest
from agreement import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Case, cuts

import cgru

isa.require()

ODD = (1, 3, 7, 15, 16, 17, 63, 154, 250)
RESETS = ("after", "before")
MERGES = ("concat", "sum", "mul", "ave")


def bits(got: np.ndarray, want: np.ndarray, what: str = "") -> None:
    assert_same("packed", np.ascontiguousarray(got), np.ascontiguousarray(want), what)


# ---- networks of every kind --------------------------------------------------------------------------------------


def dense(outputs: int, inputs: int, activation: str) -> cgru.Dense:
    rng = np.random.default_rng(outputs)
    bound = 1 / np.sqrt(inputs)
    weight = rng.uniform(-bound, bound, (outputs, inputs)).astype(np.float32)
    return cgru.Dense(weight, rng.uniform(-bound, bound, outputs).astype(np.float32), activation=activation)


def network(kind: str, case: Case, reset: str, merge: str) -> cgru.Model:
    """A network around the GRU of ``case``, whose directions and layers say what it is."""
    both = case.directions == 2
    width = case.hidden * (2 if both and merge == "concat" else 1)
    options = {"reset": reset, "merge_mode": merge}
    layers: list[cgru.layers.Layer]
    if kind == "plain":
        layers = [case.gru(**options)]
    elif kind == "head":
        layers = [case.gru(**options), dense(19, width, "tanh"), dense(5, 19, "softmax")]
    elif kind == "last":
        layers = [case.gru(**options, return_sequences=False), dense(5, width, "softmax")]
    elif kind == "hidden dense":
        layers = [dense(case.inputs, case.inputs, "relu"), cgru.Activation("tanh"), case.gru(**options)]
    elif kind == "masking":
        layers = [cgru.Masking(0.0), case.gru(**options), dense(3, width, "linear")]
    elif kind == "two":
        second = Case(width, 33, 1, 1, True, 1, 1, seed=case.seed + 1)
        layers = [case.gru(**options, zero_output_for_mask=True), dense(width, width, "linear"), second.gru()]
    else:
        assert kind == "embedding"
        table = np.random.default_rng(case.seed).standard_normal((13, case.inputs)).astype(np.float32)
        layers = [cgru.Embedding(table, mask_zero=True), case.gru(**options), dense(3, width, "linear")]
    return cgru.Model(layers, backend="packed")


KINDS = ("plain", "head", "last", "hidden dense", "masking", "two", "embedding")


@st.composite
def big(draw: st.DrawFn, directions: int | None = None) -> Case:
    """Networks with several panels and batches with several tiles or blocks; not much work in any of them."""
    hidden, inputs = draw(st.sampled_from(ODD[3:])), draw(st.sampled_from(ODD))
    batch = draw(st.sampled_from((1, 2, 3, 5, 8, 9, 17, 33, 129, 140)))
    layers, both = draw(st.integers(1, 3)), draw(st.integers(1, 2)) if directions is None else directions
    a_step = 3 * batch * layers * both * hidden * (hidden + inputs)
    longest = max(1, min(50, 40_000_000 // a_step))
    steps = draw(st.integers(1, longest))
    lengths = draw(st.none() | st.lists(st.integers(0, steps), min_size=batch, max_size=batch).map(tuple))
    masked, seed = draw(st.booleans()), draw(st.integers(0, 2**32 - 2))
    return Case(inputs, hidden, layers, both, draw(st.booleans()), batch, steps, seed, lengths, masked)


def features(case: Case) -> np.ndarray:
    """Normal, but smaller where many inputs meet few units: weights are within 1/√H, so that the sums over I
    inputs, and what float32 rounds off them, would grow with √(I/H)."""
    return case.x * np.float32(min(1.0, np.sqrt(4 * case.hidden / case.inputs)))


def inputs_of(kind: str, case: Case) -> np.ndarray:
    if kind == "embedding":
        return np.random.default_rng(case.seed).integers(0, 13, (case.batch, case.steps))
    x = features(case)
    if kind == "masking":
        x[np.random.default_rng(case.seed).random(x.shape[:2]) < 0.3] = 0
    return x


def begin(net: cgru.Model, case: Case) -> cgru.State:
    """A state of the network that is zero nowhere."""
    rng = np.random.default_rng((case.seed, 7))
    zeros = net.state(batch=case.batch).arrays()
    return net.state(
        {key: rng.uniform(-1, 1, array.shape).astype(np.float32) for key, array in zeros.items()}, batch=case.batch
    )


# ---- laws, to the bit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(case=big(), threads=st.integers(2, 4), reset=st.sampled_from(RESETS), merge=st.sampled_from(MERGES))
def test_threads_do_not_matter(kind: str, case: Case, threads: int, reset: str, merge: str) -> None:
    net, x = network(kind, case, reset, merge), inputs_of(kind, case)
    state = begin(net, case)
    want, want_state = net.run(x, state, case.lengths, case.mask)
    got, got_state = net.run(x, state, case.lengths, case.mask, threads=threads)
    bits(got, want)
    bits(got_state.data, want_state.data, "state")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(data=st.data(), case=big(), reset=st.sampled_from(RESETS), merge=st.sampled_from(MERGES))
def test_rows_do_not_matter_to_each_other(kind: str, data: st.DataObject, case: Case, reset: str, merge: str) -> None:
    """In another order, in two batches, and singly: the same rows."""
    net, x = network(kind, case, reset, merge), inputs_of(kind, case)
    state = begin(net, case)
    want, want_state = net.run(x, state, case.lengths, case.mask)
    order = np.random.default_rng(case.seed).permutation(case.batch)
    cut = data.draw(st.integers(0, case.batch))
    single = data.draw(st.integers(0, case.batch - 1))
    for rows in (order[:cut], order[cut:], np.array([single])):
        if not len(rows):
            continue
        given_state = {key: array[:, rows] for key, array in state.arrays().items()}
        lengths = None if case.lengths is None else np.array(case.lengths)[rows]
        mask = None if case.mask is None else case.mask[rows]
        got, got_state = net.run(x[rows], given_state, lengths, mask)
        bits(got, want[rows], f"{len(rows)} rows")
        bits(got_state.data, want_state.data[rows], f"state of {len(rows)} rows")


def same_when_cut(
    net: cgru.Model, x: np.ndarray, state: cgru.State, case: Case, threads: int, data: st.DataObject
) -> None:
    """Drawn chunks of time, each from the state of the one before, give the whole's outputs and state to the bit."""
    want, want_state = net.run(x, state, None, case.mask)
    pieces, ends = [], data.draw(cuts(case.steps))
    for a, b in pairwise(ends):
        y, state = net.run(x[:, a:b], state, None, None if case.mask is None else case.mask[:, a:b], threads=threads)
        pieces.append(y)
    bits(np.concatenate(pieces, axis=1), want, f"cut at {ends}")
    bits(state.data, want_state.data, "state")


@pytest.mark.parametrize("kind", ["plain", "head", "hidden dense", "masking", "two", "embedding"])
@settings(max_examples=30)
@given(data=st.data(), case=big(directions=1), threads=st.integers(1, 3), reset=st.sampled_from(RESETS))
def test_cuts_in_time_do_not_matter(kind: str, data: st.DataObject, case: Case, threads: int, reset: str) -> None:
    net = network(kind, case, reset, "concat")
    same_when_cut(net, inputs_of(kind, case), begin(net, case), case, threads, data)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize(("batch", "steps"), [(1, 700), (3, 300), (140, 9)])
def test_step_by_step_is_whole(reset: str, batch: int, steps: int) -> None:
    """Beyond a chunk of time (256) and a block of rows (128), and one step at a time, which runs another way."""
    case = Case(7, 33, 2, 1, True, batch, steps, seed=steps)
    net = network("head", case, reset, "concat")
    state = begin(net, case)
    want, want_state = net.run(case.x, state)
    for t in range(steps):
        y, state = net.run(case.x[:, t : t + 1], state)
        bits(y[:, 0], want[:, t], f"step {t}")
    bits(state.data, want_state.data, "state")


@pytest.mark.parametrize("cell", ["after", "before", "lstm"])
@pytest.mark.parametrize(("inputs", "hidden", "steps"), [(9, 112, 47), (33, 128, 73), (150, 129, 22), (200, 96, 40)])
def test_the_input_side_of_later_steps_is_made_beside_a_row(cell: str, inputs: int, hidden: int, steps: int) -> None:
    """A row by itself, over weights that leave the first-level cache, makes its input side beside its steps.
    Among other rows it is made before them, and a single step knows no later ones.
    """
    rng = np.random.default_rng(hidden)
    gates = 4 if cell == "lstm" else 3
    shapes: dict[str, tuple[int, ...]] = {"bias_ih": (gates * hidden,), "bias_hh": (gates * hidden,)}
    shapes |= {"weight_ih": (gates * hidden, inputs), "weight_hh": (gates * hidden, hidden)}
    weights = {
        f"{name}_l0{end}": (rng.uniform(-1, 1, shape) / np.sqrt(hidden)).astype(np.float32)
        for name, shape in shapes.items()
        for end in ("", "_reverse")
    }
    forward = {name: array for name, array in weights.items() if not name.endswith("_reverse")}

    def network(arrays: dict[str, np.ndarray], both: bool) -> cgru.Model:
        if cell == "lstm":
            return cgru.Model([cgru.LSTM(arrays, bidirectional=both)], backend="packed")
        return cgru.Model([cgru.GRU(arrays, reset=cell, bidirectional=both)], backend="packed")

    x = rng.standard_normal((2, steps, inputs)).astype(np.float32)
    net = network(weights, True)
    together = net(x)
    for row in range(2):
        bits(net(x[row]), together[row], f"row {row} of {steps} steps")
    net = network(forward, False)
    stream = net.stream()
    bits(net(x[0]), np.stack([stream.step(v) for v in x[0]]), "step by step")


@settings(max_examples=30)
@given(case=big(), kind=st.sampled_from(["plain", "head", "masking"]), threads=st.integers(1, 2))
def test_strides_do_not_matter(case: Case, kind: str, threads: int) -> None:
    """Time first, and rows, steps and features of something larger: for the input and for out=."""
    net, x = network(kind, case, "after", "concat"), inputs_of(kind, case)
    want, _ = net.run(x, None, case.lengths, case.mask)
    inside = np.full((2 * case.batch, case.steps + 1, case.inputs + 2), np.nan, np.float32)[::2, 1:, 1:-1]
    inside[...] = x
    for layout in (inside, np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1), np.asfortranarray(x)):
        room = np.full((case.steps, 2 * case.batch, want.shape[2] + 5), 7, np.float32)
        out = room[:, ::2, 2:-3].swapaxes(0, 1)
        net.run(layout, None, case.lengths, case.mask, out=out, threads=threads)
        bits(out, want)
        assert (room[:, 1::2] == 7).all()
        assert (room[..., :2] == 7).all()
        assert (room[..., -3:] == 7).all()


def test_unaligned_memory_is_copied() -> None:
    """Features, ids and weights that begin at an odd byte reach the kernels from an address a float may have.

    What they compute is the same either way on most processors: the sanitizers (tools/sanitize.sh) tell.
    """
    from cgru.arrays import own
    from cgru.engine.backends.packed import _adjacent

    for dtype in (np.float32, np.int64):
        odd = np.frombuffer(bytes(1 + 24 * np.dtype(dtype).itemsize), dtype, 24, offset=1).reshape(2, 3, 4)
        assert not odd.flags.aligned
        for x in (odd, odd[:, ::2]):
            assert _adjacent(x).flags.aligned
            assert np.array_equal(_adjacent(x), x)
    assert own(odd[0].view(np.float32), "weight", 2).flags.aligned


@pytest.mark.parametrize("batch", [127, 128, 129, 256, 257, 300])
def test_blocks_of_rows(batch: int) -> None:
    """Rows on either side of the end of a block, with lengths, are what they are alone."""
    rng = np.random.default_rng(batch)
    lengths = tuple(int(n) for n in rng.integers(0, 5, batch))
    case = Case(5, 18, 2, 2, True, batch, 4, seed=batch, lengths=lengths)
    net = network("head", case, "after", "concat")
    want, want_state = net.run(case.x, None, lengths)
    near, _ = net.run(case.x, None, lengths, backend="reference")
    np.testing.assert_allclose(want, near, rtol=0, atol=2e-6)
    for b in sorted({0, 126, 127, 128, 129, 255, 256, batch - 1} & set(range(batch))):
        got, got_state = net.run(case.x[b], None, lengths[b])
        bits(got, want[b], f"row {b}")
        bits(got_state.data[0], want_state.data[b], f"state of row {b}")


# ---- the reference, within a tolerance ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(case=big(), threads=st.integers(1, 3), reset=st.sampled_from(RESETS), merge=st.sampled_from(MERGES))
def test_within_2e_6_of_float64(kind: str, case: Case, threads: int, reset: str, merge: str) -> None:
    net, x = network(kind, case, reset, merge), inputs_of(kind, case)
    state = begin(net, case)
    got, got_state = net.run(x, state, case.lengths, case.mask, threads=threads)
    want, want_state = net.run(x, state, case.lengths, case.mask, backend="reference")
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
    np.testing.assert_allclose(got_state.data, want_state.data, rtol=0, atol=2e-6)


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("hidden", ODD)
def test_every_odd_size(reset: str, hidden: int) -> None:
    """As hidden units beside every number of inputs, in batches that end every tile."""
    for inputs in ODD:
        for batch in (1, 4, 11):
            case = Case(inputs, hidden, 1, 1, True, batch, 3, seed=inputs)
            gru = case.gru(reset=reset)
            got, want = (gru(features(case), case.h0, backend=name)[0] for name in ("packed", "reference"))
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-6, err_msg=f"I={inputs} B={batch}")


@pytest.mark.parametrize("batch", range(1, 26))
def test_every_tile_of_rows(batch: int) -> None:
    """Each number of rows in a tile beside each number of panels in a group, both resets."""
    for hidden in (4, 20, 36, 52, 68, 132):
        for reset in RESETS:
            case = Case(5, hidden, 1, 1, True, batch, 2, seed=batch)
            gru = case.gru(reset=reset)
            got, want = (gru(case.x, case.h0, backend=name)[0] for name in ("packed", "reference"))
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-6, err_msg=f"H={hidden} {reset}")


def test_backwards_and_last_output_under_threads() -> None:
    """go_backwards with lengths and gaps, whole and its last output alone: as the reference, with any threads."""
    rng = np.random.default_rng(5)
    case = Case(64, 96, 1, 1, True, 3, 60, seed=5, lengths=(60, 0, 31), masked=True)
    for sequences in (True, False):
        for zero in (True, False):
            layer = case.gru(go_backwards=True, return_sequences=sequences, zero_output_for_mask=zero)
            net = cgru.Model([layer, dense(4, 96, "linear")], backend="packed")
            x = rng.standard_normal((3, 60, 64)).astype(np.float32)
            want, _ = net.run(x, None, case.lengths, case.mask)
            near, _ = net.run(x, None, case.lengths, case.mask, backend="reference")
            np.testing.assert_allclose(want, near, rtol=0, atol=2e-6)
            for threads in (2, 3, 4):
                bits(net.run(x, None, case.lengths, case.mask, threads=threads)[0], want)


# ---- what is not a number, not finite, or hardly a number ----------------------------------------------------------


@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_number_stays_in_its_row(reset: str, value: float) -> None:
    """In rows at every place of a tile and in the last units of a panel; the others keep their bits."""
    case = Case(5, 37, 2, 1, True, 19, 4, seed=6)
    net = network("head", case, reset, "concat")
    clean, _ = net.run(case.x)
    for row in range(case.batch):
        x = case.x.copy()
        x[row, 1, 2] = value
        got, state = net.run(x)
        others = np.arange(case.batch) != row
        bits(got[others], clean[others], f"beside row {row}")
        bits(got[row, :1], clean[row, :1], f"row {row} before the bad number")
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            near, near_state = net.run(x[row], backend="reference")
        np.testing.assert_allclose(got[row], near, rtol=0, atol=2e-6, equal_nan=True)
        for key, array in state.arrays().items():
            np.testing.assert_allclose(array[:, row], near_state.arrays()[key][:, 0], rtol=0, atol=2e-6)
        if np.isnan(value):
            assert np.isnan(got[row, 1:]).all()
        else:
            assert np.isfinite(got).all()


def test_nan_in_a_state_stays_in_its_row() -> None:
    for reset in RESETS:
        case = Case(5, 37, 1, 1, True, 11, 3, seed=8)
        h0 = case.h0.copy()
        h0[0, 7, 36] = np.nan
        gru = case.gru(reset=reset)
        got, clean = (gru(case.x, h, backend="packed")[0] for h in (h0, case.h0))
        assert np.isnan(got[7]).all()
        others = np.arange(11) != 7
        bits(got[others], clean[others])


def halving(hidden: int) -> cgru.GRU:
    """A GRU without weights: both gates are 1/2 and the candidate is 0, so that h halves at every step, exactly."""
    arrays = {"weight_ih_l0": np.zeros((3 * hidden, 1)), "weight_hh_l0": np.zeros((3 * hidden, hidden))}
    return cgru.GRU({key: array.astype(np.float32) for key, array in arrays.items()})


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormals_are_flushed(threads: int) -> None:
    """A decaying state keeps its bits down to the smallest normal number and then is zero, in workers too."""
    hidden, batch, steps = 65, 40, 140
    x = np.zeros((batch, steps, 1), np.float32)
    y, h = halving(hidden)(x, np.ones((1, batch, hidden), np.float32), threads=threads, backend="packed")
    want = np.ldexp(np.float32(1), -np.arange(1, steps + 1)).astype(np.float32)
    want[126:] = 0
    bits(y, np.broadcast_to(want[:, None], y.shape))
    assert not h.any()


def test_a_subnormal_input_is_zero() -> None:
    case = Case(3, 5, 1, 1, True, 2, 3, seed=9)
    arrays = {key: array * np.float32(2.0**120) if "weight_ih" in key else array for key, array in case.arrays.items()}
    tiny = np.full(case.x.shape, 1e-40, np.float32)
    assert tiny.all()
    gru = cgru.GRU(arrays)
    bits(gru(tiny, case.h0, backend="packed")[0], gru(np.zeros_like(tiny), case.h0, backend="packed")[0])


class FloatMode:
    """The calling thread's floating-point control word, through the C library."""

    def __init__(self) -> None:
        machine = platform.machine()
        if not sys.platform.startswith("linux") or machine not in ("x86_64", "aarch64"):
            pytest.skip(f"the layout of fenv_t is known here for Linux on x86-64 and AArch64, not for {machine}")
        self.libm = ctypes.CDLL("libm.so.6")
        # x86-64: the x87 environment and then MXCSR, its low six bits sticky flags; AArch64: FPCR and then FPSR.
        self.offset, self.control = (28, 0xFFC0) if machine == "x86_64" else (0, 0xFFFFFFFF)
        self.flush = 0x8040 if machine == "x86_64" else 1 << 24
        self.rounding = 0x6000 if machine == "x86_64" else 3 << 22  # towards zero

    def _environment(self) -> ctypes.Array[ctypes.c_char]:
        buffer = ctypes.create_string_buffer(64)
        assert self.libm.fegetenv(buffer) == 0
        return buffer

    def get(self) -> int:
        return struct.unpack_from("<I", self._environment(), self.offset)[0] & self.control

    def set(self, word: int) -> None:
        buffer = self._environment()
        struct.pack_into("<I", buffer, self.offset, word)
        assert self.libm.fesetenv(buffer) == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("rounding", [False, True])
def test_the_caller_keeps_its_floating_point_mode(threads: int, flush: bool, rounding: bool) -> None:
    mode = FloatMode()
    case = Case(16, 128, 1, 1, True, 4, 30, seed=10)
    net = network("head", case, "after", "concat")
    before = mode.get()
    mine = before | (mode.flush if flush else 0) | (mode.rounding if rounding else 0)
    mode.set(mine)
    try:
        net.run(case.x, threads=threads)
        after = mode.get()
    finally:
        mode.set(before)
    assert after == mine
    assert mode.get() == before


def test_subnormals_survive_beside_calls() -> None:
    """What numpy computes after a call is not flushed."""
    case = Case(16, 128, 1, 1, True, 4, 30, seed=10)
    for threads in (1, 2):
        case.gru()(case.x, backend="packed", threads=threads)
        assert np.float32(1e-30) * np.float32(1e-10) > 0


# ---- weights and memory --------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(case=big(), reset=st.sampled_from(RESETS))
def test_weights_come_back_as_they_went_in(case: Case, reset: str) -> None:
    gru, last = case.gru(reset=reset), dense(17, case.hidden * case.directions, "linear")
    arrays, dense_arrays = gru.arrays(), last.arrays()
    held = gru.nbytes + last.nbytes
    net = cgru.Model([gru, last], backend="packed")
    net.run(case.x)
    for layer, before in zip(net.layers, (arrays, dense_arrays), strict=True):
        assert all(part._held is None for part in layer.weights.values()), "the unpacked copy is let go of"
        after = layer.arrays()
        assert list(after) == list(before)
        for key in before:
            bits(after[key], before[key], key)
    # Units are padded to whole panels of at most 16, and the biases are kept twice.
    padded = held * (case.hidden + 15) / case.hidden
    assert held <= net.nbytes <= 2 * padded + 10_000
    if case.hidden > 100 and case.hidden % 16 == 0:
        assert net.nbytes < 1.1 * held


def test_odd_weights_come_back_too() -> None:
    """NaN, −0, infinities and subnormals in weights and biases keep their bits."""
    case = Case(3, 17, 1, 1, True, 1, 1, seed=11)
    odd = np.array([np.nan, -0.0, np.inf, -np.inf, 1e-40, 0.0], np.float32)
    arrays = {key: np.resize(odd, array.shape) for key, array in case.arrays.items()}
    for reset in RESETS:
        gru = cgru.GRU(arrays, reset=reset)
        cgru.Model([gru], backend="packed")
        for key, array in gru.arrays().items():
            bits(array, arrays[key], key)


LONG = """
import resource
import numpy as np
import cgru
from strategies import Case

case = Case(4, 32, 3, 1, True, 1, 1, seed=1)
net = cgru.Model([case.gru(), cgru.Dense(np.ones((1, 32), np.float32)), case_2.gru(return_sequences=False)])
x = np.zeros((1, 1, 4), np.float32)
def peak(steps):
    net.run(np.broadcast_to(x, (1, steps, 4)), threads=THREADS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak(3000)
before = peak(3000)
found = {"grown": peak(300_000) - before}
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_scratch_does_not_grow_with_time(threads: int) -> None:
    """A hundred times the steps, whose projected input would fill 115 MB, take no more than 4 MB more."""
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is asked of getrusage in KiB, which is Linux' unit")
    code = LONG.replace("case_2", "Case(1, 32, 1, 1, True, 1, 1, seed=2)").replace("THREADS", str(threads))
    assert isa.arrays(code, None)["grown"] < 4096
