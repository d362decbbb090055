"""Layers from tensors under PyTorch's names: what is inferred, what is refused, and what ``layers=`` says.

The golden files and their outputs come from PyTorch 2.13.0 (tests/make_fixtures/torch_models.py).
"""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgru import GRU, LSTM, RNN, Activation, Dense, Embedding, Model
from cgru.errors import CgruError, FormatError, ShapeError, UnsupportedError
from cgru.formats import load
from cgru.formats.containers.tensorfile import TensorFile
from cgru.formats.readers.torch_layers import layers_from

FIXTURES = Path(__file__).parent / "fixtures" / "torch"
GOLDEN = np.load(FIXTURES / "golden.npz")

Tensors = dict[str, np.ndarray]


def gru(inputs: int, hidden: int, path: str = "rnn", *, layers: int = 1, both: bool = False, bias: bool = True,
        gates: int = 3, seed: int = 0) -> Tensors:  # fmt: skip
    rng = np.random.default_rng(seed)
    found, size = {}, inputs
    for layer in range(layers):
        for reverse in ("", "_reverse")[: 1 + both]:
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (gates * hidden, size),
                "weight_hh": (gates * hidden, hidden),
            }
            if bias:
                shapes |= {"bias_ih": (gates * hidden,), "bias_hh": (gates * hidden,)}
            for stem, shape in shapes.items():
                name = f"{stem}_l{layer}{reverse}"
                found[f"{path}.{name}" if path else name] = rng.standard_normal(shape).astype(np.float32)
        size = hidden * (1 + both)
    return found


def linear(inputs: int, outputs: int, path: str = "fc", *, bias: bool = True, seed: int = 1) -> Tensors:
    rng = np.random.default_rng(seed)
    found = {f"{path}.weight": rng.standard_normal((outputs, inputs)).astype(np.float32)}
    if bias:
        found[f"{path}.bias"] = rng.standard_normal(outputs).astype(np.float32)
    return found


def table(vocabulary: int, size: int, path: str = "embed") -> Tensors:
    return linear(size, vocabulary, path, bias=False, seed=2)


def build(tensors: Tensors, layers: Any = None, *, kind: str = "torch", prefix: str | None = None,
          aliases: dict[str, str] | None = None) -> list[Any]:  # fmt: skip
    return layers_from(TensorFile("net.pt", kind, tensors, aliases or {}), layers, prefix)


def names(layers: list[Any]) -> list[tuple[type, str]]:
    return [(type(layer), layer.name) for layer in layers]


def refusal(tensors: Tensors, layers: Any = None, error: type[CgruError] = CgruError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        build(tensors, layers, **options)
    message = str(caught.value)
    assert message.startswith("net.pt: ")
    assert "\n" not in message
    return message


def suggested(message: str) -> list[Any]:
    """The list after ``layers=`` in a message, as a user would paste it."""
    return ast.literal_eval(re.findall(r"layers=(\[.*?\])(?:[,;]|$)", message)[-1])


# Against PyTorch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "layers", "state"),
    [
        ("stack", None, "gru.h"),
        ("cell", None, "gru.h"),
        ("tagger", None, "rnn.h"),
        ("tied", ["embed", "rnn", "head"], "rnn.h"),
        ("forecaster", None, "gru.h"),
        ("no_bias", None, "gru.h"),
        ("classifier", ["rnn", "last", "fc1", "relu", "fc2"], "rnn.h"),
        ("classifier", "rnn, fc1, relu, fc2", "rnn.h"),
    ],
)
def test_outputs_and_states_are_pytorchs(case: str, layers: Any, state: str, backend: str) -> None:
    x, h0, y = (GOLDEN[f"{case}:{key}"] for key in ("x", "h0", "y"))
    lengths = GOLDEN.get(f"{case}:lengths")
    net = load(FIXTURES / f"{case}.pt", layers=layers, backend=backend)
    found, after = net.run(x, {state: h0}, lengths)
    if case == "classifier" and "last" not in layers:
        found = found[np.arange(len(x)), lengths - 1]
    assert np.abs(found - y).max() <= 2e-6
    assert np.abs(after.arrays()[state] - GOLDEN[f"{case}:h_n"]).max() <= 2e-6


