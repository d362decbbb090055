"""The GRU and the small layers in a Model, on every backend, against the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from agreement import TOLERANCE, assert_same
from hypothesis import given, settings
from strategies import Case, cases

import cgru

ODD = (1, 3, 7, 15, 16, 17, 63, 154)


def check(case: Case, backend: str, tolerance: float = 2e-6, **options: Any) -> None:
    """``case`` on ``backend`` is within ``tolerance`` of the oracle: outputs and last states."""
    layer = {key: options[key] for key in options if key not in ("zero_masked",)}
    gru = case.gru(zero_output_for_mask=options.get("zero_masked", False), **layer)
    out, h_n = gru(case.x, case.h0, case.lengths, case.mask, backend=backend)
    want, want_h = oracle.gru(case.arrays, case.x, case.h0, case.lengths, case.mask, **case.stack, **options)
    assert out.shape == want.shape
    assert h_n.shape == want_h.shape
    assert out.dtype == h_n.dtype == np.float32
    np.testing.assert_allclose(out, want, rtol=0, atol=tolerance)
    np.testing.assert_allclose(h_n, want_h, rtol=0, atol=tolerance)


@settings(max_examples=40)
@given(case=cases(steps=20, lengths=None, masks=None))
def test_reset_after(backend: str, case: Case) -> None:
    check(case, backend)


@settings(max_examples=40)
@given(case=cases(steps=20, lengths=None, masks=None))
def test_reset_before(backend: str, case: Case) -> None:
    check(case, backend, reset="before")


@pytest.mark.parametrize("size", ODD)
@pytest.mark.parametrize("reset", ["after", "before"])
def test_every_odd_size(backend: str, size: int, reset: str) -> None:
    """As inputs and as hidden units, alone and in odd batches."""
    for inputs, hidden in ((size, 5), (5, size), (size, size)):
        for batch in (1, 3, 17):
            check(Case(inputs, hidden, 1, 2, True, batch, 4, seed=size), backend, reset=reset)


@pytest.mark.parametrize("batch", [1, 2, 5, 8, 13, 16, 31, 33, 64, 65])
def test_every_batch(backend: str, batch: int) -> None:
    lengths = tuple(int(n) for n in np.random.default_rng(batch).integers(0, 7, batch))
    check(Case(9, 19, 2, 2, True, batch, 6, seed=batch, lengths=lengths), backend)


@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"])
@pytest.mark.parametrize("candidate", ["tanh", "linear", "relu", "softsign", "elu", "softplus", "hard_sigmoid"])
def test_activations(backend: str, reset: str, gate: str, candidate: str) -> None:
    case = Case(5, 17, 1, 1, True, 3, 6, seed=4, scale=1.5)
    check(case, backend, reset=reset, recurrent_activation=gate, activation=candidate)


def test_hard_sigmoids_differ() -> None:
    """The two definitions are told apart by a whole network too."""
    case = Case(5, 17, 1, 1, True, 3, 6, seed=4)
    new = case.gru(recurrent_activation="hard_sigmoid")(case.x, case.h0)[0]
    old = case.gru(recurrent_activation="hard_sigmoid_keras2")(case.x, case.h0)[0]
    assert np.abs(new - old).max() > 1e-3


@pytest.mark.parametrize(
    ("version", "meaning"), [(3, "hard_sigmoid"), (2, "hard_sigmoid_keras2"), (1, "hard_sigmoid_keras2")]
)
def test_hard_sigmoid_is_that_of_the_keras_said(version: int, meaning: str) -> None:
    rng = np.random.default_rng(6)
    kernel, recurrent, bias = (rng.normal(0, 2, shape).astype("f4") for shape in ((3, 12), (4, 12), (2, 12)))
    x, h0 = rng.standard_normal((2, 5, 3)).astype("f4"), np.zeros((1, 2, 4))
    arrays = {"weight_ih_l0": kernel.T, "weight_hh_l0": recurrent.T, "bias_ih_l0": bias[0], "bias_hh_l0": bias[1]}
    want = oracle.gru(arrays, x, h0, gates="zrn", recurrent_activation=meaning)[0]
    made = cgru.GRU.from_keras([kernel, recurrent, bias], recurrent_activation="hard_sigmoid", keras_version=version)
    assert np.abs(made(x)[0] - want).max() <= 2e-6
    explicit = cgru.GRU.from_keras([kernel, recurrent, bias], recurrent_activation="hard_sigmoid_keras2")
    assert (np.abs(explicit(x)[0] - want).max() <= 2e-6) == (version < 3)


@pytest.mark.parametrize("key", ["activation", "recurrent_activation"])
@pytest.mark.parametrize(("kind", "gates"), [(cgru.GRU, 3), (cgru.LSTM, 4), (cgru.RNN, 1), (cgru.Dense, 0)])
def test_hard_sigmoid_without_a_version_is_not_guessed(kind: Any, gates: int, key: str) -> None:
    if key == "recurrent_activation" and gates < 3:
        key = "activation"
    arrays = [np.ones((3, 4 * gates)), np.ones((4, 4 * gates))] if gates else [np.ones((3, 4))]
    with pytest.raises(cgru.CgruError, match=r"'hard_sigmoid' is clip.*keras_version=3 or keras_version=2"):
        kind.from_keras(arrays, **{key: "hard_sigmoid"})
    with pytest.raises(cgru.CgruError, match="expected 1, 2 or 3"):
        kind.from_keras(arrays, **{key: "hard_sigmoid"}, keras_version=4)
    kind.from_keras(arrays, **{key: "hard_sigmoid"}, keras_version=3)


@pytest.mark.parametrize("zero_masked", [False, True])
@settings(max_examples=25)
@given(case=cases(steps=12, masks=True, lengths=None))
def test_masks(backend: str, zero_masked: bool, case: Case) -> None:
    """Gaps anywhere: the state holds, the output repeats or is zero, and is zero before a row's first step."""
    check(case, backend, zero_masked=zero_masked)


