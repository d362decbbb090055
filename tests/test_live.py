"""Live PyTorch and Keras objects, wherever those frameworks are installed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import cgru
from cgru import from_keras, from_torch
from cgru.errors import CgruError, UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


class Tagger(nn.Module):
    def __init__(self, **more: Any) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 7, padding_idx=0)
        self.rnn = nn.GRU(7, 3, num_layers=2, bidirectional=True, batch_first=True, dropout=0.5)
        self.fc = nn.Linear(6, 5, bias=False)
        self.drop = nn.Dropout(0.5)
        self.loss = nn.CrossEntropyLoss()
        for name, module in more.items():
            setattr(self, name, module)

    def forward(self, ids: Any) -> Any:
        return self.fc(self.drop(self.rnn(self.tokens(ids))[0]))


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tagger = Tagger()
        self.critic = nn.Linear(3, 1)


def kinds(net: cgru.Model) -> list[str]:
    return [type(layer).__name__ for layer in net.layers]


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_bare_gru_runs_as_torchs_whatever_batch_first_is(batch_first: bool) -> None:
    module = nn.GRU(3, 7, num_layers=2, bidirectional=True, batch_first=batch_first)
    x, h0 = torch.randn(4, 5, 3), torch.randn(4, 4, 7)
    y, h_n = module(x if batch_first else x.transpose(0, 1), h0)
    found, state = from_torch(module).run(x.numpy(), {"gru.h": h0.numpy()})
    assert np.abs(found - (y if batch_first else y.transpose(0, 1)).detach().numpy()).max() <= 2e-6
    assert np.abs(state.arrays()["gru.h"] - h_n.detach().numpy()).max() <= 2e-6


def test_a_cell_runs_as_torchs() -> None:
    module = nn.GRUCell(3, 7, bias=False)
    x, h = torch.randn(2, 4, 3), torch.randn(2, 7)
    found = from_torch(module).run(x.numpy(), {"gru.h": h[None].numpy()})[0]
    for t in range(4):
        h = module(x[:, t], h)
        assert np.abs(found[:, t] - h.detach().numpy()).max() <= 2e-6


def test_a_class_of_ones_own_is_inferred_from_its_tensors() -> None:
    module = Tagger().eval()
    ids = torch.randint(0, 11, (3, 5))
    net = from_torch(module)
    assert kinds(net) == ["Embedding", "GRU", "Dense"]
    assert np.abs(net(ids.numpy()) - module(ids).detach().numpy()).max() <= 2e-6
    assert from_torch(module.state_dict())(ids.numpy()).tobytes() == net(ids.numpy()).tobytes()


def test_the_classes_tell_a_table_from_a_matrix() -> None:
    """By sizes alone the lone weights of a square network could be either."""

    class Square(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Embedding(9, 4)
            self.b = nn.GRU(4, 4, batch_first=True)

        def forward(self, ids: Any) -> Any:
            return self.b(self.a(ids))

    assert kinds(from_torch(Square())) == ["Embedding", "GRU"]
    with pytest.raises(UnsupportedError, match="in more than one way"):
        from_torch(Square().state_dict())


def test_a_sequential_says_its_own_order() -> None:
    module = nn.Sequential(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Dropout(), nn.GRU(4, 5, batch_first=True), nn.Identity(),
        nn.ELU(), nn.Linear(5, 5), nn.Softplus(), nn.Linear(5, 2), nn.Softmax(dim=-1),
    )  # fmt: skip
    net = from_torch(module)
    assert kinds(net) == ["Dense", "Activation", "GRU", "Activation", "Dense", "Activation", "Dense", "Activation"]
    x = torch.randn(2, 6, 3)
    hidden = module[2](module[0](x))[0]
    for later in list(module)[4:]:
        hidden = later(hidden)
    assert np.abs(net(x.numpy()) - hidden.detach().numpy()).max() <= 2e-6


def test_a_module_that_comes_twice_runs_twice() -> None:
    linear = nn.Linear(3, 3)
    module = nn.Sequential(linear, nn.ReLU(), linear, nn.Sigmoid(), nn.Softsign(), nn.Hardsigmoid())
    x = torch.randn(4, 3)
    net = from_torch(module)
    assert np.abs(net(x.numpy()) - module(x).detach().numpy()).max() <= 1e-6


@pytest.mark.parametrize("as_mapping", [False, True])
def test_the_weights_are_copied(as_mapping: bool) -> None:
    module = Tagger()
    net = from_torch(module.state_dict() if as_mapping else module)
    ids = np.arange(10).reshape(2, 5)
    before = net(ids)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert np.array_equal(net(ids), before)
    assert np.abs(before).max() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_cast(dtype: Any) -> None:
    module = nn.GRU(3, 2).to(dtype)
    found = from_torch(module).layers[0].arrays()["weight_hh_l0"]
    assert np.array_equal(found, module.weight_hh_l0.detach().float().numpy())


def test_prefix_names_a_part_of_the_module() -> None:
    module = Whole()
    assert kinds(from_torch(module, prefix="tagger")) == ["Embedding", "GRU", "Dense"]
    assert kinds(from_torch(module, prefix="tagger.rnn.")) == ["GRU"]
    assert kinds(from_torch(module.state_dict(), prefix="tagger")) == ["Embedding", "GRU", "Dense"]
    with pytest.raises(CgruError, match=r"Whole: prefix: .*no 'tager' among 'tagger', 'critic'"):
        from_torch(module, prefix="tager")


def test_layers_says_the_order_of_a_class_of_ones_own() -> None:
    class Classifier(Tagger):
        def forward(self, ids: Any) -> Any:
            return self.fc(self.act(self.rnn(self.tokens(ids))[0])[:, -1])

    module = Classifier(act=nn.ReLU())
    net = from_torch(module, layers=["tokens", "rnn", "relu", "last_step", "fc"])
    assert kinds(net) == ["Embedding", "GRU", "Activation", "LastStep", "Dense"]
    ids = torch.randint(0, 11, (3, 5))
    assert np.abs(net(ids.numpy()) - module.eval()(ids).detach().numpy()).max() <= 2e-6
    with pytest.raises(UnsupportedError, match="computes something else"):
        from_torch(module, layers=["tokens", "rnn", "last_step", "fc"])


def test_a_part_that_forward_does_not_use_is_left_out() -> None:
    assert kinds(from_torch(Tagger(act=nn.ReLU(), pool=nn.MaxPool1d(2)))) == ["Embedding", "GRU", "Dense"]


class Own(nn.Module):
    pass


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Transformer(4, 1), "torch.nn.Transformer"),
        (nn.Sequential(nn.GRU(3, 4), nn.LayerNorm(4)), "1: cgru does not run a torch.nn.LayerNorm"),
        (nn.Sequential(nn.GRU(3, 4), Own()), "Own"),
        (nn.Sequential(nn.GRU(3, 4), nn.ELU(alpha=0.5)), "alpha=0.5"),
        (nn.Sequential(nn.GRU(3, 4), nn.Softmax(dim=1)), "dim=1"),
        (nn.Sequential(nn.GRU(3, 4), nn.Softplus(beta=2)), "beta=2"),
        (nn.Embedding(4, 3, max_norm=1.0), "max_norm"),
        (nn.Dropout(), "no layer"),
        (nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), "does not run this operator"),
        (nn.GRU(3, 4, device="meta"), "weight_ih_l0"),
        (nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 3)]), "layers="),
    ],
    ids=str,
)
def test_what_cgru_does_not_run_is_named(module: Any, says: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        from_torch(module)
    assert str(caught.value).startswith(f"{type(module).__name__}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize("module", [3, "model.pt", None, nn.GRU])
def test_what_is_no_module(module: Any) -> None:
    with pytest.raises(CgruError, match="module: expected a torch module"):
        from_torch(module)


@pytest.mark.parametrize("state", [{}, {"a": None}, {1: torch.ones(2)}, {"weight": "text"}])
def test_what_is_no_state_dict(state: Any) -> None:
    with pytest.raises(CgruError, match="state_dict: "):
        from_torch(state)


def test_a_live_keras_model() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed: pip install cgru[parity]")
    model = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.GRU(5, return_sequences=True), keras.layers.Dense(2)]
    )
    x = np.random.default_rng(0).standard_normal((2, 4, 3)).astype(np.float32)
    assert np.abs(from_keras(model)(x) - np.asarray(model(x).detach())).max() <= 2e-6


# The module beside the network ----------------------------------------------------------------------------


class Body(nn.Module):
    """A GRU and a head; what forward() does with them is given."""

    def __init__(self, forward: Any, **parts: Any) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.fc = nn.Linear(4, 4)
        self.call = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.call(self, x)


HIDDEN = {
    "residual": lambda m, x: x + m.fc(m.gru(x)[0]),
    "softmax": lambda m, x: torch.softmax(m.fc(m.gru(x)[0]), -1),
    "functional relu": lambda m, x: m.fc(torch.relu(m.gru(x)[0])),
    "clamp": lambda m, x: m.fc(m.gru(x.clamp(-3, 3))[0]),
    "gate": lambda m, x: m.gru(x)[0] * torch.sigmoid(m.fc(m.gru(x)[0])),
    "scaled input": lambda m, x: m.fc(m.gru(x * 1.001)[0]),
    "head first": lambda m, x: m.gru(m.fc(x))[0],
    "another start": lambda m, x: m.fc(m.gru(x, torch.full((1, len(x), 4), 0.1))[0]),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_what_forward_does_beside_its_modules_comes_over(case: str) -> None:
    module, x = Body(HIDDEN[case]), torch.randn(3, 8, 4)
    net = from_torch(module)
    assert "verified against the module on 3 random inputs" in str(net)
    assert np.abs(net(x.numpy()) - module(x).detach().numpy()).max() <= 2e-6
    assert "not verified" in str(from_torch(module, verify=False))


def test_one_output_a_sequence_comes_over() -> None:
    module, x = Body(lambda m, x: m.fc(m.gru(x)[0][:, -1])), torch.randn(3, 8, 4)
    for net in (from_torch(module), from_torch(module, layers=["gru", "last", "fc"])):
        assert kinds(net)[0] == "GRU"
        assert "verified against the module on 3 random inputs: largest difference" in str(net)
        assert np.abs(net(x.numpy()) - module(x).detach().numpy()).max() <= 2e-6


def test_an_example_is_what_both_run_on() -> None:
    module = Body(lambda m, x: m.fc(m.gru(x.clamp(-3, 3))[0]))
    x = torch.rand(2, 5, 4)
    net = from_torch(module, example=9 * x)
    assert np.abs(net(9 * x.numpy()) - module(9 * x).detach().numpy()).max() <= 2e-6
    assert "on the example" in str(net)
    with pytest.raises(UnsupportedError, match="largest difference"):
        from_torch(module, example=9 * x, layers=["gru", "fc"])
    with pytest.raises(CgruError, match="example: the module cannot be run on it: RuntimeError"):
        from_torch(module, example=torch.rand(2, 5, 3))
    with pytest.raises(CgruError, match="example: a state_dict cannot run"):
        from_torch(module.state_dict(), example=x)


@pytest.mark.parametrize("example", [None, torch.rand(4, 9, 4)])
def test_time_before_rows_comes_over_with_rows_first(example: Any) -> None:
    module = Body(lambda m, x: m.fc(m.gru(x)[0]), gru=nn.GRU(4, 4))
    x = torch.randn(4, 9, 4)
    net = from_torch(module, example=example)
    assert "the module takes x as (T, B, F); here it is (B, T, 4)" in str(net).replace("args_0", "x")
    want = module(x.transpose(0, 1)).transpose(0, 1)
    assert np.abs(net(x.numpy()) - want.detach().numpy()).max() <= 2e-6
    with pytest.raises(UnsupportedError, match=r"set module\.gru\.batch_first = True"):
        from_torch(module, example=example, layers=["gru", "fc"])
    inside = Body(lambda m, x: m.fc(m.gru(x.transpose(0, 1))[0].transpose(0, 1)), gru=nn.GRU(4, 4))
    assert np.abs(from_torch(inside)(x.numpy()) - inside(x).detach().numpy()).max() <= 2e-6


def test_a_bare_gru_with_time_first_says_so() -> None:
    assert "batch_first=False, but here x is (B, T, I)" in str(from_torch(nn.GRU(3, 4)))
    assert "batch_first" not in str(from_torch(nn.GRU(3, 4, batch_first=True)))
    with pytest.raises(UnsupportedError, match=r"set module\.batch_first = True"):
        from_torch(nn.GRU(3, 4), example=torch.rand(2, 5, 3))


def test_the_module_stays_as_it_was() -> None:
    class Keeping(Body):
        def forward(self, x: Any) -> Any:
            self.calls += 1
            self.seen = x
            self.count += 1
            torch.rand(3)
            return self.fc(self.drop(self.gru(x)[0]))

    module = Keeping(None, drop=nn.Dropout(0.5), calls=0)
    module.register_buffer("count", torch.zeros(()))
    module.train()
    module.fc.eval()
    calls = []
    hook = module.fc.register_forward_hook(lambda *_: calls.append(1))
    flags = {path: part.training for path, part in module.named_modules()}
    before = {key: value.clone() for key, value in module.state_dict().items()}
    torch.manual_seed(5)
    random = torch.rand(4)
    torch.manual_seed(5)
    from_torch(module, layers=["gru", "fc", {"ignore": "count"}])
    assert torch.equal(torch.rand(4), random)
    assert {path: part.training for path, part in module.named_modules()} == flags
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert (module.calls, hasattr(module, "seen"), hook.id in module.fc._forward_hooks) == (0, False, True)
    assert calls == [1, 1, 1]  # a hook is part of what a module computes
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())


def test_a_hook_that_changes_the_outputs_comes_over() -> None:
    module, x = Body(lambda m, x: m.fc(m.gru(x)[0])), torch.randn(2, 5, 4)
    module.fc.register_forward_hook(lambda part, given, y: y * 2)
    assert np.abs(from_torch(module)(x.numpy()) - module(x).detach().numpy()).max() <= 2e-6
    with pytest.raises(UnsupportedError, match="largest difference"):
        from_torch(module, layers=["gru", "fc"])


def test_what_cannot_run_beside_says_so() -> None:
    with pytest.raises(CgruError, match=r"cannot be run.*RuntimeError: two inputs, please"):
        from_torch(Body(_raise))


def _raise(module: Any, x: Any) -> Any:
    raise RuntimeError("two inputs, please")


def test_none_among_several_results_is_left_out() -> None:
    module, x = Body(lambda m, x: (None, m.fc(m.gru(x)[0]))), torch.randn(2, 5, 4)
    assert np.abs(from_torch(module)(x.numpy()) - module(x)[1].detach().numpy()).max() <= 2e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions_are_verified(dtype: Any) -> None:
    module = Body(lambda m, x: m.fc(m.gru(x)[0])).to(dtype)
    assert "verified" in str(from_torch(module))
    assert {parameter.dtype for parameter in module.parameters()} == {dtype}
    with pytest.raises(UnsupportedError, match="largest difference"):
        from_torch(Body(HIDDEN["functional relu"]).to(dtype), layers=["gru", "fc"])


def test_a_scripted_module_is_verified() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(4, 4, batch_first=True)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.fc(self.gru(x)[0]))

    module = torch.jit.trace(Plain(), torch.rand(2, 5, 4))
    module.train()
    with pytest.raises(UnsupportedError, match="largest difference"):
        from_torch(module)
    assert "verified" in str(from_torch(module, layers=["gru", "fc", "relu"]))
    assert module.training


# last_state and last_step ---------------------------------------------------------------------------------


class TwoWays(nn.Module):
    def __init__(self, end: Any) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True)
        self.fc = nn.Linear(8, 2)
        self.end = end

    def forward(self, x: Any) -> Any:
        return self.fc(self.end(*self.gru(x)))


ENDS = {"last_state": lambda out, h: torch.cat([h[-2], h[-1]], -1), "last_step": lambda out, h: out[:, -1]}


@pytest.mark.parametrize("word", ENDS)
@pytest.mark.parametrize("backend", ["packed", "blas", "reference"])
def test_the_two_ends_of_a_bidirectional_layer(word: str, backend: str) -> None:
    module, x = TwoWays(ENDS[word]), torch.randn(3, 6, 3)
    net = from_torch(module, layers=["gru", word, "fc"], backend=backend)
    assert np.abs(net(x.numpy()) - module(x).detach().numpy()).max() <= 2e-6
    assert np.abs(net(x[0].numpy()) - module(x[:1])[0].detach().numpy()).max() <= 2e-6
    for other in ENDS.keys() - {word}:
        with pytest.raises(UnsupportedError, match="largest difference"):
            from_torch(module, layers=["gru", other, "fc"], backend=backend)
    with pytest.raises(CgruError, match=r"'gru' is bidirectional.*'last_state'.*'last_step'"):
        from_torch(module, layers=["gru", "last", "fc"])


def test_the_last_step_of_each_row_is_within_its_length(tmp_path: Any) -> None:
    module, x, lengths = TwoWays(None), torch.randn(4, 6, 3), [6, 2, 1, 0]
    net = from_torch(module, layers=["gru", "last_step", "fc"], verify=False)
    found = net(x.numpy(), lengths=lengths)
    for row, length in enumerate(lengths[:3]):
        want = module.fc(module.gru(x[row : row + 1, :length])[0][:, -1])[0]
        assert np.abs(found[row] - want.detach().numpy()).max() <= 2e-6
    assert np.abs(found[3] - module.fc.bias.detach().numpy()).max() <= 1e-6
    assert net(np.zeros((2, 0, 3), "f4")).shape == (2, 2)
    net.save(tmp_path / "net.safetensors")
    assert cgru.load(tmp_path / "net.safetensors")(x.numpy(), lengths=lengths).tobytes() == found.tobytes()
    with pytest.raises(UnsupportedError, match="cannot stream"):
        net.stream()


def test_one_direction_has_one_end() -> None:
    module = Body(lambda m, x: m.fc(m.gru(x)[0][:, -1]))
    x = torch.randn(2, 5, 4).numpy()
    bits = {from_torch(module, layers=["gru", word, "fc"])(x).tobytes() for word in ("last", "last_state", "last_step")}
    assert len(bits) == 1


# Keras beside the network ---------------------------------------------------------------------------------


def test_a_keras_layer_that_was_given_other_code_is_found(keras: Any) -> None:
    """The configuration says Dense; what runs is another function."""
    L = keras.layers
    model = keras.Sequential([keras.Input((None, 3)), L.GRU(5, return_sequences=True), L.Dense(2)])
    assert "verified against the Keras model on 3 random inputs" in str(from_keras(model))
    dense, call = model.layers[1], model.layers[1].call
    dense.call = lambda inputs, training=None: call(inputs, training) * 1.01
    with pytest.raises(UnsupportedError, match=r"Sequential: .*gru\w* → dense\w*: largest difference"):
        from_keras(model)
    assert "not verified" in str(from_keras(model, verify=False))


def test_keras_models_of_fixed_sizes_ids_masks_and_states_are_verified(keras: Any) -> None:
    L, rng = keras.layers, np.random.default_rng(1)
    two_ways = L.Bidirectional(L.LSTM(4, stateful=True))
    models = {
        (5, 6, 3): [keras.Input(batch_shape=(5, 6, 3)), L.GRU(4, stateful=True, return_sequences=True), two_ways],
        (2, 9): [keras.Input((9,), dtype="int32"), L.Embedding(7, 4, mask_zero=True), L.GRU(3), L.Dense(2)],
        (2, 8, 3): [keras.Input((8, 3)), L.Masking(0.5), L.LSTM(4), L.Dense(2)],
    }
    for shape, layers in models.items():
        model = keras.Sequential(layers)
        x = rng.integers(0, 7, shape) if len(shape) == 2 else rng.standard_normal(shape).astype("f4")
        y = np.asarray(model(x).detach())
        model(x)  # from where the first call ended: a state that no run from zero gives
        before = [np.array(v.value.detach()) for layer in (layers[1], two_ways.forward_layer) for v in _states(layer)]
        net = from_keras(model)
        assert "verified" in str(net)
        assert "on the example" in str(from_keras(model, example=x))
        assert np.abs(net(x) - y).max() <= 2e-6
        after = [np.array(v.value.detach()) for layer in (layers[1], two_ways.forward_layer) for v in _states(layer)]
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
        if len(shape) == 3 and shape[0] == 5:
            assert before
            assert np.abs(before[0]).max() > 0


def _states(layer: Any) -> Any:
    return [state for state in getattr(layer, "states", ()) or () if state is not None]
