"""Whatever a caller may pass by mistake: a CgruError that names the argument, what was expected, what was found.

The model is left as it was, and so is everything that was passed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from strategies import Case

import cgru
from cgru import CgruError, FormatError, ShapeError, UnsupportedError
from cgru.engine import backends

CASE = Case(3, 4, 2, 1, True, 2, 5, seed=1)
NET = cgru.Model([CASE.gru()])
X = CASE.x
STATE = {"gru.h": CASE.h0}
IDS = cgru.Model([cgru.Embedding(np.ones((10, 3), np.float32)), CASE.gru()])


def refused(*words: str, kind: type[CgruError] = CgruError) -> Any:
    """The call is refused with a message that holds ``words`` in this order."""
    return pytest.raises(kind, match="(?s)" + ".*".join(map(re.escape, words)))


@pytest.fixture(autouse=True)
def unharmed() -> Iterator[None]:
    """After every refusal the same networks still give the same numbers, and their input is as it was."""
    want, kept, h0 = NET.run(X, STATE)[0], X.copy(), CASE.h0.copy()
    yield
    assert np.array_equal(X, kept)
    assert np.array_equal(CASE.h0, h0)
    assert np.array_equal(NET.run(X, STATE)[0], want)


class Hostile:
    """An object that raises when numpy looks at it."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no")


# ---- x --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [0, 1, 2, 4, 300])
def test_wrong_number_of_features(features: int) -> None:
    with refused("x", "3 features", f"(2, 5, {features})", kind=ShapeError):
        NET(np.zeros((2, 5, features), np.float32))


def test_features_first() -> None:
    with refused("x", "3 features", "(2, 3, 5)", kind=ShapeError):
        NET(X.transpose(0, 2, 1))


@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 5, 3), (1, 1, 2, 5, 3)])
def test_wrong_number_of_axes(shape: tuple[int, ...]) -> None:
    with refused("x", "2 or 3 axes", f"found {len(shape)}", str(shape), kind=ShapeError):
        NET(np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint8", "uint64", "bool"])
def test_integers_are_refused_with_advice(dtype: str) -> None:
    with refused("x", "real floating-point", dtype, "astype('float32')", kind=ShapeError):
        NET(np.ones((2, 5, 3), dtype))


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "object", "U3", "S3", "datetime64[s]", "V4"])
def test_what_is_no_real_number(dtype: str) -> None:
    with refused("x", "real floating-point", "found dtype", kind=ShapeError):
        NET(np.zeros((2, 5, 3), dtype))


def test_structured_array() -> None:
    with refused("x", "real floating-point", kind=ShapeError):
        NET(np.zeros((2, 5), [("a", "f4"), ("b", "f4"), ("c", "f4")]))


def test_object_array_of_floats() -> None:
    with refused("x", "object", kind=ShapeError):
        NET(X.astype(object))


def test_none() -> None:
    with refused("x", "object", kind=ShapeError):
        NET(None)


def test_a_string() -> None:
    with refused("x", "expected real floating-point", kind=ShapeError):
        NET("input.npy")