def test_all_masked_is_zero_and_holds(backend: str) -> None:
    case = Case(3, 5, 1, 1, True, 2, 4, seed=1)
    out, h_n = case.gru()(case.x, case.h0, mask=np.zeros((2, 4), bool), backend=backend)
    assert not out.any()
    assert np.array_equal(h_n, case.h0)


@pytest.mark.parametrize("hidden", [5, 48, 154])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_no_step_counts_at_all(backend: str, hidden: int, reset: str) -> None:
    """A whole batch of empty rows is no work, and no division by it."""
    case = Case(hidden, hidden, 2, 2, True, 2, 3, seed=24)
    out, h_n = case.gru(reset=reset)(case.x, case.h0, (0, 0), backend=backend)
    assert not out.any()
    assert np.array_equal(h_n, case.h0)


@pytest.mark.parametrize("mode", ["concat", "sum", "mul", "ave", None])
def test_merge_modes(backend: str, mode: str | None) -> None:
    case = Case(4, 6, 1, 2, True, 3, 5, seed=8, lengths=(5, 0, 3))
    out = case.gru(merge_mode=mode)(case.x, case.h0, case.lengths, backend=backend)[0]
    both, _ = oracle.gru(case.arrays, case.x, case.h0, case.lengths, directions=2)
    forward, backward = both[..., :6], both[..., 6:]
    if mode is None:
        assert isinstance(out, tuple)
        np.testing.assert_allclose(out[0], forward, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(out[1], backward, rtol=0, atol=TOLERANCE)
        return
    want = {"concat": both, "sum": forward + backward, "mul": forward * backward, "ave": (forward + backward) / 2}
    np.testing.assert_allclose(out, want[mode], rtol=0, atol=TOLERANCE)


def test_merge_none_gives_a_tuple_for_one_sequence(backend: str) -> None:
    case = Case(4, 6, 1, 2, True, 1, 5, seed=8)
    forward, backward = cgru.Model([case.gru(merge_mode=None)])(case.x[0], backend=backend)
    assert forward.shape == backward.shape == (5, 6)


@pytest.mark.parametrize("lengths", [None, (5, 0, 3)])
def test_return_sequences_false_gives_the_last_output(backend: str, lengths: tuple[int, ...] | None) -> None:
    """Forward the last step's, backward the first step's, each row at its own end; zero for a row of no steps."""
    case = Case(4, 6, 2, 2, True, 3, 5, seed=9, lengths=lengths)
    out = cgru.Model([case.gru(return_sequences=False)])(case.x, lengths, backend=backend)
    whole, _ = oracle.gru(case.arrays, case.x, np.zeros_like(case.h0), lengths, **case.stack)
    ends = [4, 4, 4] if lengths is None else [n - 1 for n in lengths]
    want = np.zeros((3, 12))
    for b, end in enumerate(ends):
        if end >= 0:
            want[b] = np.concatenate([whole[b, end, :6], whole[b, 0, 6:]])
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE)


