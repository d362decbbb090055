"""Reduced precision: what a matrix becomes, which layers it reaches, and what a reduced network then computes."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
from agreement import TOLERANCE, assert_same
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from networks import KINDS, Kind, build, draw_input
from strategies import Case

import cgru
from cgru.engine import backends
from cgru.errors import CgruError, CgruWarning, FormatError
from cgru.reports import comparison
from cgru.spec.precision import PRECISIONS, Stored, reduce, widen
from cgru.weights import Weights

REDUCED = PRECISIONS[1:]

#: float32 of every size, some of them half-way between two reduced numbers.
MATRICES = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-60000, 60000, width=32)
    | st.sampled_from([0.0, -0.0, 1.5, 127.0, 63.5, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-11]),
)


# ---- what a matrix becomes: rules written out here, number by number ---------------------------------------------


def int8_row(row: np.ndarray) -> tuple[list[int], np.float32]:
    scale = np.float32(max(abs(float(w)) for w in row)) / np.float32(127)
    # round() of Python goes to the even neighbour.
    return [max(-127, min(127, round(float(w / scale)))) if scale else 0 for w in row], scale


def bf16(number: np.float32) -> int:
    """The bits of the bfloat16 nearest to a number: the two neighbours by truncation, and the closer one."""
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    near = [bits >> 16, (bits >> 16) + 1]
    apart = [abs(struct.unpack("<f", struct.pack("<I", half << 16))[0] - float(number)) for half in near]
    if apart[0] == apart[1]:
        return near[0] + (near[0] & 1)
    return near[apart[1] < apart[0]]


@given(MATRICES)
def test_int8_is_rows_over_their_scales(matrix: np.ndarray) -> None:
    for precision in ("int8", "int8x16"):
        stored = reduce(matrix, precision, "w")
        assert stored.values.dtype == np.int8
        assert stored.scale is not None
        for row, values, scale in zip(matrix, stored.values, stored.scale, strict=True):
            want, want_scale = int8_row(row)
            assert scale.tobytes() == want_scale.tobytes()
            assert values.tolist() == want
        wide = widen(stored, precision)
        assert wide.dtype == np.float32
        # Half a step, but for the roundings of the scale and of the product.
        assert (np.abs(wide - matrix) <= 0.5001 * stored.scale[:, None] + 1e-42).all()


@given(MATRICES)
def test_bf16_is_the_nearest(matrix: np.ndarray) -> None:
    stored = reduce(matrix, "bf16", "w")
    assert stored.scale is None
    assert stored.values.dtype == np.uint16
    assert stored.values.ravel().tolist() == [bf16(number) for number in matrix.ravel()]
    wide = widen(stored, "bf16")
    assert wide.ravel().tolist() == [
        struct.unpack("<f", struct.pack("<I", int(half) << 16))[0] for half in stored.values.ravel()
    ]


@given(MATRICES)
def test_fp16_is_the_nearest(matrix: np.ndarray) -> None:
    stored = reduce(matrix, "fp16", "w")
    assert stored.scale is None
    assert stored.values.tobytes() == b"".join(struct.pack("<e", number) for number in matrix.ravel())
    assert widen(stored, "fp16").ravel().tolist() == [float(number) for number in stored.values.ravel()]


@pytest.mark.parametrize("largest", [np.finfo(np.float32).max, np.float32(1e-44), np.float32(1.2e-38)])
def test_int8_of_the_largest_and_smallest_numbers_is_finite_and_near(largest: np.float32) -> None:
    matrix = largest * np.array([[1, -1, 0.25], [0, 0, 0]], np.float32)
    stored = reduce(matrix, "int8", "w")
    wide = widen(stored, "int8")
    assert np.isfinite(wide).all()
    assert (np.abs(wide - matrix) <= max(float(largest) * 0.005, 1.5e-44)).all()


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_name(precision: str, bad: float) -> None:
    case = Case(3, 4, 2, 1, True, 1, 1, seed=1)
    arrays = case.arrays | {"weight_hh_l1": np.full((12, 4), bad, np.float32)}
    net = cgru.Model([cgru.GRU(arrays, num_layers=2, name="rnn")], backend="reference")
    with pytest.raises(CgruError, match=rf"^rnn: weight_hh_l1: 48 of its numbers are NaN or infinite.*{precision}"):
        net.quantize(precision)


@pytest.mark.parametrize(("precision", "number", "ends"), [("fp16", 65520.0, "65504"), ("bf16", 3.4e38, "3.39e38")])
def test_numbers_beyond_the_range_are_refused(precision: str, number: float, ends: str) -> None:
    net = cgru.Model([cgru.Dense(np.full((2, 3), number))], backend="reference")
    with pytest.raises(CgruError, match=rf"^dense: weight: its largest number is .* and {precision} ends at {ends}"):
        net.quantize(precision)


def test_rows_too_long_for_sums_of_32_bits_are_refused() -> None:
    dense = cgru.Dense(np.ones((1, 131073), np.float32))
    with pytest.raises(CgruError, match="dense: weight: rows of 131073 numbers are too long for int8"):
        dense.quantized("int8")
    assert cgru.Dense(np.ones((1, 131072), np.float32)).quantized("int8").precision == "int8"
    assert dense.quantized("bf16").precision == "bf16"


# ---- which layers it reaches -------------------------------------------------------------------------------------


def network(backend: str | None = None) -> cgru.Model:
    rng = np.random.default_rng(5)
    case = Case(4, 6, 2, 2, True, 1, 1, seed=2)
    return cgru.Model(
        [
            cgru.Embedding(rng.normal(size=(9, 4)).astype("f4")),
            case.gru(),
            cgru.Dense(rng.normal(size=(3, 12)).astype("f4"), rng.normal(size=3).astype("f4"), name="head"),
            cgru.Activation("softmax"),
        ],
        backend=backend,
    )


def precisions(net: cgru.Model) -> list[str]:
    return [layer.precision for layer in net.layers]


@pytest.mark.parametrize("precision", REDUCED)
def test_every_matrix_is_reduced_and_nothing_else(precision: str, backend: str) -> None:
    net = network(backend)
    before = [layer.arrays() for layer in net.layers]
    q = net.quantize(precision)
    assert precisions(q) == [precision] * 3 + ["float32"]
    assert precisions(net) == ["float32"] * 4
    for layer, one, was in zip(net.layers, q.layers, before, strict=True):
        assert (one.name, one.options(), one.parameters) == (layer.name, layer.options(), layer.parameters)
        for name, array in layer.arrays().items():
            assert array.tobytes() == was[name].tobytes()
            held = one.stored()[name]
            if array.ndim == 2:
                assert isinstance(held, Stored)
                wide = one.arrays()[name]
                assert np.array_equal(wide, widen(reduce(array, precision, name), precision))
                assert not np.array_equal(wide, array)
                assert not wide.flags.writeable
            else:
                assert np.array_equal(np.asarray(held), array)


@pytest.mark.parametrize(("precision", "share"), [("int8", 0.3), ("int8x16", 0.3), ("bf16", 0.53), ("fp16", 0.53)])
def test_a_reduced_network_takes_less_memory(precision: str, share: float, backend: str) -> None:
    layers = [Case(32, 128, 1, 1, True, 1, 1, seed=2).gru(), cgru.Dense(np.ones((64, 128)), np.ones(64))]
    net = cgru.Model(layers, backend=backend)
    assert net.quantize(precision).nbytes < share * net.nbytes


def test_peepholes_stay_float32() -> None:
    arrays = Case(2, 3, 1, 1, False, 1, 1, seed=3).weights(
        lambda size: {"weight_ih": (12, size), "weight_hh": (12, 3), "weight_ph": (9,)}, 3
    )
    layer = cgru.LSTM(arrays).quantized("int8")
    held = layer.stored()
    assert isinstance(held["weight_hh_l0"], Stored)
    assert np.array_equal(np.asarray(held["weight_ph_l0"]), arrays["weight_ph_l0"])


def test_layers_by_name() -> None:
    net = network()
    assert precisions(net.quantize({"gru": "int8", "head": "float32"})) == ["float32", "int8", "float32", "float32"]
    assert precisions(net.quantize("bf16", {"gru": "int8"})) == ["bf16", "int8", "bf16", "float32"]
    assert precisions(net.quantize(layers={"head": "float32"})) == ["int8", "int8", "float32", "float32"]
    assert precisions(net.quantize("float32")) == precisions(net.quantize({})) == ["float32"] * 4
    assert precisions(net.quantize({"gru": "int8"}).quantize({"head": "fp16"})) == [
        "float32", "int8", "fp16", "float32",
    ]  # fmt: skip


def test_the_same_precision_again_is_the_same_layers() -> None:
    q = network().quantize("int8")
    assert q.quantize("int8").layers == q.layers


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda net: net.quantize("int4"), "'int4' is no precision; there are float32, int8, int8x16, bf16, fp16"),
        (lambda net: net.quantize(8), "8 is no precision"),
        (lambda net: net.quantize({"gru": "int4"}), "layers: gru: 'int4' is no precision"),
        (lambda net: net.quantize({"rnn": "int8"}), "no layer is named 'rnn'; there are embedding, gru, head, softmax"),
        (lambda net: net.quantize("int8", {"rnn": "int8"}), "no layer is named 'rnn'"),
        (lambda net: net.quantize("int8", ["gru"]), "layers: expected a mapping from name to precision, found list"),
        (lambda net: net.quantize({"softmax": "int8"}), "softmax: a layer of kind activation has no weights to hold"),
        (lambda net: net.quantize("int8").quantize("bf16"), "embedding: its weights are int8 already; quantize the"),
        (lambda net: net.quantize("int8").quantize("float32"), "quantize the float32 network instead"),
        (lambda net: net.quantize("int8").quantize("int8x16"), "its weights are int8 already"),
    ],
)
def test_what_quantize_refuses(call: Callable[[cgru.Model], cgru.Model], says: str) -> None:
    with pytest.raises(CgruError) as caught:
        call(network())
    assert says in str(caught.value)


def test_print_shows_the_precision_of_each_layer() -> None:
    lines = str(network("reference").quantize({"gru": "int8", "head": "bf16"})).splitlines()
    assert lines[0].split() == ["layer", "kind", "sizes", "parameters", "precision", "backend"]
    column = lines[0].index("precision")
    assert [line[column:].split()[0] for line in lines[2:6]] == ["float32", "int8", "bf16", "reference"]
    assert lines[-1].endswith("float32, int8, bf16")
    assert str(network()).endswith("bytes, float32")


# ---- what it computes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", REDUCED)
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("backend", ["reference", "blas"])
def test_these_backends_compute_with_the_widened_weights(backend: str, reset: Any, precision: str) -> None:
    if reason := backends.backend(backend).unavailable():
        pytest.skip(f"backend {backend}: {reason}")
    case = Case(5, 17, 2, 2, True, 3, 11, seed=7, lengths=(11, 4, 0))
    layer = case.gru(reset=reset).quantized(precision)
    out, h_n = layer(case.x, case.h0, case.lengths, backend=backend)
    wide = {
        name: widen(reduce(array, precision, name), precision) if array.ndim == 2 else array
        for name, array in case.arrays.items()
    }
    want, want_h = oracle.gru(wide, case.x, case.h0, case.lengths, **case.stack, reset=reset)
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(h_n, want_h, rtol=0, atol=TOLERANCE)
    exact, _ = oracle.gru(case.arrays, case.x, case.h0, case.lengths, **case.stack, reset=reset)
    assert np.abs(out - exact).max() > 10 * TOLERANCE


@pytest.mark.parametrize("precision", REDUCED)
def test_an_embedding_and_a_dense_layer_compute_with_the_widened_weights(precision: str) -> None:
    rng = np.random.default_rng(9)
    table, weight = rng.normal(size=(7, 5)).astype("f4"), rng.normal(size=(4, 5)).astype("f4")
    bias = rng.normal(size=4).astype("f4")
    net = cgru.Model([cgru.Embedding(table), cgru.Dense(weight, bias)], backend="reference").quantize(precision)
    ids = rng.integers(0, 7, (2, 6))
    wide = [widen(reduce(array, precision, ""), precision).astype(np.float64) for array in (table, weight)]
    np.testing.assert_allclose(net(ids, backend="reference"), wide[0][ids] @ wide[1].T + bias, rtol=0, atol=1e-5)


@given(KINDS, st.sampled_from(REDUCED), st.integers(0, 1000))
def test_a_reduced_network_of_any_kind_is_near_its_original(
    backend: str, kind: Kind, precision: str, seed: int
) -> None:
    net = build(kind, seed, backend)
    if not net.parameters:
        return
    q = net.quantize(precision)
    x = draw_input(kind, 2, 7, seed)
    # A row of weights is off by half a step of its largest, 0.4 %: far less than this for networks as initialised.
    np.testing.assert_allclose(q(x), net(x), rtol=0, atol=0.1)
    stream = q.stream(2)
    assert_same(backend, stream.feed(x), q(x))


def test_a_dump_of_one_precision_is_refused_by_another(backend: str) -> None:
    net = cgru.Model([Case(3, 4, 1, 1, True, 1, 1, seed=4).gru()], backend=backend)
    nets = [net, *(net.quantize(precision) for precision in REDUCED)]
    for one in nets:
        stream = one.stream()
        stream.step(np.ones(3, np.float32))
        blob = stream.dump()
        for other in nets:
            if other is one:
                other.stream().restore(blob)
            else:
                with pytest.raises(FormatError, match="another network"):
                    other.stream().restore(blob)
    # Weights doubled are the same int8 numbers with other scales.
    arrays = {name: array * array.ndim for name, array in net.layers[0].arrays().items()}
    louder = cgru.Model([cgru.GRU(arrays)], backend=backend).quantize("int8")
    assert louder._fingerprint() != nets[1]._fingerprint()
    again = cgru.Model([Case(3, 4, 1, 1, True, 1, 1, seed=4).gru()], backend=backend).quantize("int8")
    assert again._fingerprint() == nets[1]._fingerprint()


# ---- with a sample -----------------------------------------------------------------------------------------------


def slow(monkeypatch: pytest.MonkeyPatch, first: float, second: float) -> None:
    monkeypatch.setattr(comparison, "_times", lambda *_: [first, second])


def test_a_sample_leaves_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 3e-6, 1e-6)
    net, x = network(), np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q = net.quantize("int8", sample=x)
    assert isinstance(q.report, cgru.Comparison)
    assert q.report.output == cgru.compare(net, q, x).output
    assert q.report.speedup == pytest.approx(3)
    assert net.report is None
    assert net.quantize("int8").report is None


def test_a_reduced_network_that_is_slower_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, 1e-6, 2e-6)
    with pytest.warns(CgruWarning, match=r"int8 is slower than float32 here: 2\.0 µs .* 1\.0 µs .*\(1, 3\)") as caught:
        q = network().quantize({"gru": "int8"}, sample=[1, 2, 3])
    assert caught[0].filename == __file__
    assert q.report is not None
    assert q.report.speedup == pytest.approx(0.5)


def test_a_vector_called_weight_stays_float32() -> None:
    """Only what has rows has a scale for each."""
    held = Weights(
        {"weight": np.ones(5, np.float32), "weight_ih": np.ones((2, 3), np.float32)}, {"weight", "weight_ih"}
    )
    for precision in PRECISIONS[1:]:
        reduced = held.reduced(precision, "norm").stored()
        assert isinstance(reduced["weight"], np.ndarray)
        assert reduced["weight"].dtype == np.float32
        assert isinstance(reduced["weight_ih"], Stored)
