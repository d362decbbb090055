"""Makes tests/fixtures/pickles: old torch files, whole modules, and plain pickles of numpy arrays.

    python tests/make_fixtures/pickles.py

Needs torch and numpy. Weights are drawn here and free to use. ``golden.npz`` holds what each file holds, as
``<file>:<name>``, and of the modules that run an input and an output as ``<file>:x`` and ``<file>:y``.
"""

from __future__ import annotations

import collections
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "pickles"


class Tagger(torch.nn.Module):
    """A class of its own: what it does between its parts is in code."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(7, 3)
        self.gru = torch.nn.GRU(3, 4, batch_first=True)
        self.drop = torch.nn.Dropout(0.5)
        self.head = torch.nn.Linear(4, 2, bias=False)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.head(self.drop(self.gru(self.table(ids))[0]))


class Squashed(Tagger):
    """With an activation that only forward() places."""

    def __init__(self) -> None:
        super().__init__()
        self.act = torch.nn.ReLU()


class Layer:
    """A layer of a library that is long gone."""

    def __init__(self, rng: np.random.Generator, inputs: int, units: int) -> None:
        self.weights = rng.standard_normal((inputs, 3 * units)).astype("f4")
        self.biases = rng.standard_normal(3 * units)
        self.name = f"gru of {units}"
        self.init = rng.standard_normal(units).astype("f2")


class Network:
    """Layers in a list, as music libraries keep theirs."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.layers = [Layer(rng, 3, 4), Layer(rng, 4, 2)]
        self.rate = np.float32(0.25)
        self.classes = np.array(["a", "b"])


def main() -> None:
    # Old files quote the source of every class, with the path where it was.
    torch.serialization.get_source_lines_and_file = lambda cls: (["class Quoted: pass"], 0, "quoted.py")
    torch.manual_seed(5)
    rng = np.random.default_rng(5)
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden: dict[str, Any] = {}

    def tell(file: str, holds: dict[str, Any]) -> None:
        golden.update({f"{file}:{name}": np.asarray(value) for name, value in holds.items()})

    model = Tagger().eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    zoo = {
        "f8": torch.tensor([[1.5, -2.0]], dtype=torch.float64),
        "f2": torch.tensor([0.5, 3.0], dtype=torch.float16),
        "i8": torch.tensor([-1, 1 << 40]),
        "u1": torch.tensor([0, 255], dtype=torch.uint8),
        "b1": torch.tensor([True, False]),
        "view": torch.arange(12.0).reshape(3, 4).t()[1:],
    }
    for protocol in range(1, 6):
        file = f"legacy{protocol}.pt"
        torch.save(state | zoo, FOLDER / file, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        tell(file, {name: value.numpy() for name, value in (state | zoo).items()})
    ids = torch.tensor([[1, 6, 0, 3]])
    chain = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()),
        torch.nn.Dropout(0.5), torch.nn.GRU(4, 3, num_layers=2, bidirectional=True, batch_first=True),
    ).eval()  # fmt: skip
    dense = torch.nn.Sequential(
        collections.OrderedDict(a=torch.nn.Linear(3, 5), b=torch.nn.Sigmoid(), c=torch.nn.Linear(5, 2))
    )
    x = torch.randn(2, 5, 3)
    nets = {"tagger": (model, ids), "chain": (chain, x), "dense": (dense, x)}
    nets |= {"lstm": (torch.nn.LSTM(3, 4, batch_first=True), x), "squashed": (Squashed().eval(), ids)}
    nets["rnn"] = torch.nn.RNN(3, 4, nonlinearity="relu", batch_first=True), x
    for name, (net, given) in nets.items():
        torch.save(net, FOLDER / f"{name}.pt")
        torch.save(net, FOLDER / f"{name}_old.pt", _use_new_zipfile_serialization=False)
        y = net(given)
        values = {key: value.detach().numpy() for key, value in net.state_dict().items()}
        for file in (f"{name}.pt", f"{name}_old.pt"):
            tell(file, values | {"x": given.numpy(), "y": (y[0] if isinstance(y, tuple) else y).detach().numpy()})
    torch.save({"epoch": 3, "net": model, "args": {"hidden": 4}}, FOLDER / "within.pt")
    tell("within.pt", {key: value.numpy() for key, value in model.state_dict().items()})

    network = Network(rng)
    held = {"network.rate": network.rate} | {
        f"network.layers.{i}.{key}": getattr(layer, key)
        for i, layer in enumerate(network.layers)
        for key in ("weights", "biases", "init")
    }
    big = rng.standard_normal((2, 3)).astype(">f8")
    extra = {
        "fortran": np.asfortranarray(rng.standard_normal((3, 2)).astype("f4")),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), "f4"),
        "big": big,
        "counts": np.arange(5, dtype=np.int16),
    }
    for protocol in range(6):
        file = f"arrays{protocol}.pkl"
        content = {"network": network, "extra": extra, "note": "fine", 7: [1, 2.5, None], "again": extra["counts"]}
        (FOLDER / file).write_bytes(pickle.dumps(content, protocol=protocol))
        tell(file, held | {f"extra.{key}": value for key, value in extra.items()} | {"again": extra["counts"]})
    np.savez_compressed(FOLDER / "golden.npz", **golden)


if __name__ == "__main__":
    main()