def test_go_backwards_gives_time_from_its_end(backend: str) -> None:
    case = Case(4, 6, 1, 1, True, 3, 5, seed=10, lengths=(5, 2, 0))
    out, h_n = case.gru(go_backwards=True)(case.x, case.h0, backend=backend)
    want, want_h = oracle.gru(case.arrays, case.x[:, ::-1], case.h0)
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(h_n, want_h, rtol=0, atol=TOLERANCE)
    out, h_n = case.gru(go_backwards=True)(case.x, case.h0, case.lengths, backend=backend)
    turned = case.x.copy()
    turned[1, :2] = case.x[1, 1::-1]
    turned[0] = case.x[0, ::-1]
    want, want_h = oracle.gru(case.arrays, turned, case.h0, case.lengths)
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(h_n, want_h, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_a_small_whole_network(backend: str, mask_zero: bool) -> None:
    """Embedding, a bidirectional GRU, Dense, softmax: every layer in its place, masked where ids are 0."""
    rng = np.random.default_rng(3)
    table = rng.standard_normal((11, 5)).astype(np.float32)
    W, b = rng.standard_normal((4, 12)).astype(np.float32), rng.standard_normal(4).astype(np.float32)
    case = Case(5, 6, 1, 2, True, 3, 7, seed=2)
    net = cgru.Model(
        [
            cgru.Embedding(table, mask_zero=mask_zero),
            case.gru(zero_output_for_mask=True),
            cgru.Dense(W, b, activation="relu"),
            cgru.Activation("softmax"),
        ],
        backend=backend,
    )
    ids = np.random.default_rng(4).integers(0, 11, (3, 7))
    ids[0, :2] = 0
    mask = ids != 0 if mask_zero else None
    zero = np.zeros((2, 3, 6))
    hidden, _ = oracle.gru(case.arrays, table[ids], zero, None, mask, directions=2, zero_masked=True)
    logits = np.maximum(hidden @ W.T.astype(np.float64) + b, 0)
    e = np.exp(logits - logits.max(-1, keepdims=True))
    want = e / e.sum(-1, keepdims=True)
    np.testing.assert_allclose(net(ids), want, rtol=0, atol=2e-6)
    np.testing.assert_allclose(net(ids[1].astype(np.uint8)), want[1], rtol=0, atol=2e-6)


def test_masking_layer(backend: str) -> None:
    """A step equal to the value everywhere is skipped; one equal in part is not."""
    case = Case(3, 4, 1, 1, True, 2, 6, seed=12)
    x = case.x.copy()
    x[0, 2] = x[1, 5] = x[1, 0] = -1.5
    x[0, 4, :2] = -1.5
    mask = np.ones((2, 6), bool)
    mask[0, 2] = mask[1, 5] = mask[1, 0] = False
    out = cgru.Model([cgru.Masking(-1.5), case.gru()], backend=backend)(x)
    want, _ = oracle.gru(case.arrays, x, np.zeros_like(case.h0), None, mask)
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE)
    given_too = mask.copy()
    given_too[0, 1] = False
    out = cgru.Model([cgru.Masking(-1.5), case.gru()], backend=backend)(x, mask=given_too)
    want, _ = oracle.gru(case.arrays, x, np.zeros_like(case.h0), None, given_too)
    np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE)


