"""Attention over a memory that is given once: lengths, weights, streams; against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from seq2seq import HIDDEN, VOCABULARY, arr, attended, graphs, ids, tensors

import cgru

KINDS = ["dot", "general", "scaled", "additive"]
FRAMES = 70  # more than one block of scores


def attention(kind: str, weights: bool = False) -> cgru.Graph:
    g = cgru.Graph()
    y = g.input(HIDDEN, name="query")
    if not weights:
        g.output(attended(g, y, tensors(), kind))
        return g
    memory = g.input(HIDDEN, name="memory", time="memory")
    g.output(g.attend_weights(y, memory, g.mask_of_input(memory), limit=FRAMES + 3))
    return g


def torch_attention(kind: str, q: np.ndarray, memory: np.ndarray, lengths: list[int]) -> np.ndarray:
    torch = pytest.importorskip("torch")
    w = {name: torch.tensor(array, dtype=torch.float64) for name, array in tensors().items()}
    query, m = torch.tensor(q, dtype=torch.float64), torch.tensor(memory, dtype=torch.float64)
    key = m if kind == "dot" else m @ w["key.weight"].T
    if kind == "additive":
        both = torch.tanh((query @ w["query.weight"].T)[:, :, None] + key[:, None])
        scores = (both @ w["score.weight"].T)[..., 0]
    else:
        scores = query @ key.transpose(1, 2) * (HIDDEN**-0.5 if kind == "scaled" else 1.0)
    beyond = torch.arange(m.shape[1])[None] >= torch.tensor(lengths)[:, None]
    made: np.ndarray = (torch.softmax(scores.masked_fill(beyond[:, None], -torch.inf), -1) @ m).numpy()
    return made


@pytest.mark.parametrize("backend", ["packed", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_pytorchs(kind: str, backend: str) -> None:
    net = cgru.Model(attention(kind), backend=backend)
    assert set(net.backends) == {backend}
    q, memory, lengths = arr(3, 5, HIDDEN), arr(3, FRAMES, HIDDEN), [FRAMES, 1, 9]
    wanted = torch_attention(kind, q, memory, lengths)
    memory[1, 1:] = 1e30  # what lies past a length is not looked at
    y = net({"query": q, "memory": memory, "memory_lengths": lengths})
    np.testing.assert_allclose(y, wanted, rtol=2e-5, atol=2e-6)


def test_a_mask_with_gaps_and_one_left_out() -> None:
    net = cgru.Model(attention("general"))
    q, memory = arr(1, 4, HIDDEN), arr(1, 6, HIDDEN)
    mask = np.array([[True, False, True, True, False, False]])
    some = net({"query": q, "memory": memory, "memory.mask": mask})
    np.testing.assert_allclose(some, net({"query": q, "memory": memory[:, mask[0]]}), rtol=1e-6, atol=1e-6)
    none = net({"query": q, "memory": memory, "memory_lengths": [0]})
    assert not none.any()


@pytest.mark.parametrize("features", [1, 7, 16, 37, 150, 300])
def test_frames_that_do_not_count_change_no_bit(features: int) -> None:
    """Frames are multiplied several at a time where they stand together: wherever gaps fall, as if there were none."""
    g = cgru.Graph()
    query = g.input(features, name="query")
    memory = g.input(features, name="memory", time="memory")
    mask = g.mask_of_input(memory)
    g.output(g.attend(query, memory, memory, mask, memory=True), g.attend_weights(query, memory, mask, limit=40))
    net, rng = cgru.Model(g), np.random.default_rng(features)
    assert set(net.backends) == {"packed"}
    q, m = rng.standard_normal((1, 3, features), np.float32), rng.standard_normal((1, 40, features), np.float32)
    seen = rng.random((1, 40)) < 0.7
    hidden = m.copy()
    hidden[~seen] = np.nan
    context, weights = net({"query": q, "memory": hidden, "memory.mask": seen}).values()
    alone, picked = net({"query": q, "memory": m[:, seen[0]]}).values()
    np.testing.assert_array_equal(context, alone)
    np.testing.assert_array_equal(weights[..., seen[0]], picked[..., : seen.sum()])
    assert not weights[..., ~seen[0]].any()
    scores = q.astype(np.float64) @ m[:, seen[0]].astype(np.float64).transpose(0, 2, 1)
    exact = np.exp(scores - scores.max(axis=2, keepdims=True))
    exact /= exact.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(picked[..., : seen.sum()], exact, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(context, exact @ m[:, seen[0]], rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("backend", ["packed", "reference"])
def test_weights_sum_to_one_and_end_at_the_length(backend: str) -> None:
    net = cgru.Model(attention("dot", weights=True), backend=backend)
    lengths = [FRAMES, 1, 9]
    y = net({"query": arr(3, 5, HIDDEN) * 4, "memory": arr(3, FRAMES, HIDDEN), "memory_lengths": lengths})
    assert y.shape == (3, 5, FRAMES + 3)
    np.testing.assert_allclose(y.sum(axis=2), 1, rtol=1e-5)
    for row, length in zip(y, lengths, strict=True):
        assert (row[:, :length] > 0).any(axis=0).all()
        assert not row[:, length:].any()
    with pytest.raises(cgru.ShapeError, match=r"weights of 73 frames at most .*found 80"):
        net({"query": arr(3, 5, HIDDEN), "memory": arr(3, 80, HIDDEN)})


def test_the_context_is_the_mean_by_the_weights() -> None:
    g = cgru.Graph()
    y, memory = g.input(HIDDEN, name="query"), g.input(HIDDEN, name="memory", time="memory")
    g.output(g.attend(y, memory, memory, memory=True), g.attend_weights(y, memory, limit=9))
    q, m = arr(2, 3, HIDDEN), arr(2, 9, HIDDEN)
    context, weights = cgru.Model(g)({"query": q, "memory": m}).values()
    np.testing.assert_allclose(context, weights @ m, rtol=1e-5, atol=1e-6)


def test_attention_over_the_sequence_itself_runs_in_the_core() -> None:
    """Self-attention, causal and not, with lengths: each row as it is alone."""
    for causal in (False, True):
        g = cgru.Graph()
        x = g.input(HIDDEN)
        g.output(g.attend(x, x, x, causal=causal))
        net, oracle = cgru.Model(g), cgru.Model(g, backend="reference")
        assert set(net.backends) == {"packed"}
        given, lengths = arr(3, 90, HIDDEN), [90, 0, 33]
        y = net(given, lengths=lengths)
        np.testing.assert_allclose(y, oracle(given, lengths=lengths), rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(y[2, :33], net(given[2, :33]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda g, q, m: g.attend(q, q, q, memory=True), "time axis of its own"),
        (lambda g, q, m: g.attend(q, m, m, memory=True, causal=True), "given whole"),
        (lambda g, q, m: g.attend(q, m, q, memory=True), "same frames"),
        (lambda g, q, m: g.attend(q, g.input(3, time="other"), m, memory=True), "same features"),
        (lambda g, q, m: g.attend_weights(q, q, limit=4), "time axis of its own"),
        (lambda g, q, m: g.attend_weights(q, m), "limit"),
        (lambda g, q, m: g.attend(q, m, m, g.mask_of_input(q), memory=True), "same frames"),
    ],
)
def test_what_does_not_fit(build: Any, message: str) -> None:
    g = cgru.Graph()
    with pytest.raises(cgru.CgruError, match=message):
        build(g, g.input(HIDDEN, name="query"), g.input(HIDDEN, name="memory", time="memory"))


def test_lengths_of_a_memory_that_are_wrong() -> None:
    net = cgru.Model(attention("dot"))
    given: dict[str, Any] = {"query": arr(2, 3, HIDDEN), "memory": arr(2, 4, HIDDEN)}
    for lengths, message in (([1, 5], r"outside \[0, T\]"), ([1], "one per row"), ([1.0, 2.0], "integers")):
        with pytest.raises(cgru.CgruError, match=message):
            net({**given, "memory_lengths": lengths})
    with pytest.raises(cgru.CgruError, match="no input 'query_lengths'"):
        net({**given, "query_lengths": [1, 2]})
    g = cgru.Graph()
    y, memory = g.input(HIDDEN, name="query"), g.input(HIDDEN, name="memory", time="memory")
    g.output(g.attend(y, memory, memory, memory=True))
    with pytest.raises(cgru.CgruError, match="nothing in the network looks at a mask of 'memory'"):
        cgru.Model(g)({**given, "memory_lengths": [1, 2]})
    np.testing.assert_array_equal(cgru.Model(g)({**given, "memory_lengths": [4, 4]}), cgru.Model(g)(given))


@pytest.mark.parametrize("kind", KINDS)
def test_a_decoder_is_the_same_whole_and_in_every_precision_near(kind: str) -> None:
    both = cgru.Model(graphs(kind))
    x, tokens = ids(2, 7), ids(2, 5)
    given = both["encode"](x)
    y = both["decode"]({"token": tokens, **given, "memory_lengths": [7, 3]})
    assert y.shape == (2, 5, VOCABULARY)
    for row, length in enumerate((7, 3)):
        alone = {"token": tokens[row], "h0": given["h0"][row], "memory": given["memory"][row, :length]}
        np.testing.assert_array_equal(both["decode"](alone), y[row], err_msg="bits of a row alone")
    reduced = both.quantize("bf16")["decode"]({"token": tokens, **given, "memory_lengths": [7, 3]})
    assert np.abs(reduced - y).max() < 0.2
