"""Greedy and beam search: against PyTorch in float64, against all sequences there are, and their laws."""

from __future__ import annotations

import itertools
import signal
import time
from typing import Any, cast

import numpy as np
import pytest
from seq2seq import Torch, graphs, ids, tensors

import cgru
from cgru.engine.rows import Rows
from cgru.search.beams import Beams
from cgru.search.ranking import Scores as Meaning

KINDS = ["", "general", "additive"]
START, STOP = 0, 3
LENGTHS = [7, 3, 1, 5, 6, 2]
TOLD: dict[str, Any] = {"start": START, "stop": STOP, "max_steps": 9}


def network(attention: str = "additive", **options: Any) -> cgru.Model:
    return cgru.Model(graphs(attention, **{"seed": 29, "scale": 0.7, **options}))


def of_torch(attention: str = "additive", **options: Any) -> Torch:
    pytest.importorskip("torch")
    return Torch(attention, **{"seed": 29, "scale": 0.7, **options})


X = np.random.default_rng(16).integers(1, 9, (6, 7))


def textbook(net: Torch, x: np.ndarray, width: int, steps: int, divisor: Any, stop: int = STOP) -> list[Any]:
    """Beam search as it is written down: (score, tokens) of all complete sequences, best first."""
    memory, state = net.encode(x)
    beams: list[Any] = [(0.0, [], state)]
    done: list[Any] = []
    for t in range(steps):
        grown = []
        for total, tokens, at in beams:
            log, after = net.step(tokens[-1] if tokens else START, memory, at)
            grown += [(total + log[v], [*tokens, v], after) for v in range(len(log))]
        grown.sort(key=lambda beam: -beam[0])
        beams = []
        for total, tokens, after in grown[: width - len(done)]:
            if tokens[-1] == stop or t + 1 == steps:
                done.append((total / divisor(len(tokens)), tokens))
            else:
                beams.append((total, tokens, after))
        if not beams:
            break
    return sorted(done, key=lambda one: -one[0])


def shown(tokens: list[int], stop: int = STOP) -> list[int]:
    return tokens[:-1] if tokens[-1] == stop else tokens


@pytest.mark.parametrize("backend", ["packed", "reference"])
@pytest.mark.parametrize("attention", KINDS)
def test_greedy_is_pytorchs(attention: str, backend: str) -> None:
    net, peer = cgru.Model(graphs(attention, seed=29, scale=0.7), backend=backend), of_torch(attention)
    found = cgru.greedy(net, X, lengths=LENGTHS, **TOLD)
    assert len({len(row) for row in found.tokens}) > 1, "the rows should end at different steps"
    for row, length, tokens, score in zip(X, LENGTHS, *found, strict=True):
        (wanted, path), *_ = textbook(peer, row[:length], 1, 9, lambda n: 1)
        assert shown(path) == tokens.tolist()
        assert score == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("width", [2, 3, 6])