def test_dense_after_lengths_leaves_padding_zero(backend: str) -> None:
    """A bias does not fill what lies past a row's length, and what lies there does not leak."""
    case = Case(3, 4, 1, 2, True, 2, 5, seed=13, lengths=(2, 5))
    W, b = np.ones((3, 3), np.float32), np.ones(3, np.float32)
    net = cgru.Model([cgru.Dense(W, b), case.gru(), cgru.Dense(np.ones((1, 8), np.float32), [1.0])], backend=backend)
    x = case.x.copy()
    x[0, 2:] = np.nan
    y = net(x, (2, 5))
    assert not y[0, 2:].any()
    hidden, _ = oracle.gru(case.arrays, np.nan_to_num(x) @ W.T + b, np.zeros_like(case.h0), (2, 5), directions=2)
    np.testing.assert_allclose(y[0, :2, 0], hidden[0, :2].sum(-1) + 1, rtol=0, atol=2e-6)
    np.testing.assert_allclose(y[1, :, 0], hidden[1].sum(-1) + 1, rtol=0, atol=2e-6)


def test_gate_orders_and_updates(backend: str) -> None:
    """Every order of the three blocks, keep and write: the same network."""
    case = Case(4, 7, 1, 1, True, 3, 6, seed=14)
    arrays = case.arrays
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    for reset in ("after", "before"):
        for update in ("keep", "write"):
            for order in ("rzn", "rnz", "zrn", "znr", "nrz", "nzr"):
                blocks = [dict(zip("rzn", np.split(arrays[name], 3), strict=True)) for name in names]
                stacked = [np.concatenate([block[letter] for letter in order]) for block in blocks]
                gru = cgru.GRU.from_arrays(*stacked, gates=order, reset=reset, update=update)
                out, h_n = gru(case.x, case.h0, backend=backend)
                want, want_h = oracle.gru(arrays, case.x, case.h0, reset=reset, write=update == "write")
                np.testing.assert_allclose(out, want, rtol=0, atol=TOLERANCE)
                np.testing.assert_allclose(h_n, want_h, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "hard_sigmoid_keras2"])
def test_write_is_keep_with_the_gate_negated(backend: str, gate: str) -> None:
    case = Case(4, 7, 2, 2, True, 3, 6, seed=15)
    groups: list[list[np.ndarray]] = [[], [], [], []]
    negated: list[list[np.ndarray]] = [[], [], [], []]
    for suffix in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        for group, twin, stem in zip(groups, negated, ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), strict=True):
            rows = case.arrays[stem + suffix]
            group.append(rows)
            r, z, n = np.split(rows, 3)
            twin.append(np.concatenate([r, -z, n]))
    write = cgru.GRU.from_arrays(*groups, update="write", bidirectional=True, recurrent_activation=gate)
    keep = cgru.GRU.from_arrays(*negated, update="keep", bidirectional=True, recurrent_activation=gate)
    for a, b in zip(write(case.x, case.h0, backend=backend), keep(case.x, case.h0, backend=backend), strict=True):
        assert np.array_equal(a, b)
    want, _ = oracle.gru(case.arrays, case.x, case.h0, layers=2, directions=2, write=True, recurrent_activation=gate)
    np.testing.assert_allclose(write(case.x, case.h0, backend=backend)[0], want, rtol=0, atol=2e-6)


def test_write_needs_a_complementary_gate() -> None:
    arrays = Case(2, 3, 1, 1, False, 1, 1, seed=0).arrays
    with pytest.raises(cgru.UnsupportedError, match="update='write'"):
        cgru.GRU.from_arrays(*arrays.values(), update="write", recurrent_activation="relu")


def test_one_sequence_has_no_batch_axis(backend: str) -> None:
    case = Case(3, 5, 2, 2, True, 1, 6, seed=16)
    out, h_n = case.gru()(case.x[0], case.h0[:, 0], backend=backend)
    assert out.shape == (6, 10)
    assert h_n.shape == (4, 5)
    whole, whole_h = case.gru()(case.x, case.h0, backend=backend)
    assert_same(backend, out, whole[0])
    assert_same(backend, h_n, whole_h[:, 0])