def test_ragged_lists() -> None:
    with refused("x", "not an array", kind=ShapeError):
        NET([[[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])


def test_empty_list() -> None:
    with refused("x", "axes", "found 1", kind=ShapeError):
        NET([])


def test_a_dictionary() -> None:
    with refused("x", "no input 'sound'", "it takes x"):
        NET({"sound": X})
    assert np.array_equal(NET({"x": X}), NET(X))


def test_an_object_that_raises() -> None:
    with refused("x", "not an array of numbers", "no", kind=ShapeError):
        NET(Hostile())


def test_lists_of_floats_are_fine() -> None:
    assert np.array_equal(NET(X.tolist()), NET(X))


# ---- ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 10, 2**40])
def test_id_outside_the_vocabulary(bad: int) -> None:
    with refused("x", f"token id {bad}", "[0, 10)"):
        IDS(np.array([[1, 2, bad, 3]]))


def test_id_beyond_int64() -> None:
    with refused("x", f"token id {2**63 + 5}", "[0, 10)"):
        IDS(np.array([[1, 2**63 + 5]], np.uint64))


@pytest.mark.parametrize("dtype", ["float32", "bool", "complex64", "object", "U1"])
def test_ids_that_are_no_integers(dtype: str) -> None:
    with refused("x", "integer token ids", "found dtype", kind=ShapeError):
        IDS(np.ones((2, 5), dtype))


@pytest.mark.parametrize("shape", [(), (1, 2, 3), (1, 1, 1, 1)])
def test_ids_of_wrong_axes(shape: tuple[int, ...]) -> None:
    with refused("x", "(B, T) or (T,)", str(shape), kind=ShapeError):
        IDS(np.ones(shape, np.int64))


def test_ids_that_raise() -> None:
    with refused("x", "not an array of integers", kind=ShapeError):
        IDS(Hostile())


# ---- lengths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 6, -(2**40), 2**40])
def test_length_outside_the_sequence(bad: int) -> None:
    with refused("lengths", str(bad), "outside [0, T]", "T = 5"):
        NET(X, [3, bad])


def test_length_beyond_int64() -> None:
    with refused("lengths", str(2**64 - 1), "outside"):
        NET(X, np.array([3, 2**64 - 1], np.uint64))


@pytest.mark.parametrize("lengths", [[3], [3, 3, 3], [[3, 3]], [[3], [3]], 3, []])
def test_lengths_of_wrong_shape(lengths: Any) -> None:
    with refused("lengths", "expected shape (2,)", "found", kind=ShapeError):
        NET(X, lengths)


@pytest.mark.parametrize("lengths", [[3.0, 2.0], [True, False], ["3", "2"], [3, None], [3j, 2j], "33"])
def test_lengths_that_are_no_integers(lengths: Any) -> None:
    with refused("lengths", "expected integers", "found dtype", kind=ShapeError):
        NET(X, lengths)


def test_ragged_lengths() -> None:
    with refused("lengths", "not an array", kind=ShapeError):
        NET(X, [[1], [1, 2]])


def test_lengths_that_raise() -> None:
    with refused("lengths", "not an array", kind=ShapeError):
        NET(X, Hostile())


# ---- mask -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int64", "float32", "object", "U1"])
def test_mask_of_wrong_dtype(dtype: str) -> None:
    with refused("mask", "expected booleans", "found dtype", "mask != 0", kind=ShapeError):
        NET(X, mask=np.ones((2, 5), dtype))


@pytest.mark.parametrize("shape", [(5,), (2,), (2, 4), (5, 2), (1, 5), (2, 5, 1), ()])
def test_mask_of_wrong_shape(shape: tuple[int, ...]) -> None:
    with refused("mask", "expected shape (2, 5)", f"found {shape}", kind=ShapeError):
        NET(X, mask=np.ones(shape, bool))


def test_ragged_mask() -> None:
    with refused("mask", "not an array", kind=ShapeError):
        NET(X, mask=[[True], [True, False]])


# ---- state and h0 ---------------------------------------------------------------------------------------


def test_state_of_another_network() -> None:
    other = cgru.Model([Case(3, 6, 1, 1, True, 2, 5, seed=2).gru()])
    with refused("state", "another network", "gru.h (2, 2, 4)", "gru.h (1, 2, 6)"):
        NET.run(X, other.state(batch=2))


def test_state_of_a_network_alike_is_accepted() -> None:
    twin = cgru.Model([CASE.gru()])
    assert np.array_equal(NET.run(X, twin.state(STATE, batch=2))[0], NET.run(X, STATE)[0])


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_state_of_another_batch(batch: int) -> None:
    with refused("state", "expected 2 rows", f"found {batch}", kind=ShapeError):
        NET.run(X, NET.state(batch=batch))


def test_state_of_unknown_name() -> None:
    with refused("state", "'lstm.c'", "carries gru.h"):
        NET.run(X, {"lstm.c": CASE.h0})


@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 4), (1, 2, 4), (2, 2, 3), (2, 3, 4)])
def test_state_array_of_wrong_shape(shape: tuple[int, ...]) -> None:
    with refused("state 'gru.h'", "expected shape (2, 2, 4)", str(shape), kind=ShapeError):
        NET.run(X, {"gru.h": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("shape", [(4,), (1, 2, 2, 4)])
def test_state_array_of_wrong_axes(shape: tuple[int, ...]) -> None:
    with refused("state 'gru.h'", "axes", str(shape), kind=ShapeError):
        NET.run(X, {"gru.h": np.zeros(shape, np.float32)})


@pytest.mark.parametrize("dtype", ["int64", "complex64", "object"])
def test_state_array_of_wrong_dtype(dtype: str) -> None:
    with refused("state 'gru.h'", "real floating-point", dtype, kind=ShapeError):
        NET.run(X, {"gru.h": np.zeros((2, 2, 4), dtype)})


@pytest.mark.parametrize("state", [0, "zero", [1, 2], np.zeros((2, 2, 4), np.float32)])
def test_state_of_wrong_kind(state: Any) -> None:
    with refused("state", "cgru.State or a mapping", type(state).__name__):
        NET.run(X, state)


def test_h0_transposed() -> None:
    case = Case(3, 4, 1, 1, True, 2, 5, seed=3)
    with refused("h0: ", "(1, 2, 4)", "(2, 1, 4)", kind=ShapeError):
        case.gru()(case.x, case.h0.transpose(1, 0, 2))


def test_h0_as_a_pair() -> None:
    with refused("h0: ", "axes", kind=ShapeError):
        CASE.gru()(X, (CASE.h0, CASE.h0))


def test_c0_of_another_batch() -> None:
    lstm = cgru.LSTM.from_arrays(np.ones((16, 3), np.float32), np.ones((16, 4), np.float32))
    h0, c0 = np.zeros((1, 2, 4), np.float32), np.zeros((1, 3, 4), np.float32)
    with refused("c0: ", "(1, 2, 4)", "(1, 3, 4)", kind=ShapeError):
        lstm(np.zeros((2, 5, 3), np.float32), (h0, c0))


def test_x_is_looked_at_before_h0() -> None:
    with refused("x: ", "features", kind=ShapeError):
        CASE.gru()(X[..., :1], CASE.h0[:, :1])


# ---- out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 4, 4), (5, 4), (1, 2, 5, 4), (40,)])
def test_out_of_wrong_shape(shape: tuple[int, ...]) -> None:
    with refused("out", "float32 array of shape (2, 5, 4)", str(shape), kind=ShapeError):
        NET.run(X, out=np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "object"])
def test_out_of_wrong_dtype(dtype: str) -> None:
    with refused("out", "float32", dtype, kind=ShapeError):
        NET.run(X, out=np.zeros((2, 5, 4), dtype))


def test_out_of_other_byte_order() -> None:
    with refused("out", "float32", kind=ShapeError):
        NET.run(X, out=np.zeros((2, 5, 4), ">f4"))


def test_out_that_is_no_array() -> None:
    with refused("out", "float32 array", "list", kind=ShapeError):
        NET.run(X, out=[[0.0]])  # type: ignore[arg-type]


def test_out_that_is_read_only() -> None:
    out = np.zeros((2, 5, 4), np.float32)
    out.flags.writeable = False
    with refused("out", "read-only", kind=ShapeError):
        NET.run(X, out=out)


def test_out_for_two_outputs() -> None:
    net = cgru.Model([Case(3, 4, 1, 2, True, 2, 5, seed=4).gru(merge_mode=None)])
    with refused("out", "several arrays", kind=UnsupportedError):
        net.run(X, out=np.zeros((2, 5, 8), np.float32))


def test_out_is_untouched_by_a_refusal() -> None:
    out = np.full((2, 5, 4), 7, np.float32)
    with refused("lengths"):
        NET.run(X, lengths=[9, 9], out=out)
    assert (out == 7).all()


# ---- threads and backend --------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, -2, 1.5, "many", "2", [1], float("nan")])
def test_bad_threads(threads: Any) -> None:
    with refused("threads", "expected", "at least 1" if threads in (0, -2) else "whole number"):
        NET(X, threads=threads)


@pytest.mark.parametrize("threads", [4097, 10**11, 10**30])
def test_far_too_many_threads(threads: int) -> None:
    with refused("threads", "at most 4096", str(threads)):
        NET(X, threads=threads)


@pytest.mark.parametrize("text", ["0", "-3", "lots", "2.0", "1;2"])
def test_garbage_in_cgru_num_threads(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("CGRU_NUM_THREADS", text)
        with refused(f"CGRU_NUM_THREADS={text!r}", "whole number"):
            NET(X)


@pytest.mark.parametrize("backend", ["", "fast", "PACKED", 3, ["blas"], b"blas", True])
def test_unknown_backend(backend: Any) -> None:
    for call in (lambda: NET(X, backend=backend), lambda: cgru.Model([CASE.gru()], backend=backend)):
        with refused(f"backend={backend!r}", "auto, packed, blas, reference", kind=UnsupportedError):
            call()


def test_unknown_backend_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("CGRU_BACKEND", "fast")
        with refused("CGRU_BACKEND='fast'", "auto, packed, blas, reference", kind=UnsupportedError):
            cgru.Model([CASE.gru()])


def test_absent_backend_is_an_error_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(backends.backend("blas"), "unavailable", lambda: "it is not here")
        with refused("backend='blas'", "it is not here", kind=UnsupportedError):
            cgru.Model([CASE.gru()], backend="blas")


# ---- making layers and models ---------------------------------------------------------------------------


def arrays(**changes: Any) -> dict[str, Any]:
    return {**Case(3, 4, 1, 1, True, 1, 1, seed=5).arrays, **changes}


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("weight_ih_l0", (12, 0)),
        ("weight_ih_l0", (9, 3)),
        ("weight_hh_l0", (12, 3)),
        ("weight_hh_l0", (4, 12)),
        ("weight_hh_l0", (0, 0)),
        ("bias_ih_l0", (4,)),
        ("bias_hh_l0", (13,)),
    ],
)
def test_weights_of_wrong_shape(key: str, shape: tuple[int, ...]) -> None:
    with refused("mine", key, kind=ShapeError):
        cgru.GRU(arrays(**{key: np.zeros(shape, np.float32)}), name="mine")