@pytest.mark.parametrize(("penalty", "power"), [("gnmt", 0.0), ("gnmt", 1.0), ("power", 0.7), ("power", -0.5)])
def test_beams_are_the_textbooks(width: int, penalty: str, power: float) -> None:
    def divisor(n: int) -> float:
        return ((5 + n) / 6) ** power if penalty == "gnmt" else n**power

    net, peer = network(), of_torch()
    found = cgru.beam(net, X, lengths=LENGTHS, width=width, n_best=width, length_penalty=power, penalty=penalty, **TOLD)
    best = cgru.beam(net, X, lengths=LENGTHS, width=width, length_penalty=power, penalty=penalty, **TOLD)
    for i, (row, length) in enumerate(zip(X, LENGTHS, strict=True)):
        wanted = textbook(peer, row[:length], width, 9, divisor)
        assert [tokens.tolist() for tokens in found.tokens[i]] == [shown(path) for _, path in wanted]
        np.testing.assert_allclose(found.scores[i], [score for score, _ in wanted], atol=2e-5)
        # Leaving early, as with one of the best wanted, finds the same best.
        assert best.tokens[i].tolist() == found.tokens[i][0].tolist()
        assert best.scores[i] == found.scores[i][0]


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(power: float) -> None:
    """Four tokens and four steps: every sequence there is, by PyTorch in float64."""
    net, peer, steps = network("general", vocabulary=4), of_torch("general", vocabulary=4), 4
    x = ids(5) % 4
    memory, begin = peer.encode(x)
    found = []
    for n in range(1, steps + 1):
        for path in itertools.product(range(4), repeat=n):
            if STOP in path[:-1] or (n < steps and path[-1] != STOP):
                continue
            state, total, before = begin, 0.0, START
            for token in path:
                log, state = peer.step(before, memory, state)
                total, before = total + log[token], token
            found.append((total / n**power, list(path)))
    found.sort(key=lambda one: -one[0])
    made = cgru.beam(
        net, x, width=len(found), n_best=len(found), length_penalty=power, penalty="power", start=START, stop=STOP,
        max_steps=steps,
    )  # fmt: skip
    assert [tokens.tolist() for tokens in made.tokens] == [shown(path) for _, path in found]
    np.testing.assert_allclose(made.scores, [score for score, _ in found], atol=2e-5)