@pytest.mark.parametrize(("batch", "steps"), [(0, 4), (3, 0), (0, 0), (1, 0)])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_nothing_in_nothing_out(backend: str, batch: int, steps: int, reset: str) -> None:
    case = Case(3, 5, 2, 2, True, batch, steps, seed=17)
    out, h_n = case.gru(reset=reset)(case.x, case.h0, backend=backend)
    assert out.shape == (batch, steps, 10)
    assert np.array_equal(h_n, case.h0)
    net = cgru.Model([case.gru(), cgru.Dense(np.ones((2, 10), np.float32)), cgru.Activation("softmax")])
    assert net(case.x, backend=backend).shape == (batch, steps, 2)
    last = cgru.Model([case.gru(return_sequences=False), cgru.Dense(np.ones((2, 10), np.float32))])
    assert not last(case.x, backend=backend).any()
    if batch == 0:
        none: list[int] = []
        assert case.gru()(case.x, case.h0, none, np.ones((0, steps), bool), backend=backend)[0].shape == out.shape


def test_what_it_is() -> None:
    case = Case(3, 5, 2, 2, True, 1, 1, seed=18)
    net = cgru.Model([case.gru(), cgru.Dense(np.ones((2, 10), np.float32))])
    assert (net.input_size, net.output_size) == (3, 2)
    assert net.parameters == sum(a.size for a in case.arrays.values()) + 20
    assert net.nbytes >= 4 * net.parameters
    text = str(net)
    assert "gru" in text
    assert "dense" in text
    assert f"{net.parameters:,} parameters" in text


def test_layers_of_one_name_are_told_apart() -> None:
    a, b = Case(3, 5, 1, 1, True, 2, 4, seed=19), Case(5, 4, 1, 1, True, 2, 4, seed=20)
    net = cgru.Model([a.gru(), b.gru()])
    y, state = net.run(a.x, {"gru.h": a.h0, "gru_1.h": b.h0})
    hidden, want_a = oracle.gru(a.arrays, a.x, a.h0)
    want, want_b = oracle.gru(b.arrays, hidden, b.h0)
    assert list(state.arrays()) == ["gru.h", "gru_1.h"]
    np.testing.assert_allclose(y, want, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(state.arrays()["gru.h"], want_a, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(state.arrays()["gru_1.h"], want_b, rtol=0, atol=TOLERANCE)


def test_weights_are_the_model_s_own(backend: str) -> None:
    """Nothing the caller does to his arrays afterwards reaches the network, through views either."""
    case = Case(3, 5, 1, 1, True, 2, 4, seed=21)
    mine = {key: array.copy() for key, array in case.arrays.items()}
    views = {key: array[:] for key, array in mine.items()}
    for view in views.values():
        view.flags.writeable = False
    gru = cgru.GRU(views)
    want = case.gru()(case.x, backend=backend)[0]
    for array in mine.values():
        array[...] = 7
    assert np.array_equal(gru(case.x, backend=backend)[0], want)


def test_large_values_saturate_quietly(backend: str) -> None:
    """Inputs and weights of any size: finite where the mathematics is finite, and no warning."""
    case = Case(3, 5, 1, 1, True, 2, 4, seed=22, scale=50.0)
    out, _ = case.gru()(case.x * np.float32(1e30), case.h0, backend=backend)
    want, _ = oracle.gru(case.arrays, case.x * np.float32(1e30), case.h0)
    np.testing.assert_allclose(out, want, rtol=0, atol=2e-6)
    with np.errstate(all="raise"):
        boom, _ = case.gru(activation="linear")(case.x * np.float32(1e38), case.h0, backend=backend)
    assert not np.isfinite(boom).all()


def test_nan_stays_in_its_row(backend: str) -> None:
    case = Case(3, 17, 2, 2, True, 9, 5, seed=23)
    x = case.x.copy()
    x[4, 2] = np.nan
    out, _ = case.gru()(x, case.h0, backend=backend)
    clean, _ = case.gru()(case.x, case.h0, backend=backend)
    rows = np.arange(9) != 4
    assert_same(backend, out[rows], clean[rows])
    assert np.isnan(out[4, 2:]).all()