# Inference ------------------------------------------------------------------------------------------------


@given(
    inputs=st.integers(1, 20), hidden=st.integers(1, 20), depth=st.integers(1, 3), both=st.booleans(),
    bias=st.booleans(), with_table=st.booleans(), with_head=st.booleans(), path=st.sampled_from(["rnn", "", "a.b"]),
    kind=st.sampled_from(["torch", "npz"]), shuffle=st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_stack_with_or_without_embedding_and_head_is_inferred(
    inputs, hidden, depth, both, bias, with_table, with_head, path, kind, shuffle
) -> None:
    outputs, given = 21, hidden * (1 + both)
    parts = [table(30, inputs)] if with_table else []
    parts += [gru(inputs, hidden, path, layers=depth, both=both, bias=bias)]
    parts += [linear(given, outputs, "out")] if with_head else []
    tensors: Tensors = {}
    for part in parts:
        tensors |= part
    if kind == "npz":
        items = list(tensors.items())
        shuffle.shuffle(items)
        tensors = dict(items)
    layers = build(tensors, kind=kind)
    kinds = [Embedding] * with_table + [GRU] + [Dense] * with_head
    assert [type(layer) for layer in layers] == kinds
    found = layers[int(with_table)]
    assert (found.num_layers, found.bidirectional, found.name) == (depth, both, path or "gru")
    for key, array in found.arrays().items():
        assert np.array_equal(array, tensors[f"{path}.{key}" if path else key])
    assert Model(layers).output_size == (outputs if with_head else given)


MUTATIONS = ("drop", "rename", "transpose", "cut", "integer", "scalar", "add", "nan", "empty")


@given(st.lists(st.tuples(st.sampled_from(MUTATIONS), st.integers(0, 30)), min_size=1, max_size=3), st.booleans())
def test_a_changed_state_dict_is_read_or_refused_with_a_cgru_error(changes, said) -> None:
    tensors = table(9, 4) | gru(4, 3, layers=2, both=True) | linear(6, 2)
    for what, where in changes:
        key = list(tensors)[where % len(tensors)]
        array = tensors.pop(key)
        if what == "rename":
            tensors[key + "_x"] = array
        elif what == "add":
            tensors |= {key: array, f"more.{key}": array}
        elif what == "empty":
            tensors[key] = array[..., :0] if array.ndim else array
        elif what != "drop":
            changed = {
                "transpose": array.T,
                "cut": array[:-1] if array.ndim else array,
                "integer": np.ones(array.shape, np.int32),
                "scalar": np.ones((), np.float32),
                "nan": array * np.nan,
            }
            tensors[key] = changed[what]
        if not tensors:
            return
    layers = None
    with suppress(CgruError):
        layers = build(tensors, ["embed", "rnn", "fc"] if said else None)
    if layers is not None:
        assert sum(layer.parameters for layer in layers) == sum(array.size for array in tensors.values())


def test_separate_modules_whose_sizes_leave_one_order_are_chained() -> None:
    layers = build(linear(5, 2, "a") | gru(3, 5, "b") | gru(4, 3, "c") | table(9, 4, "d"), kind="npz")
    assert names(layers) == [(Embedding, "d"), (GRU, "c"), (GRU, "b"), (Dense, "a")]


def test_a_lone_weight_after_the_recurrent_module_is_a_linear_without_bias() -> None:
    assert names(build(gru(3, 5) | linear(5, 2, "out", bias=False))) == [(GRU, "rnn"), (Dense, "out")]


def test_a_lone_weight_that_fits_before_and_after_is_ambiguous() -> None:
    message = refusal(gru(5, 5) | table(9, 5, "w"), error=UnsupportedError)
    assert "in more than one" in message
    assert names(build(gru(5, 5) | table(9, 5, "w"), suggested(message))) == [(GRU, "rnn"), (Dense, "w")]


def test_the_order_of_definition_settles_a_single_recurrent_module_and_its_head() -> None:
    tensors = gru(1, 32) | linear(32, 1)
    assert names(build(tensors)) == [(GRU, "rnn"), (Dense, "fc")]
    assert "in more than one order" in refusal(tensors, error=UnsupportedError, kind="safetensors")
    assert "in more than one order" in refusal(linear(32, 1) | gru(1, 32), error=UnsupportedError)


AMBIGUOUS = {
    "two Linear in a row": gru(3, 5) | linear(5, 4, "fc1") | linear(4, 2, "fc2"),
    "a Linear before the recurrent module": linear(6, 3, "proj") | gru(3, 5),
    "two recurrent modules of one size": gru(4, 4, "gru1") | gru(4, 4, "gru2") | linear(4, 2),
    "many alike": {k: v for i in range(30) for k, v in gru(2, 2, f"cells.{i}").items()},
    "a lone matrix": linear(4, 3, "w", bias=False),
}
#: What is no chain, or may be none.
BESIDE = {
    "an encoder and a decoder": gru(3, 5, "encoder.rnn") | gru(5, 4, "decoder.rnn"),
    "two embeddings": table(9, 4, "enc_emb") | gru(4, 4, "enc") | table(9, 4, "dec_emb") | gru(4, 4, "dec"),
    "directions apart": gru(3, 4, "forward") | gru(3, 4, "backward") | linear(8, 2),
    "real and imaginary": gru(4, 4, "gru_r") | gru(4, 4, "gru_i"),
    "two heads": gru(3, 5) | linear(5, 5, "mean") | linear(5, 5, "deviation"),
    "a GRU and a cell": gru(3, 5) | {"cell.weight_ih": np.ones((6, 5), "f4"), "cell.weight_hh": np.ones((6, 2), "f4")},
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_more_than_one_reading_shows_the_tensors_and_what_to_write(case: str) -> None:
    message = refusal(AMBIGUOUS[case], error=UnsupportedError)
    first, array = next(iter(AMBIGUOUS[case].items()))
    assert f"{first} {array.shape}" in message
    assert suggested(message)


@pytest.mark.parametrize("case", BESIDE)
def test_what_may_lie_side_by_side_is_not_offered_as_a_chain(case: str) -> None:
    message = refusal(BESIDE[case], error=UnsupportedError)
    assert not re.search(r"layers=\[", message)
    assert "in the order" in message or "in that order" in message
    if case == "real and imaginary":
        assert "'gru_r' and 'gru_i' have the same sizes and may lie side by side" in message


@pytest.mark.parametrize("case", ["two Linear in a row", "a Linear before the recurrent module", "many alike",
                                  "two recurrent modules of one size"])  # fmt: skip
def test_the_suggestion_can_be_pasted(case: str) -> None:
    tensors = AMBIGUOUS[case]
    layers = build(tensors, suggested(refusal(tensors)))
    assert sum(layer.parameters for layer in layers) == sum(array.size for array in tensors.values())


def test_other_cells_follow_from_the_rows() -> None:
    assert names(build(gru(3, 4, gates=4) | linear(4, 2))) == [(LSTM, "rnn"), (Dense, "fc")]
    tensors = gru(3, 4, gates=4, both=True)
    for suffix in ("_l0", "_l0_reverse"):
        tensors[f"rnn.weight_hr{suffix}"] = np.ones((2, 4), "f4")
        tensors[f"rnn.weight_hh{suffix}"] = np.ones((16, 2), "f4")
    (projected, head) = build(tensors | linear(4, 5))
    assert (projected.hidden_size, projected.output_size, projected.bidirectional) == (4, 4, True)
    assert type(head) is Dense


def test_the_nonlinearity_of_an_rnn_must_be_said() -> None:
    tensors = gru(3, 4, gates=1) | linear(4, 2)
    message = refusal(tensors, error=UnsupportedError)
    assert "tanh or relu" in message
    assert [type(layer) for layer in build(tensors, suggested(message))] == [RNN, Dense]
    said = [{"rnn": "rnn", "nonlinearity": "relu"}, "fc"]
    assert build(tensors, said)[0].nonlinearity == "relu"
    assert "nonlinearity" in refusal(gru(3, 4), [{"gru": "rnn", "nonlinearity": "relu"}])


def test_sizes_order_a_bounded_number_of_modules() -> None:
    parts = [gru(i + 1, i + 2, f"cells.{i}") for i in range(33)]
    chain = {name: array for part in parts[:32] for name, array in part.items()}
    assert [layer.name for layer in build(chain)] == [f"cells.{i}" for i in range(32)]
    assert "33 modules are too many" in refusal(chain | parts[32], error=UnsupportedError)


def test_rows_that_are_no_multiple_of_the_units_are_refused() -> None:
    tensors = gru(3, 4) | {"rnn.weight_hh_l0": np.ones((11, 4), "f4")}
    assert "weight_hh_l0 has shape (11, 4)" in refusal(tensors, error=ShapeError)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"bn.running_mean": np.ones(4), "bn.num_batches_tracked": np.int64(3)}, "BatchNorm"),
        ({"norm.weight": np.ones(4), "norm.bias": np.ones(4)}, "normalisation"),
        ({"conv.weight": np.ones((4, 3, 5))}, "convolution"),
        ({"fc.parametrizations.weight.original0": np.ones((4, 1))}, "remove_parametrizations"),
        ({"fc.weight_g": np.ones((4, 1))}, "weight_norm"),
        ({"position": np.ones((1, 9))}, "position (1, 9)"),
    ],
)
def test_a_tensor_nothing_uses_is_named(extra: Tensors, says: str) -> None:
    extra = {name: np.asarray(array) for name, array in extra.items()}
    message = refusal(gru(3, 4) | extra, error=UnsupportedError)
    assert next(iter(extra)) in message
    assert says in message
    assert names(build(gru(3, 4) | extra, suggested(message))) == [(GRU, "rnn")]


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"act.weight": np.ones(1)}, "(a PReLU,"),
        ({"prelu1.weight": np.ones(4)}, "(a PReLU,"),
        ({"ln.weight": np.ones(4)}, "(a normalisation layer without bias, or a PReLU,"),
        ({"ln.weight": np.ones(4), "ln.bias": np.ones(4)}, "(a normalisation layer,"),
    ],
)
def test_a_lone_vector_is_called_what_it_may_be(extra: Tensors, says: str) -> None:
    assert says in refusal(gru(3, 4) | extra, error=UnsupportedError)


