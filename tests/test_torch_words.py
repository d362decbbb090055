"""``layers=`` beyond chains: means, residuals, norms and convolutions of a state_dict, against the module itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import CgruError, UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.deep = (
            nn.Conv1d(8, 6, 5, padding=2, stride=2),
            nn.Conv1d(6, 6, 3, padding=2, dilation=2, groups=3),
        )
        self.bn, self.act = nn.BatchNorm1d(6, eps=1e-3), nn.PReLU(6)
        self.gru, self.ln = nn.GRU(6, 6, batch_first=True), nn.LayerNorm(6)
        self.gn, self.fc = nn.GroupNorm(2, 6), nn.Linear(12, 3)
        self.bi = nn.LSTM(6, 6, batch_first=True, bidirectional=True)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2)
        for part in (self.ln, self.gn):
            part.weight.data.normal_()

    def forward(self, x: Any) -> Any:
        h = self.act(self.bn(self.deep(self.conv(x.mT)))).mT
        h = h + self.ln(self.gru(h)[0])
        h = self.gn(h.mT).mT
        return torch.softmax(self.fc(torch.relu(self.bi(h)[0].mean(1))), -1)


SAID: list[Any] = [
    {"conv1d": "conv", "padding": 2, "stride": 2}, {"conv1d": "deep", "padding": 2, "dilation": 2},
    {"batch_norm": "bn", "eps": 1e-3}, "act", {"residual": ["gru", "ln"]},
    {"group_norm": "gn", "groups": 2, "over_time": True}, "bi", "mean", "relu", "fc", "softmax",
]  # fmt: skip


def made() -> tuple[Any, np.ndarray, np.ndarray]:
    torch.manual_seed(6)
    module, x = Tagger().eval(), torch.randn(3, 21, 8)
    with torch.no_grad():
        return module, x.numpy(), module(x).numpy()


def test_a_state_dict_with_norms_convolutions_and_a_residual() -> None:
    module, x, want = made()
    net = cgru.from_torch(module.state_dict(), layers=SAID)
    assert np.abs(net(x) - want).max() <= 2e-6
    renamed = {f"model/{i}": value for i, value in enumerate(module.state_dict().values())}
    names = dict(zip(module.state_dict(), renamed, strict=True))

    def own(item: Any) -> Any:
        """The item with every path in it as a mapping to the file's names."""
        if isinstance(item, dict) and "residual" not in item:
            kind, path = next(iter(item.items()))
        else:
            return item
        return {**item, kind: {k.removeprefix(f"{path}."): v for k, v in names.items() if k.startswith(f"{path}.")}}

    full = [{"prelu": "act"} if item == "act" else item for item in SAID[:4]]
    left = [name for key, name in names.items() if not key.startswith(("conv.", "deep.", "bn.", "act."))]
    short = cgru.from_torch(renamed, layers=[*map(own, full), {"ignore": left}])
    with torch.no_grad():
        part = module.act(module.bn(module.deep(module.conv(torch.from_numpy(x).mT)))).mT.numpy()
    assert np.abs(short(x) - part).max() <= 2e-6


def test_the_same_in_a_text() -> None:
    torch.manual_seed(7)
    gru, ln, fc = nn.GRU(5, 5, 2, batch_first=True), nn.LayerNorm(5), nn.Linear(5, 2)
    parts = {"gru": gru, "ln": ln, "fc": fc}
    tensors = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    x = torch.randn(2, 9, 5)
    with torch.no_grad():
        want = fc(torch.tanh((x + ln(gru(x)[0])).amax(1))).numpy()
    net = cgru.from_torch(tensors, layers="residual(gru, ln), max, tanh, fc")
    assert np.abs(net(x.numpy()) - want).max() <= 2e-6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda said: ["conv", *said[1:]], "tensors do not show its padding"),
        (lambda said: [*said[:2], "bn", *said[3:-1], "softmin"], "neither a module nor"),
        (lambda said: [*said[:4], {"residual": ["bi"]}, *said[5:]], "a residual adds"),
        (lambda said: said[:3] + said[4:], "nothing uses"),
        (lambda said: [*said, "mean"], "one frame is left"),
        (lambda said: [*said[:3], {"prelu": "bn"}, *said[4:]], "is no prelu"),
        (lambda said: [{"conv1d": "conv", "padding": "same"}, *said[1:]], "has no option 'padding'"),
        (lambda said: [*said[:5], {"group_norm": "gn"}, *said[6:]], "needs .groups."),
        (lambda said: [{"conv1d": {"weight": "nowhere"}}, *said[1:]], "the file has no tensor"),
        (lambda said: [*said[:2], "bn", "bn", *said[3:]], "names a module twice"),
        (lambda said: "residual(gru", "without its"),
        (lambda said: "mean", "names no module"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, says: str) -> None:
    module, _, _ = made()
    with pytest.raises((CgruError, UnsupportedError), match=says):
        cgru.from_torch(module.state_dict(), layers=change(list(SAID)))
