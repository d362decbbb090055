"""Networks of source and target cut into an encoder and a decoder: the bits of the whole, and the framework's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from seq2seq import FEATURES, HIDDEN, VOCABULARY, arr, attended, ids, tensors

import cgru

KINDS = ["", "dot", "general", "scaled", "additive"]


def whole(kind: str, masked: bool = True) -> cgru.Graph:
    """Source and target → scores, as it is trained; the decoder's keys are made of the memory."""
    w = tensors(3)
    g = cgru.Graph()
    source = g.input(name="source", dtype="int64", time="source")
    token = g.input(name="token", dtype="int64")
    embedding = cgru.Embedding(w["embedding.weight"])
    mask = g.mask_of_input(source) if masked else ""
    memory = g.layer(cgru.GRU.from_torch(w, "encoder.").renamed("encoder"), g.layer(embedding, source), mask=mask)
    h0 = g.last_state(memory, size=HIDDEN)
    y: Any = g.layer(cgru.GRU.from_torch(w, "decoder.").renamed("decoder"), g.layer(embedding, token), h0)
    if kind:
        y = g.concat(y, _attended(g, y, w, memory, mask, kind))
    head = cgru.Dense(w["out.weight"], w["out.bias"]) if kind else cgru.Dense(w["head.weight"], w["head.bias"])
    g.output(g.layer(head.renamed("head"), y))
    return g


def _attended(g: cgru.Graph, y: str, w: dict[str, np.ndarray], memory: str, mask: str, kind: str) -> str:
    masks = (mask,) if mask else ()
    if kind == "dot":
        return g.attend(y, memory, memory, *masks)
    key = g.dense(memory, units=HIDDEN, weights={"weight": w["key.weight"]})
    if kind != "additive":
        return g.attend(y, key, memory, *masks, factor=HIDDEN**-0.5 if kind == "scaled" else 1.0)
    query = g.dense(y, units=HIDDEN, weights={"weight": w["query.weight"]})
    given = {"inner": np.ones(HIDDEN), "outer": w["score.weight"][0]}
    return g.attend(query, key, memory, *masks, kind="additive", weights=given)