@pytest.mark.parametrize("deep", [False, True])
def test_however_many_tensors_are_unused_the_advice_leaves_out_all(deep: bool) -> None:
    head = "decoder." if deep else ""
    extra = {f"{head}block_{i}.attention.scale": np.ones((1, 2, 3)) for i in range(400)}
    message = refusal(gru(3, 4) | extra, error=UnsupportedError)
    assert len(message) < 2500
    pasted = suggested(message)
    assert pasted[1] == {"ignore": ["decoder.*" if deep else "*"]}
    assert names(build(gru(3, 4) | extra, pasted)) == [(GRU, "rnn")]


def test_sizes_tell_a_linear_that_is_named_like_an_embedding() -> None:
    """A projection without bias, 9 → 3: as a table its vectors would not fit the GRU."""
    tensors = linear(9, 3, "embed_proj", bias=False) | gru(3, 4)
    message = refusal(tensors, error=UnsupportedError)
    assert suggested(message) == [{"dense": "embed_proj"}, "rnn"]
    assert names(build(tensors, suggested(message))) == [(Dense, "embed_proj"), (GRU, "rnn")]
    assert names(build(tensors, ["embed_proj", "rnn"])) == [(Dense, "embed_proj"), (GRU, "rnn")]
    assert names(build(table(3, 3, "embed") | gru(3, 4))) == [(Embedding, "embed"), (GRU, "rnn")]
    # Where neither size nor name tells, pasting the advice asks.
    assert suggested(refusal(table(3, 3, "w") | gru(3, 4))) == ["w", "rnn"]
    assert "write {'embedding': 'w'} or {'dense': 'w'}" in refusal(table(3, 3, "w") | gru(3, 4), ["w", "rnn"])


