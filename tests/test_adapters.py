"""Live PyTorch and Keras objects, wherever those frameworks are installed."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.adapters import from_keras, from_torch
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
            self.b = nn.GRU(4, 4)

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
    net = from_torch(Tagger(act=nn.ReLU()), layers=["tokens", "rnn", "relu", "last", "fc"])
    assert kinds(net) == ["Embedding", "GRU", "Activation", "Dense"]


def test_an_activation_in_a_class_of_ones_own_must_be_placed() -> None:
    with pytest.raises(UnsupportedError, match=r"act is a torch\.nn\.ReLU.*layers=.*'relu'"):
        from_torch(Tagger(act=nn.ReLU()))
    with pytest.raises(UnsupportedError, match=r"pool is a torch\.nn\.MaxPool1d"):
        from_torch(Tagger(pool=nn.MaxPool1d(2)))


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
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "remove_parametrizations"),
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
