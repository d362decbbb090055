"""TorchScript archives of modules as people write them, beside PyTorch: right to float32, or refused by name."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn
F: Any = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore")

EXPORTS = Path(__file__).parents[2] / "shared" / "models" / "exports" / "torch_modules.py"


class _Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 6, batch_first=True)


class Dropped(_Gru):
    def forward(self, x):
        return F.dropout(torch.cat([self.gru(x)[0].max(1)[0], x.mean(1)], -1), 0.5, self.training)


class Flattened(_Gru):
    def forward(self, x):
        b, t, f = x.shape
        return self.gru(torch.tanh(x.reshape(b * t, f)).view(b, t, -1))[0]


class Standardised(_Gru):
    def forward(self, x):
        return self.gru((x - x.mean(2, keepdim=True)) / (x.std(2, keepdim=True) + 1e-5))[0]


class Backwards(_Gru):
    def forward(self, x):
        return self.gru(x.flip(1))[0].flip(1)


class Gated(_Gru):
    def forward(self, x):
        a, b = self.gru(x)[0].chunk(2, -1)
        return {"gated": a * torch.sigmoid(b), "last": a[:, -1]}


class Constant(_Gru):
    def forward(self, x):
        return self.gru(x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))[0]


class Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True, proj_size=4, dropout=0.2)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        _, (h, _) = self.lstm(x)
        return self.fc(torch.cat([h[-2], h[-1]], 1))


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 6, 3, padding=1))
        self.bn = nn.BatchNorm1d(6)
        self.gru = nn.GRU(6, 4)

    def forward(self, x):
        return self.gru(self.bn(self.conv(x.transpose(1, 2))).permute(2, 0, 1))[0].transpose(0, 1)


class Grouped(nn.Module):
    """A convolution in groups, whose weights do not say how many channels it takes, behind ``mT``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.rnn = nn.RNN(8, 5, batch_first=True)

    def forward(self, x):
        return self.rnn(F.gelu(self.conv(x.mT)).mT)[0]


class BySize(_Gru):
    def forward(self, x):
        return self.gru(x)[0].sum(1) / x.size(1)


class Strided(_Gru):
    def forward(self, x):
        return self.gru(x[:, x.size(1) // 2 :])[0]


class Branching(_Gru):
    def forward(self, x):
        y = self.gru(x)[0]
        if bool(y.mean() > 0):
            return y * 2
        return y


class Packed(_Gru):
    def forward(self, x):
        lengths = torch.full([x.size(0)], x.size(1), dtype=torch.int64)
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


class Kept(_Gru):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("h", torch.zeros(1, 1, 6))

    def forward(self, x):
        y, h = self.gru(x, self.h.expand(1, x.size(0), 6).contiguous())  # type: ignore[has-type]
        self.h = h[:, :1]
        return y


class FixedLength(_Gru):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(54, 3)

    def forward(self, x):
        return self.fc(self.gru(x)[0].flatten(1))


RUN = [Dropped, Flattened, Standardised, Backwards, Gated, Constant, Projected, Normed, Grouped]
REFUSED = {
    BySize: "the number of rows or frames", Strided: "the number of rows or frames", FixedLength: "a Linear of 54",
    Packed: "hangs on|packs sequences|cgru does not", Branching: "numbers in a tensor", Kept: "keeps h in the module",
}  # fmt: skip


def archive(module: Any, x: Any, how: str) -> bytes:
    out = io.BytesIO()
    made = torch.jit.script(module) if how == "scripted" else torch.jit.trace(module, x, strict=False)
    torch.jit.save(made, out)
    return out.getvalue()


def agrees(module: Any, x: np.ndarray, how: str, *, time_first: bool = False) -> None:
    module = module.eval()
    with torch.no_grad():
        wanted = module(torch.from_numpy(x))
    net = cgru.load(archive(module, torch.from_numpy(x), how))
    y = net(x.swapaxes(0, 1) if time_first else x)
    found = list(y.values()) if isinstance(y, Mapping) else [y]
    parts = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    for ours, theirs in zip(found, parts, strict=True):
        theirs = theirs.numpy().swapaxes(0, 1) if time_first else theirs.numpy()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("how", ["traced", "scripted"])
@pytest.mark.parametrize("kind", RUN, ids=lambda kind: kind.__name__)
def test_it_is_the_module(kind: Any, how: str) -> None:
    if (kind, how) == (Normed, "scripted"):
        how = "traced"  # PyTorch does not script parametrisations
    torch.manual_seed(3)
    agrees(kind(), inputs(3, 9, 8), how)


@pytest.mark.parametrize("kind", REFUSED, ids=lambda kind: kind.__name__)
def test_what_cannot_be_a_network_of_any_length_is_refused(kind: Any) -> None:
    torch.manual_seed(3)
    content = archive(kind().eval(), torch.from_numpy(inputs(3, 9, 8)), "scripted")
    with pytest.raises(UnsupportedError, match=REFUSED[kind]):
        cgru.load(content)


def test_a_module_traced_in_training_is_refused_for_its_dropout() -> None:
    module = nn.Sequential(nn.Linear(8, 4), nn.Dropout(0.5))
    content = archive(module, torch.from_numpy(inputs(3, 9, 8)), "traced")
    with pytest.raises(UnsupportedError, match="dropout that stays on"):
        cgru.load(content)
    x = inputs(3, 9, 8)
    scripted = cgru.load(archive(module, torch.from_numpy(x), "scripted"))(x)  # which says what eval() does
    np.testing.assert_allclose(scripted, module.eval()(torch.from_numpy(x)).detach().numpy(), atol=2e-6)


def test_values_are_said() -> None:
    class Scaled(_Gru):
        def forward(self, x, factor: int):
            return self.gru(x)[0] * factor

    module, x = Scaled().eval(), inputs(2, 7, 8)
    content = archive(module, None, "scripted")
    with pytest.raises(UnsupportedError, match=r"inputs=\{'factor': …\}"):
        cgru.load(content)
    y = cgru.load(content, inputs={"factor": 3})(x)
    np.testing.assert_allclose(y, module(torch.from_numpy(x), 3).detach().numpy(), atol=2e-6)


def _exports() -> Any:
    if not EXPORTS.exists():
        return None
    spec = importlib.util.spec_from_file_location("torch_modules", EXPORTS)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


MODULES = _exports()


@pytest.mark.skipif(MODULES is None, reason="the modules of ../shared/models/exports are not beside this checkout")
@pytest.mark.parametrize("how", ["traced", "scripted"])
@pytest.mark.parametrize("name", list(MODULES.kinds) if MODULES else [])
def test_ordinary_modules(name: str, how: str) -> None:
    torch.manual_seed(1)
    module = getattr(MODULES, name)()
    # Torch's (T, B, F) is taken as (B, T, F) here, and the network says so.
    agrees(module, inputs(*MODULES.kinds[name]), how, time_first=name == "NotBatchFirst")