@pytest.mark.parametrize("backend", ["packed", "reference"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_entries_give_the_bits_of_the_whole(kind: str, backend: str) -> None:
    """Each row by itself, without what stands behind its length; all rows together, with lengths; step by step.

    The reference rounds to float32 between calls, so that its steps agree within rounding.
    """
    net = cgru.Model(whole(kind), backend=backend)
    beside = cgru.Model(whole(kind), backend="reference")
    same = 0 if backend == "packed" else 1e-5
    both: Any = net.encoder_decoder()
    source, token, lengths = ids(3, 7), ids(3, 5), [7, 2, 5]
    expected = np.stack(
        [net({"source": source[i, :n], "token": token[i]}) for i, n in enumerate(lengths)]
    )
    for i, n in enumerate(lengths):
        agreed = beside({"source": source[i, :n], "token": token[i]})
        np.testing.assert_allclose(expected[i], agreed, rtol=1e-4, atol=1e-5)
    made, _ = both["encode"].run(source, lengths=lengths)
    given = made if isinstance(made, dict) else {both["encode"].graph.outputs[0]: made}
    memories = {f"{name}_lengths": lengths for name in given if kind and given[name].ndim == 3}
    assert len(memories) == bool(kind), "the keys are the decoder's own, so that one memory has lengths"
    stream = both["decode"].stream(3, inputs=given | memories)
    steps = np.stack([stream.step(token[:, t]) for t in range(5)], axis=1)
    np.testing.assert_allclose(steps, expected, rtol=same, atol=same)
    np.testing.assert_allclose(both["decode"]({"token": token, **given, **memories}), expected, rtol=same, atol=same)


def test_searches_take_what_was_cut_and_what_a_file_holds_of_it(tmp_path: Path) -> None:
    net: Any = cgru.Model(whole("general")).encoder_decoder()
    source = ids(3, 7)
    options: Any = {"lengths": [7, 2, 5], "start": 1, "stop": 2, "max_steps": 9}
    found = cgru.beam(net, source, **options)
    by_one = [_by_the_whole(source[i, :n]) for i, n in enumerate(options["lengths"])]
    greedy = cgru.greedy(net, source, **options)
    for got, expected in zip(greedy.tokens, by_one, strict=True):
        assert got.tolist() == expected
    net.save(tmp_path / "both.safetensors")
    again = cgru.beam(cgru.load(tmp_path / "both.safetensors"), source, **options)
    np.testing.assert_array_equal(again.scores, found.scores)
    assert net.encoder_decoder() is net


def _by_the_whole(source: np.ndarray) -> list[int]:
    """Greedy decoding that runs the whole network over all tokens so far, for every token."""
    net = cgru.Model(whole("general"))
    tokens = [1]
    while len(tokens) <= 9:
        tokens.append(int(net({"source": source, "token": np.array(tokens)})[-1].argmax()))
        if tokens[-1] == 2:
            return tokens[1:-1]
    return tokens[1:]


def test_a_mask_made_of_an_input_given_once_runs_in_the_core() -> None:
    """The decoder by itself looks at ids given once: those that are 0 count for nothing."""
    g = cgru.Graph()
    memory = g.input(HIDDEN, name="memory", time="source")
    letters = g.input(name="letters", dtype="int64", time="source")
    query = g.input(HIDDEN, name="query")
    g.output(g.attend(query, memory, memory, g.mask_of(letters), memory=True))
    net = cgru.Model(g)
    frames, queries = arr(2, 4, HIDDEN), arr(2, 3, HIDDEN)
    counts = np.array([[5, 1, 0, 0], [1, 2, 3, 0]])
    got = net.stream(2, inputs={"memory": frames, "letters": counts}).feed(queries)
    for row, n in enumerate((2, 3)):
        short = {"memory": frames[row, :n], "letters": counts[row, :n], "query": queries[row]}
        np.testing.assert_array_equal(got[row], net(short))
    weights = np.exp(queries[0] @ frames[0, :2].T.astype(np.float64))
    np.testing.assert_allclose(got[0], weights / weights.sum(1, keepdims=True) @ frames[0, :2], rtol=1e-5, atol=1e-6)


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_networks_that_are_no_pair_are_refused_by_what_they_take() -> None:
    with pytest.raises(cgru.UnsupportedError, match=r"no encoder and decoder: .*it takes \w+ \(B, T, 6\)"):
        cgru.Model([cgru.GRU.from_torch(tensors(), "encoder.")]).encoder_decoder()
    g = cgru.Graph()
    a, b = g.input(HIDDEN, name="a", time="a"), g.input(HIDDEN, name="b", time="b")
    y = g.input(HIDDEN, name="y")
    g.output(g.add(g.attend(y, a, a, memory=True), g.attend(y, b, b, memory=True)))
    with pytest.raises(cgru.UnsupportedError, match=r"it takes a \(B, S\(a\), 8\), b \(B, S\(b\), 8\), y \(B, T, 8\)"):
        cgru.Model(g).encoder_decoder()


def test_a_decoder_by_itself_is_told_how_it_is_searched() -> None:
    w = tensors()
    g = cgru.Graph()
    token = g.input(name="token", dtype="int64")
    y = g.layer(cgru.GRU.from_torch(w, "decoder."), g.layer(cgru.Embedding(w["embedding.weight"]), token))
    g.output(g.layer(cgru.Dense(w["out.weight"], w["out.bias"]), g.concat(y, attended(g, y, w, "dot"))))
    with pytest.raises(cgru.UnsupportedError, match=r"inputs=\{'memory'"):
        cgru.Model(g).encoder_decoder()


def test_a_mask_that_the_encoder_uses_up_is_its_own() -> None:
    """A mean of the frames that count is handed over, without a time axis; the decoder knows of no mask."""
    g = cgru.Graph()
    source = g.input(FEATURES, name="source", time="source")
    token = g.input(HIDDEN, name="token")
    mean = g.pool_whole(source, g.mask_of_input(source), kind="mean")
    h = g.dense(mean, units=HIDDEN, weights={"weight": arr(HIDDEN, FEATURES)})
    g.output(g.add(token, g.expand_time(h, token)))
    made: Any = cgru.Model(g).encoder_decoder()
    x, y = arr(2, 5, FEATURES), arr(2, 4, HIDDEN)
    handed, _ = made["encode"].run(x, lengths=[5, 2])
    expected = np.stack([cgru.Model(g)({"source": x[i, :n], "token": y[i]}) for i, n in enumerate((5, 2))])
    got = made["decode"]({"token": y, made["encode"].graph.outputs[0]: handed})
    np.testing.assert_array_equal(got, expected)


def test_a_mask_with_nothing_of_its_frames_is_refused() -> None:
    """The steps look at ids and their mask: frames of the source that the encoder makes nothing of."""
    g = cgru.Graph()
    source = g.input(HIDDEN, name="source", time="source")
    token = g.input(HIDDEN, name="token")
    mean = g.pool_whole(source, kind="mean")
    context = g.attend(token, source, source, g.mask_of_input(source))
    g.output(g.add(context, g.expand_time(mean, token)))
    with pytest.raises(cgru.UnsupportedError, match="look at the mask of 'source', and at nothing that is made"):
        cgru.Model(g).encoder_decoder()


# ---- Keras and PyTorch -------------------------------------------------------------------------------------------


def _keras_pair(kind: str, both_ways: bool) -> Any:
    keras = pytest.importorskip("keras", reason="Keras is not installed")
    layers = keras.layers
    letters = keras.Input((None,), dtype="int32", name="letters")
    spoken = keras.Input((None,), dtype="int32", name="spoken")
    x = layers.Embedding(VOCABULARY, 6, mask_zero=True)(letters)
    if both_ways:
        memory, *ends = layers.Bidirectional(layers.GRU(4, return_sequences=True, return_state=True))(x)
        state = layers.Concatenate()(ends)
    else:
        memory, state = layers.GRU(8, return_sequences=True, return_state=True)(x)
    y = layers.GRU(8, return_sequences=True)(layers.Embedding(VOCABULARY, 6)(spoken), initial_state=state)
    if kind == "additive":
        y = layers.Concatenate()([y, layers.AdditiveAttention()([layers.Dense(8)(y), memory])])
    if kind == "general":
        y = layers.Concatenate()([y, layers.Attention()([y, memory, layers.Dense(8)(memory)])])
    model = keras.Model([letters, spoken], layers.Dense(VOCABULARY, kernel_initializer="random_normal")(y))
    rng = np.random.default_rng(5)
    model.set_weights([rng.standard_normal(array.shape) * 0.8 for array in model.get_weights()])
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("kind", ["", "general", "additive"])
def test_keras_models_of_source_and_target(kind: str, both_ways: bool, tmp_path: Path) -> None:
    """From the .keras file of the model as it is trained; words end in zeros, which the encoder's mask leaves out."""
    model = _keras_pair(kind, both_ways)
    model.save(tmp_path / "pair.keras")
    net: Any = cgru.load(tmp_path / "pair.keras").encoder_decoder()
    letters = ids(3, 6)
    letters[1, 4:] = letters[2, 1:] = 0
    found = cgru.greedy(net, letters, start=1, stop=2, max_steps=8)
    for row, tokens, score in zip(letters, *found, strict=True):
        path, total = [1], 0.0
        while len(path) <= 8 and path[-1] != 2:
            logits = np.asarray(model([row[None], np.array([path])]).detach(), np.float64)[0, -1]
            path.append(int(logits.argmax()))
            total += logits.max() - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert tokens.tolist() == [token for token in path[1:] if token != 2]
        assert score == pytest.approx(total, abs=1e-4)


def test_a_torch_module_of_source_and_target() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn

    class Pair(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, 6)
            self.encoder = nn.GRU(6, 5, batch_first=True, bidirectional=True)
            self.bridge = nn.Linear(10, 8)
            self.decoder = nn.GRU(6, 8, batch_first=True)
            self.out = nn.Linear(8, VOCABULARY)

        def forward(self, source: Any, target: Any) -> Any:
            _, last = self.encoder(self.embedding(source))
            state = torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=1)))[None]
            return self.out(self.decoder(self.embedding(target), state)[0])

    torch.manual_seed(2)
    module = Pair().eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight *= 3
    net: Any = cgru.from_torch(module, example=(torch.tensor(ids(2, 7)), torch.tensor(ids(2, 5)))).encoder_decoder()
    assert "verified against the module" in str(net)
    source = ids(2, 6)
    found = cgru.beam(net, source, start=1, stop=2, max_steps=8, width=1)
    for row, tokens in zip(source, found.tokens, strict=True):
        path = [1]
        while len(path) <= 8 and path[-1] != 2:
            with torch.no_grad():
                path.append(int(module(torch.tensor(row[None]), torch.tensor([path]))[0, -1].argmax()))
        assert tokens.tolist() == [token for token in path[1:] if token != 2]