@pytest.mark.parametrize("dtype", ["int32", "complex64", "object", "U2"])
def test_weights_of_wrong_dtype(dtype: str) -> None:
    with refused("gru", "weight_hh_l0", "real floating-point", kind=ShapeError):
        cgru.GRU(arrays(weight_hh_l0=np.zeros((12, 4), dtype)))


def test_weights_of_wrong_axes() -> None:
    with refused("gru: weight_ih_l0", "2 axes", "(12, 3, 1)", kind=ShapeError):
        cgru.GRU(arrays(weight_ih_l0=np.zeros((12, 3, 1), np.float32)))


@pytest.mark.parametrize("key", ["weight_ih_l0", "weight_hh_l0"])
def test_missing_weights(key: str) -> None:
    left = arrays()
    del left[key]
    with refused(key, "missing", kind=FormatError):
        cgru.GRU(left)


def test_missing_direction() -> None:
    with refused("weight_ih_l0_reverse", "missing", kind=FormatError):
        cgru.GRU(arrays(), bidirectional=True)


def test_weights_nothing_uses() -> None:
    with refused("nothing uses", "weight_hr_l0", kind=FormatError):
        cgru.GRU(arrays(weight_hr_l0=np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("gates", ["", "rz", "rrn", "rznn", "xyz", None, 3])
def test_unknown_gate_order(gates: Any) -> None:
    held = arrays()
    with refused("gates=", "does not name each block once"):
        cgru.GRU.from_arrays(held["weight_ih_l0"], held["weight_hh_l0"], gates=gates)


@pytest.mark.parametrize(("key", "value"), [("reset", "sideways"), ("update", "forget")])
def test_unknown_switch(key: str, value: str) -> None:
    held = arrays()
    with refused(f"{key}={value!r}", kind=UnsupportedError):
        cgru.GRU.from_arrays(held["weight_ih_l0"], held["weight_hh_l0"], **{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["activation", "recurrent_activation"])
@pytest.mark.parametrize("value", ["swish", "softmax", None, 3])
def test_unknown_activation(key: str, value: Any) -> None:
    with refused("gru", repr(value), "sigmoid", kind=UnsupportedError):
        cgru.GRU(arrays(), **{key: value})


def test_unknown_merge_mode() -> None:
    with refused("merge_mode 'max'", "concat, sum, mul, ave", kind=UnsupportedError):
        cgru.GRU(arrays(), merge_mode="max")


def test_backwards_and_both_ways() -> None:
    with refused("go_backwards", "one direction", kind=UnsupportedError):
        Case(3, 4, 1, 2, True, 1, 1, seed=5).gru(go_backwards=True)


def test_uneven_stack() -> None:
    held = arrays()
    with refused("2 of weight_ih", "1 of weight_hh", kind=ShapeError):
        cgru.GRU.from_arrays([held["weight_ih_l0"]] * 2, [held["weight_hh_l0"]])


def test_odd_number_of_directions() -> None:
    held = arrays()
    with refused("1 of weight_ih", "2 for each layer", kind=ShapeError):
        cgru.GRU.from_arrays(held["weight_ih_l0"], held["weight_hh_l0"], bidirectional=True)


def test_keras_bias_of_the_other_reset() -> None:
    kernel, recurrent = np.zeros((3, 12), np.float32), np.zeros((4, 12), np.float32)
    with refused("bias", "axes", kind=ShapeError):
        cgru.GRU.from_keras([kernel, recurrent, np.zeros(12, np.float32)], reset_after=True)
    with refused("bias", "axes", kind=ShapeError):
        cgru.GRU.from_keras([kernel, recurrent, np.zeros((2, 12), np.float32)], reset_after=False)


def test_keras_weights_of_another_number() -> None:
    with refused("kernel, recurrent_kernel, bias", "found 1", kind=ShapeError):
        cgru.GRU.from_keras([np.zeros((3, 12), np.float32)])


def test_no_tensor_with_the_prefix() -> None:
    with refused("'encoder.'", "weight_ih_l0", kind=FormatError):
        cgru.GRU.from_torch(arrays(), prefix="encoder.")


def test_a_tensor_that_is_no_recurrent_one() -> None:
    with refused("'head.weight'", "prefix=", kind=FormatError):
        cgru.GRU.from_torch(arrays(**{"head.weight": np.zeros((1, 4), np.float32)}))


def test_no_mapping() -> None:
    with refused("mapping"):
        cgru.GRU.from_torch([1, 2])


def test_dense_bias_of_wrong_shape() -> None:
    with refused("dense", "bias", "(3,)", "(2,)", kind=ShapeError):
        cgru.Dense(np.zeros((2, 4), np.float32), np.zeros(3, np.float32))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_empty_weights(shape: tuple[int, int]) -> None:
    with refused("weight", str(shape), kind=ShapeError):
        cgru.Dense(np.zeros(shape, np.float32))
    with refused("weight", str(shape), kind=ShapeError):
        cgru.Embedding(np.zeros(shape, np.float32))


def test_no_layers() -> None:
    with refused("at least one layer"):
        cgru.Model([])


def test_something_that_is_no_layer() -> None:
    with refused("layers", "ndarray"):
        cgru.Model([X])  # type: ignore[list-item]


def test_layers_that_do_not_fit() -> None:
    with refused("dense takes 7 features", "gru gives 4", kind=ShapeError):
        cgru.Model([CASE.gru(), cgru.Dense(np.zeros((2, 7), np.float32))])


def test_embedding_in_the_middle() -> None:
    with refused("embedding", "only come first", kind=UnsupportedError):
        cgru.Model([CASE.gru(), cgru.Embedding(np.zeros((2, 7), np.float32))])


def test_a_sequence_where_there_is_none() -> None:
    with refused("needs a sequence", "last output", kind=UnsupportedError):
        cgru.Model([CASE.gru(return_sequences=False), Case(4, 4, 1, 1, True, 1, 1, seed=6).gru()])


def test_two_outputs_in_the_middle() -> None:
    with refused("merge_mode=None", "only come last", kind=UnsupportedError):
        cgru.Model([Case(3, 4, 1, 2, True, 1, 1, seed=6).gru(merge_mode=None), cgru.Activation("relu")])


def test_nan_in_weights_and_input_is_allowed() -> None:
    y = cgru.GRU(arrays(bias_ih_l0=np.full(12, np.nan, np.float32)))(X)[0]
    assert np.isnan(y).all()