@pytest.mark.parametrize("power", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("attention", KINDS)
def test_a_beam_of_one_is_greedy(attention: str, power: float) -> None:
    net = network(attention)
    one = cgru.beam(net, X, lengths=LENGTHS, width=1, length_penalty=power, penalty="power", **TOLD)
    greedy = cgru.greedy(net, X, lengths=LENGTHS, **TOLD)
    for a, b in zip(one.tokens, greedy.tokens, strict=True):
        np.testing.assert_array_equal(a, b)
    counts = [len(tokens) + (len(tokens) < 9) for tokens in greedy.tokens]
    np.testing.assert_allclose(one.scores * np.array(counts, float) ** power, greedy.scores, rtol=1e-12)


@pytest.mark.parametrize("attention", KINDS)
def test_a_batch_is_its_rows_to_the_bit(attention: str) -> None:
    net = network(attention)
    together = cgru.greedy(net, X, lengths=LENGTHS, **TOLD)
    beams = cgru.beam(net, X, lengths=LENGTHS, width=4, n_best=4, **TOLD)
    for i, (row, length) in enumerate(zip(X, LENGTHS, strict=True)):
        alone = cgru.greedy(net, row[:length], **TOLD)
        np.testing.assert_array_equal(alone.tokens, together.tokens[i])
        assert alone.scores == together.scores[i]
        many = cgru.beam(net, row[:length], width=4, n_best=4, **TOLD)
        np.testing.assert_array_equal(many.scores, beams.scores[i])
        for a, b in zip(many.tokens, beams.tokens[i], strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_best_are_sorted_and_none_twice() -> None:
    found = cgru.beam(network(), X, lengths=LENGTHS, width=8, n_best=8, length_penalty=0.6, **TOLD)
    for tokens, scores in zip(*found, strict=True):
        assert (np.diff(scores) <= 0).all()
        assert len({tuple(path) for path in tokens}) == len(tokens) == 8


def test_networks_that_give_probabilities_decode_as_those_of_logits() -> None:
    logits, probabilities = network(), network(softmax=True)
    for search in (cgru.greedy, cgru.beam, cgru.sample):
        a, b = (search(net, X, lengths=LENGTHS, **TOLD) for net in (logits, probabilities))
        for one, other in zip(a.tokens, b.tokens, strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


def test_what_is_kept_is_of_its_own_tokens() -> None:
    """Attention weights of each token, against a run of the decoder over the tokens found."""
    both = graphs("dot", seed=29, scale=0.7)
    d = both["decode"]
    d.output(d.attend_weights("decoder", "memory", "memory.mask", limit=8, name="weights"))
    net: Any = cgru.Model(both)
    given = net["encode"](X) | {"memory_lengths": LENGTHS}
    for search in (cgru.greedy, cgru.beam):
        found: Any = search(net, X, lengths=LENGTHS, keep="weights", **TOLD)
        plain: Any = search(net, X, lengths=LENGTHS, **TOLD)
        for i, length in enumerate(LENGTHS):
            tokens, weights = found.tokens[i], found.kept["weights"][i]
            np.testing.assert_array_equal(tokens, plain.tokens[i])
            assert found.scores[i] == plain.scores[i]
            h0 = net["encode"](X[i, :length])["h0"]
            row = {"h0": h0, "memory": given["memory"][i], "memory_lengths": length}
            whole = net["decode"]({"token": np.append(START, tokens[:-1]), **row})["weights"][: len(tokens)]
            np.testing.assert_array_equal(weights, whole)
            np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
            assert not weights[:, length:].any()


def test_allowed_tokens() -> None:
    net = network()
    only = np.isin(np.arange(9), [1, 2, STOP])
    for allowed in ([1, 2, STOP], only, lambda tokens: np.tile(only, (len(tokens), 1)), lambda tokens: only):
        for search in (cgru.greedy, cgru.beam, cgru.sample):
            found: Any = search(net, X, allowed=allowed, **TOLD)
            assert {int(t) for row in found.tokens for t in row} <= {1, 2}

    def rising(tokens: list[np.ndarray]) -> np.ndarray:
        """No token that is smaller than the one before."""
        return np.array([[v >= (row[-1] if len(row) else 0) for v in range(9)] for row in tokens])

    free: dict[str, Any] = {"start": START, "max_steps": 9}
    for search in (cgru.greedy, cgru.beam, cgru.sample):
        found = search(net, X, allowed=rising, **free)
        assert all((np.diff(row) >= 0).all() and len(row) == 9 for row in found.tokens)


def test_an_allowed_search_is_that_of_the_rest_of_the_vocabulary() -> None:
    """Scores stay those of the network: against PyTorch, with the other tokens passed over."""
    net, peer = network(), of_torch()
    memory, state = peer.encode(X[0])
    before, total = START, 0.0
    wanted: list[int] = []
    for _ in range(5):
        log, state = peer.step(before, memory, state)
        before = int(np.argmax(np.where(np.isin(np.arange(9), [1, 5, 6]), log, -np.inf)))
        total, wanted = total + log[before], [*wanted, before]
    found = cgru.greedy(net, X[0], start=START, max_steps=5, allowed=[1, 5, 6])
    assert found.tokens.tolist() == wanted
    assert found.scores == pytest.approx(total, abs=2e-5)


def test_least_and_most_steps() -> None:
    net = network()
    free = cgru.greedy(net, X, lengths=LENGTHS, **TOLD)
    assert min(map(len, free.tokens)) < 5
    for search in (cgru.greedy, cgru.beam, cgru.sample):
        found: Any = search(net, X, lengths=LENGTHS, **{**TOLD, "min_steps": 5})
        assert min(map(len, found.tokens)) >= 5
        short: Any = search(net, X, lengths=LENGTHS, **{**TOLD, "max_steps": 1})
        assert max(map(len, short.tokens)) <= 1


def test_a_language_model_goes_on_from_its_state() -> None:
    """Layers in a row, without an encoder: a prompt, its state, and what follows."""
    w = tensors(seed=29, scale=0.7)
    gru = cgru.GRU.from_torch(w, "decoder.")
    net = cgru.Model([cgru.Embedding(w["embedding.weight"]), gru, cgru.Dense(w["head.weight"], w["head.bias"])])
    prompt = ids(2, 6)
    y, state = net.run(prompt)
    first = y[:, -1].argmax(axis=1)
    found = cgru.greedy(net, start=first, max_steps=5, state=state, batch=2)
    for i in range(2):
        tokens = [*prompt[i], first[i]]
        for wanted in found.tokens[i]:
            tokens.append(int(net(np.array(tokens))[-1].argmax()))
            assert tokens[-1] == wanted
    one = cgru.greedy(net, start=int(first[0]), max_steps=5, state=net.run(prompt[0])[1])
    np.testing.assert_array_equal(one.tokens, found.tokens[0])


def test_a_decoder_by_itself_and_a_saved_one(tmp_path: Any) -> None:
    net: Any = network()
    given = net["encode"](X) | {"memory_lengths": [7] * 6}
    wanted = cgru.greedy(net, X, lengths=[7] * 6, **TOLD)
    net.save(tmp_path / "net.safetensors")
    for found in (
        cgru.greedy(net["decode"], inputs=given, **TOLD),
        cgru.greedy(net, inputs=given, **TOLD),
        cgru.greedy(cgru.load(tmp_path / "net.safetensors"), X, **TOLD),
    ):
        np.testing.assert_array_equal(np.concatenate(found.tokens), np.concatenate(wanted.tokens))
        np.testing.assert_array_equal(found.scores, wanted.scores)


@pytest.mark.parametrize("seed", range(30))
def test_the_core_chooses_as_it_is_written_in_numpy(seed: int) -> None:
    """With ties, tokens without a probability and limits; scores within the rounding of the core's exponential."""
    core = pytest.importorskip("cgru.engine.backends._packed")
    rng = np.random.default_rng(seed)
    n, vocabulary = int(rng.integers(1, 6)), int(rng.choice([2, 7, 64, 65, 300]))
    x = (rng.integers(-8, 9, (n, vocabulary)) / 2).astype(np.float32)  # ties abound
    probabilities = bool(seed % 2)
    if probabilities:
        x = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
        x[rng.random(x.shape) < 0.2] = 0
        x[:, 0] = 0.1
    else:
        x[rng.random(x.shape) < 0.2] = -np.inf
        x[:, 0] = 1
    allowed = rng.random(x.shape) < 0.7 if seed % 3 else None
    if allowed is not None:
        allowed[:, 0] = True
    forbidden = int(rng.integers(1, vocabulary)) if seed % 5 == 0 else -1
    u = rng.random(n)
    made = [kind(x.astype(np.float32), probabilities, forbidden, allowed) for kind in (core.Scores, Meaning)]
    for call in range(2):
        tokens, scores = np.zeros((2, n), np.int64), np.zeros((2, n))
        for i, ranked in enumerate(made):
            if call == 0:
                ranked.likeliest(tokens[i], scores[i])
            else:
                ranked.draw(u, [1.0, 0.7, 2.0][seed % 3], [0, 3][seed % 2], [1.0, 0.8][seed % 2], tokens[i], scores[i])
        np.testing.assert_array_equal(tokens[0], tokens[1])
        np.testing.assert_allclose(scores[0], scores[1], atol=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_core_keeps_beams_as_it_is_written_in_numpy(seed: int) -> None:
    """With two tokens that always tie, inputs that end at different steps, and more wanted than can be found."""
    core = pytest.importorskip("cgru.engine.backends._packed")
    rng = np.random.default_rng(seed)
    inputs, width, vocabulary = int(rng.integers(1, 5)), int(rng.integers(1, 7)), int(rng.choice([2, 6, 80]))
    best, stop, most = int(rng.integers(1, width + 1)), int(rng.integers(-1, vocabulary)), int(rng.integers(1, 12))
    divisor = np.arange(most + 1.0).clip(1) ** [0.0, 0.8, -0.4][seed % 3]
    kinds = ((core.Beams, core.Scores), (Beams, Meaning))
    a, b = (beams(inputs, width, best, stop, divisor) for beams, _ in kinds)
    kept: list[tuple[int, int]] = []
    while a.rows:
        x = rng.standard_normal((a.rows, vocabulary)).astype(np.float32) * 2
        if vocabulary > 2:
            x[:, -1] = x[:, 0]
        x[:, stop] += rng.choice([0, 3])
        allowed = rng.random(x.shape) < 0.8 if seed % 2 else None
        if allowed is not None:
            allowed[:, 1] = True
        for beams, (_, scores) in zip((a, b), kinds, strict=True):
            beams.step(scores(x, False, -1, allowed))
        assert (a.rows, a.steps, a.moved) == (b.rows, b.steps, b.moved)
        np.testing.assert_array_equal(a.parents, b.parents)
        np.testing.assert_array_equal(a.tokens, b.tokens)
        kept += [(a.steps, row) for row in range(a.rows)]
    for step, row in kept:
        for one, other in zip(a.path(step, row), b.path(step, row), strict=True):
            np.testing.assert_array_equal(one, other)
    for i in range(inputs):
        one, other = a.complete(i), b.complete(i)
        assert len(one) >= 1
        assert [tuple(c[1:]) for c in one] == [tuple(c[1:]) for c in other]
        np.testing.assert_allclose([c[0] for c in one], [c[0] for c in other], atol=1e-5)


SEARCHES: list[tuple[Any, dict[str, Any]]] = [
    (cgru.greedy, {}),
    (cgru.sample, {"count": 3, "seed": 5}),
    (cgru.sample, {"top_k": 4, "top_p": 0.8, "temperature": 0.6}),
    (cgru.beam, {"width": 1}),
    (cgru.beam, {"width": 5, "length_penalty": 0.6}),
    (cgru.beam, {"width": 4, "n_best": 4, "length_penalty": 1.0, "penalty": "power"}),
    (cgru.beam, {"width": 3, "stop": None}),
]


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize(("search", "options"), SEARCHES)
def test_a_search_in_the_core_is_that_of_single_steps(
    search: Any, options: dict[str, Any], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit: with a function that allows everything, and where the core has no loops."""
    for softmax in (False, True):
        net = cgru.Model(graphs(attention, seed=29, scale=0.7, softmax=softmax))
        told = {**TOLD, "lengths": LENGTHS, "min_steps": 2, **options}
        within = search(net, X, **told)
        hooked = search(net, X, **told, allowed=lambda tokens: None)
        with monkeypatch.context() as patch:
            patch.setattr(Rows, "in_core", False)
            beside = search(net, X, **told)
        for other in (hooked, beside):
            np.testing.assert_equal(within.tokens, other.tokens)
            np.testing.assert_equal(within.scores, other.scores)


def test_a_long_search_hears_ctrl_c() -> None:
    """A signal in the middle of the core's loop: it ends within a second of processor time, not after 2^20 steps."""
    net = network()
    given = cast(Any, net)["encode"](X)
    for search in (cgru.greedy, cgru.beam, cgru.sample):
        begun = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.1)
        before = signal.signal(signal.SIGVTALRM, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                cast(Any, search)(net, inputs=given, start=START, max_steps=1 << 20)
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
        assert time.process_time() - begun < 1.5


def test_scores_that_are_no_numbers() -> None:
    core = pytest.importorskip("cgru.engine.backends._packed")
    token, score = np.zeros(1, np.int64), np.zeros(1)
    for kind in (core.Scores, Meaning):
        for x, message in (
            ([np.nan, 1], "NaN or infinity"),
            ([np.inf, 1], "NaN or infinity"),
            ([-np.inf, -np.inf], "no token that is allowed"),
        ):
            with pytest.raises(cgru.CgruError, match=message):
                kind(np.array([x], np.float32), False).likeliest(token, score)
        with pytest.raises(cgru.CgruError, match="no token that is allowed"):
            kind(np.zeros((1, 2), np.float32), False, 0, np.array([[True, False]])).likeliest(token, score)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a start outside the vocabulary": ({"start": 9}, r"start: token id 9 is outside the vocabulary \[0, 9\)"),
    "a start that is no number": ({"start": "<s>"}, "start"),
    "starts for other rows": ({"start": [1, 2]}, "one for each of 6 rows"),
    "a stop outside the vocabulary": ({"stop": 9}, r"stop: token 9 is outside the vocabulary \[0, 9\)"),
    "a negative stop": ({"stop": -1}, "stop: expected at least 0"),
    "no steps": ({"max_steps": 0}, "max_steps: expected at least 1"),
    "more least steps than most": ({"min_steps": 10}, "min_steps: 10 is more than max_steps, 9"),
    "an empty row": ({"lengths": [7, 0, 1, 1, 1, 1]}, "length 0"),
    "lengths beyond": ({"lengths": [8, 1, 1, 1, 1, 1]}, r"outside \[0, T\]"),
    "no input": ({"x": None}, "'h0' is missing"),
    "an empty input": ({"x": np.zeros((6, 0), int)}, "nothing to attend to"),
    "no rows": ({"x": np.zeros((0, 5), int)}, "no rows"),
    "tokens outside the vocabulary": ({"x": ids(6, 7) + 9}, "outside the vocabulary"),
    "an output to keep that is none": ({"keep": "weights"}, "no other output"),
    "an allowed token outside": ({"allowed": [9]}, "outside the vocabulary"),
    "allowed of another shape": ({"allowed": np.ones(4, bool)}, r"booleans \(9,\)"),
    "nothing allowed": ({"allowed": np.zeros(9, bool)}, "no token that is allowed"),
    "an unknown input": ({"inputs": {"memories": 1}}, "no input 'memories' once"),
    "rows that are not there": ({"batch": 5}, "batch: the inputs have 6 rows"),
    "a state of another network": ({"state": "other"}, "another network"),
    "no width": ({"width": 0}, "width: expected at least 1"),
    "more of the best than the beam is wide": ({"width": 2, "n_best": 3}, "2 sequences at most"),
    "an unknown penalty": ({"penalty": "length"}, "gnmt, power"),
    "a penalty beyond float64": ({"length_penalty": 99, "penalty": "power", "max_steps": 2000}, "leave float64"),
    "a penalty that is no number": ({"length_penalty": float("nan")}, "length_penalty"),
    "no temperature": ({"temperature": 0.0}, "temperature: expected a number above 0"),
    "no share": ({"top_p": 0.0}, r"top_p: expected a number in \(0, 1\]"),
    "a negative seed": ({"seed": -1}, "seed"),
    "no draws": ({"count": 0}, "count"),
}


@pytest.mark.parametrize("name", BAD)
def test_misuse_is_told_by_name(name: str) -> None:
    change, message = BAD[name]
    search: Any = cgru.greedy
    if change.keys() & {"width", "n_best", "penalty", "length_penalty"}:
        search = cgru.beam
    elif change.keys() & {"temperature", "top_p", "seed", "count"}:
        search = cgru.sample
    if "state" in change:
        change = {"state": cgru.Model([cgru.GRU.from_torch(tensors(), "decoder.")]).run(np.zeros((6, 1, 6)))[1]}
    with pytest.raises(cgru.CgruError, match=message):
        search(network(), **{"x": X, **TOLD, **change})


def test_networks_that_cannot_be_searched() -> None:
    dense = cgru.Model([cgru.Dense(np.eye(3))])
    with pytest.raises(cgru.CgruError, match="feeds back tokens"):
        cgru.greedy(dense, start=0, max_steps=3)
    wide = cgru.Model([cgru.Embedding(np.ones((3, 4))), cgru.Dense(np.ones((5, 4)))])
    with pytest.raises(cgru.ShapeError, match=r"must score the tokens .* \(3 ids\)"):
        cgru.greedy(wide, start=0, max_steps=3)
    with pytest.raises(cgru.CgruError, match="decoder by itself"):
        cgru.greedy(wide, [1, 2], start=0, max_steps=3)
    only = cgru.Model({"encode": graphs()["encode"]})
    with pytest.raises(cgru.CgruError, match="no entry 'decode'"):
        cgru.greedy(only, [1, 2], start=0, max_steps=3)
    with pytest.raises(cgru.CgruError, match=r"expected a cgru\.Model"):
        cgru.greedy(3, start=0, max_steps=3)  # type: ignore[arg-type]