def test_a_torch_module_whose_attention_is_written_in_products() -> None:
    """Luong's general form, softmax(y · W memory); the whole advances with the source, not with y."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn

    class Attending(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(VOCABULARY, 6)
            self.encoder, self.decoder = (nn.GRU(6, 8, batch_first=True) for _ in range(2))
            self.key, self.out = nn.Linear(8, 8, bias=False), nn.Linear(16, VOCABULARY)

        def forward(self, source: Any, target: Any) -> Any:
            memory, state = self.encoder(self.table(source))
            y, _ = self.decoder(self.table(target), state)
            weights = torch.softmax(torch.bmm(y, self.key(memory).transpose(1, 2)), dim=2)
            return self.out(torch.cat([y, torch.bmm(weights, memory)], dim=2))

    torch.manual_seed(4)
    module = Attending().eval()
    with torch.no_grad():
        for weight in module.parameters():
            weight *= 3
    source, target = ids(2, 7), ids(2, 5)
    net: Any = cgru.from_torch(module, example=(torch.tensor(source), torch.tensor(target))).encoder_decoder()
    given = net["encode"](source)
    steps = net["decode"].stream(2, inputs=given)
    got = np.stack([steps.step(target[:, t]) for t in range(5)], axis=1)
    with torch.no_grad():
        expected = module(torch.tensor(source), torch.tensor(target)).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


def test_a_torch_module_that_writes_token_by_token_is_told_what_to_pass() -> None:
    """A forward() that calls the decoder once a token, as tutorials train it, and one that is not there."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn

    class Decoder(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.rnn = nn.Embedding(VOCABULARY, 6), nn.GRU(6, 8, batch_first=True)
            self.out = nn.Linear(8, VOCABULARY)

        def forward(self, token: Any, state: Any) -> Any:
            y, state = self.rnn(self.embedding(token), state)
            return self.out(y), state

    class Both(nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.table, self.encoder = nn.Embedding(VOCABULARY, 6), nn.GRU(6, 8, batch_first=True)
            self.decoder = Decoder()

    class Written(Both):
        def forward(self, source: Any, target: Any) -> Any:
            _, state = self.encoder(self.table(source))
            made = []
            token = target[:, :1]
            for _ in range(target.shape[1]):
                scores, state = self.decoder(token, state)
                made.append(scores)
                token = scores.argmax(-1)
            return torch.cat(made, dim=1)

    class AtOnce(Both):
        def forward(self, source: Any, tokens: Any) -> Any:
            return self.decoder(tokens, self.encoder(self.table(source))[1])[0]

    example = (torch.tensor(ids(2, 7)), torch.tensor(ids(2, 5)))
    for module in (Both(), Written()):
        with pytest.raises(cgru.CgruError, match=r"of an encoder and a decoder pass a module whose forward\(source"):
            cgru.from_torch(module, example=example)
    made: Any = cgru.from_torch(AtOnce(), example=example).encoder_decoder()
    assert list(made) == ["encode", "decode"]