def test_an_alias_of_a_used_tensor_counts_as_used() -> None:
    tensors = gru(3, 4)
    flat = {f"rnn._flat_weights.{i}": array for i, array in enumerate(tensors.values())}
    aliases = dict(zip(flat, tensors, strict=True))
    assert names(build(tensors | flat, aliases=aliases)) == [(GRU, "rnn")]
    assert "_flat_weights.0" in refusal(tensors | flat)


def test_a_message_stays_short_however_many_tensors_there_are() -> None:
    tensors = {f"{'deep.' * 20}{i}.scale": np.ones(1, "f4") for i in range(2000)}
    message = refusal(gru(3, 4) | tensors)
    assert "more" in message
    assert len(message) < 4000


# layers= --------------------------------------------------------------------------------------------------


def test_an_options_dict_reaches_the_layer() -> None:
    layers = build(
        table(9, 3) | gru(3, 4) | linear(4, 2),
        [{"embedding": "embed", "mask_zero": True}, {"gru": "rnn", "reset": "before", "return_sequences": False},
         {"dense": "fc", "activation": "relu"}],
    )  # fmt: skip
    assert layers[0].mask_zero
    assert (layers[1].reset, layers[1].return_sequences) == ("before", False)
    assert layers[2].activation == "relu"


def test_last_reaches_back_to_the_recurrent_layer() -> None:
    layers = build(gru(3, 4) | linear(4, 2), ["rnn", "tanh", "last", "fc"])
    assert names(layers) == [(GRU, "rnn"), (Activation, "tanh"), (Dense, "fc")]
    assert not layers[0].return_sequences


def test_a_module_named_as_an_activation_is_the_module() -> None:
    assert names(build(gru(3, 4) | linear(4, 2, "linear"), ["rnn", "linear"])) == [(GRU, "rnn"), (Dense, "linear")]


def test_a_lone_weight_is_told_by_its_place_and_size() -> None:
    assert names(build(table(9, 3, "w") | gru(3, 4), ["w", "rnn"]))[0] == (Embedding, "w")
    assert names(build(table(3, 9, "w") | gru(3, 4), ["w", "rnn"]))[0] == (Dense, "w")
    assert "'embedding': 'w'" in refusal(table(3, 3, "w") | gru(3, 4), ["w", "rnn"])
    assert names(build(table(3, 3, "w") | gru(3, 4), [{"dense": "w"}, "rnn"]))[0] == (Dense, "w")


def test_prefix_takes_the_tensors_below_it_alone() -> None:
    tensors = {f"model.{name}": array for name, array in (gru(3, 4) | linear(4, 2)).items()} | gru(9, 9, "other")
    assert names(build(tensors, prefix="model")) == [(GRU, "rnn"), (Dense, "fc")]
    assert names(build(tensors, prefix="model.")) == [(GRU, "rnn"), (Dense, "fc")]
    assert names(build(tensors, ["rnn", {"ignore": "fc.*"}], prefix="model")) == [(GRU, "rnn")]
    message = refusal(tensors, error=FormatError, prefix="mod")
    assert "begins with 'mod.'" in message
    assert "model.rnn.weight_ih_l0 (12, 3)" in message


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (["rnn", "fcc"], "'fcc' is neither a module nor an activation"),
        (["rnn"], "nothing uses fc.weight"),
        ([], "expected a list"),
        (["relu"], "names no module"),
        (["last", "rnn", "fc"], "none comes before it"),
        (["rnn", "rnn", "fc"], "twice"),
        ([3, "rnn", "fc"], "neither a name nor a dict"),
        ([{"gru": "rnn", "num_layers": 2}, "fc"], "follows from its tensors"),
        ([{"gru": "rnn", "gates": "zrn"}, "fc"], "gates"),
        ([{"gru": "rnn", "reset": "sometimes"}, "fc"], "sometimes"),
        ([{"gru": "rnn", "reset": ["after"]}, "fc"], "reset"),
        ([{"gru": "fc"}, "rnn"], "'fc' is no gru"),
        ([{"gru": ["rnn"]}, "fc"], "is no module"),
        ([{"lstn": "rnn"}, "fc"], "must say exactly one"),
        ([{"dense": "fc", "activation": "cube"}, "rnn"], "cube"),
        (["rnn", {"ignore": "fd.*"}], "no tensor matches 'fd.*'"),
        (["rnn", {"ignore": 3}], "ignore takes a pattern"),
        ({"gru": "rnn"}, "expected a list"),
    ],
)  # fmt: skip
def test_what_layers_cannot_mean_is_said(layers: Any, says: str) -> None:
    assert says in refusal(gru(3, 4) | linear(4, 2), layers)
