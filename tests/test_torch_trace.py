"""Live torch modules as people write them: forward() is followed, and the network is the module on other inputs too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_modules import Own

import cgru
from cgru.errors import CgruError, UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn
F: Any = torch.nn.functional


def gru(inputs: int = 8, units: int = 16, **more: Any) -> Any:
    return nn.GRU(inputs, units, batch_first=True, **more)


def _cells(m: Any, x: Any) -> Any:
    h, found = None, []
    for t in range(x.shape[1]):
        h = m.cell(x[:, t], h)
        found.append(h)
    return m.fc(torch.stack(found, 1))


def _lstm_cells(m: Any, x: Any) -> Any:
    h = x.new_zeros(x.size(0), 16)
    c = torch.zeros_like(h)
    for frame in x.unbind(1):
        h, c = m.cell(frame, (h, c))
    return m.fc(h)


def _two_cells(m: Any, x: Any) -> Any:
    found: list[Any] = []
    a, b = x.new_zeros(len(x), 16), x.new_zeros(len(x), 16)
    for frame in m.inp(x).transpose(0, 1):
        a = m.cell(torch.relu(frame), a)
        b = m.upper(a, b)
        found.append(m.fc(b).unsqueeze(1))
    return torch.cat(found, dim=1)


def _backward_cells(m: Any, x: Any) -> Any:
    h: Any = None
    found: list[Any] = []
    for t in reversed(range(x.shape[1])):
        h = m.cell(x[:, t], h)
        found.insert(0, h)
    return torch.stack(found, 1)


def _ends(m: Any, x: Any) -> Any:
    _, (h, c) = m.lstm(x)
    return m.fc(torch.cat([h[-2], h[-1], c[0], c[-1]], -1))


def _attention(m: Any, x: Any) -> Any:
    out, h = m.gru(x)
    weights = torch.softmax((out * m.query(h[-1]).unsqueeze(1)).sum(-1), dim=1)
    return m.fc(torch.bmm(weights.unsqueeze(1), out).squeeze(1))


def _einsum(m: Any, x: Any) -> Any:
    out = m.gru(x)[0]
    return torch.einsum("bth,bt->bh", out, torch.sigmoid(m.gate(out)).squeeze(-1))


def _residual_convolution(m: Any, x: Any) -> Any:
    h = x.permute(0, 2, 1)
    h = h + F.gelu(m.norm(m.conv(h)))
    return m.gru(m.pool(h).transpose(1, 2))[0]


def _masked(m: Any, x: Any) -> Any:
    out = m.gru(x)[0]
    return torch.where(out > 0.1, out, torch.zeros_like(out)) - out.masked_fill(out < 0, 0.5) / 3


def _average(m: Any, x: Any) -> Any:
    found = [x[:, 0]]
    for t in range(1, x.shape[1]):
        found.append(0.9 * found[-1] + 0.1 * x[:, t])
    return m.gru(torch.stack(found, 1))[0]


def _another_first_step(m: Any, x: Any) -> Any:
    h = torch.tanh(m.first(x[:, 0]))
    found = [h]
    for t in range(1, x.shape[1]):
        h = torch.tanh(m.others(torch.cat([x[:, t], h], -1)))
        found.append(h)
    return torch.stack(found, 1)


def _independent(m: Any, x: Any) -> Any:
    x = m.inp(x)
    h, found = torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = torch.relu(x[:, t] + m.scale.weight[0] * h)
        found.append(h)
    return torch.stack(found, 1)


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "residual": (lambda m, x: m.fc(x + m.gru(x)[0]), {"gru": gru(8, 8), "fc": nn.Linear(8, 3)}),
    "layer norm": (
        lambda m, x: m.fc(m.ln(m.gru(x)[0])),
        {"gru": gru(), "ln": nn.LayerNorm(16), "fc": nn.Linear(16, 3)},
    ),
    "rms norm": (lambda m, x: m.ln(m.gru(x)[0]), {"gru": gru(), "ln": nn.RMSNorm(16)}),
    "attention": (_attention, {"gru": gru(), "query": nn.Linear(16, 16), "fc": nn.Linear(16, 3)}),
    "einsum": (_einsum, {"gru": gru(), "gate": nn.Linear(16, 1)}),
    "max over time": (lambda m, x: m.fc(m.gru(x)[0].max(dim=1).values), {"gru": gru(), "fc": nn.Linear(16, 3)}),
    "mean and max": (
        lambda m, x: m.fc(torch.cat([m.gru(x)[0].mean(1), m.gru(x)[0].amax(1)], dim=-1)),
        {"gru": gru(), "fc": nn.Linear(32, 3)},
    ),
    "last of two": (
        lambda m, x: m.fc(m.gru(x)[1].permute(1, 0, 2).reshape(len(x), -1)),
        {"gru": gru(num_layers=2), "fc": nn.Linear(32, 3)},
    ),
    "ends": (_ends, {"lstm": nn.LSTM(8, 5, 2, bidirectional=True, batch_first=True), "fc": nn.Linear(20, 3)}),
    "projection": (lambda m, x: m.lstm(x)[0], {"lstm": nn.LSTM(8, 9, proj_size=4, batch_first=True)}),
    "state goes on": (lambda m, x: m.b(x, m.a(x)[1])[0], {"a": gru(), "b": gru()}),
    "states go on": (
        lambda m, x: m.b(x, m.a(x)[1])[0],
        {
            "a": nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True),
            "b": nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True),
        },
    ),
    "halves": (lambda m, x: torch.cat([m.a(x[..., :4])[0], m.b(x[:, :, 4:])[0]], -1), {"a": gru(4), "b": gru(4)}),
    "gate": (lambda m, x: F.glu(m.fc(m.gru(x)[0])), {"gru": gru(), "fc": nn.Linear(16, 10)}),
    "convolution": (
        _residual_convolution,
        {"conv": nn.Conv1d(8, 8, 3, padding=1), "norm": nn.BatchNorm1d(8), "pool": nn.MaxPool1d(2), "gru": gru()},
    ),
    "causal convolution": (
        lambda m, x: m.conv(F.pad(x.mT, (4, 0))).mT,
        {"conv": nn.Conv1d(8, 6, 3, dilation=2, groups=2)},
    ),
    "cells": (_cells, {"cell": nn.GRUCell(8, 16), "fc": nn.Linear(16, 3)}),
    "LSTM cells": (_lstm_cells, {"cell": nn.LSTMCell(8, 16), "fc": nn.Linear(16, 3)}),
    "two cells": (
        _two_cells,
        {"inp": nn.Linear(8, 12), "cell": nn.GRUCell(12, 16), "upper": nn.RNNCell(16, 16), "fc": nn.Linear(16, 3)},
    ),
    "cells backwards": (_backward_cells, {"cell": nn.GRUCell(8, 16)}),
    "average that begins with the first frame": (_average, {"gru": gru(8, 4)}),
    "first step of its own": (_another_first_step, {"first": nn.Linear(8, 6), "others": nn.Linear(14, 6)}),
    "independent units": (_independent, {"inp": nn.Linear(8, 6), "scale": nn.Linear(6, 1)}),
    "time first inside": (
        lambda m, x: m.fc(m.gru(x.transpose(0, 1))[0][-1]),
        {"gru": nn.GRU(8, 5), "fc": nn.Linear(5, 2)},
    ),
    "flattened": (
        lambda m, x: m.fc(m.gru(x)[0].reshape(-1, 16)).view(x.shape[0], x.shape[1], -1),
        {"gru": gru(), "fc": nn.Linear(16, 3)},
    ),
    "activations": (
        lambda m, x: F.leaky_relu(F.silu(m.fc(x)), 0.2) + F.elu(x, 0.7) * torch.tanh(x) - F.softplus(x) + F.relu6(x),
        {"fc": nn.Linear(8, 8)},
    ),
    "scaled": (lambda m, x: m.gru((x - m.mean) / m.std)[0] * 2 - 1, {"gru": gru()}),
    "weight norm": (lambda m, x: m.fc(x), {"fc": nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))}),
    "in place": (lambda m, x: m.relu(m.fc(m.gru(x)[0])), {"gru": gru(), "fc": nn.Linear(16, 3), "relu": nn.ReLU(True)}),
    "masked": (_masked, {"gru": gru()}),
    "group norm": (lambda m, x: m.gn(m.gru(x)[0].mT).mT, {"gru": gru(), "gn": nn.GroupNorm(4, 16)}),
    "one number a step": (
        lambda m, x: torch.sigmoid(m.fc(m.gru(x)[0])).squeeze(-1),
        {"gru": gru(), "fc": nn.Linear(16, 1)},
    ),
}


def module_of(case: str) -> Any:
    torch.manual_seed(11)
    call, parts = CASES[case]
    module = Own(call, **parts).eval()
    if case == "scaled":
        module.register_buffer("mean", torch.randn(8))
        module.register_buffer("std", torch.rand(8) + 0.5)
    if "norm" in parts:
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("case", CASES)
def test_forward_comes_over(case: str) -> None:
    module = module_of(case)
    net = cgru.from_torch(module, example=torch.randn(4, 9, 8))
    assert "verified against the module on the example" in str(net)
    x = torch.randn(3, 14, 8)
    with torch.no_grad():
        want, exact = module(x).numpy(), module.double()(x.double()).numpy()
    module.float()
    found = net(x.numpy())
    found = found.reshape(want.shape) if found.shape[-1] == 1 else found
    assert np.abs(found - exact).max() <= max(2e-6, 2 * np.abs(want - exact).max())


REFUSED = {
    "control flow": (lambda m, x: x if x.sum() > 0 else -x, "torch.export cannot follow"),
    "transform": (lambda m, x: torch.fft.rfft(x).abs(), r"fft_rfft.*torch_modules\.py:\d+: return"),
    "additive scores of pairs": (
        lambda m, x: torch.softmax(torch.tanh(x.unsqueeze(2) + x.unsqueeze(1)).sum(-1), -1) @ x,
        "every pair of frames|over rows",
    ),
    "rows": (lambda m, x: x - x.mean(0), "rows"),
    "frames by number": (lambda m, x: m.gru(x)[0][:, 3], "frame 3 of a sequence"),
    "overwritten": (lambda m, x: _overwritten(m, x), "changes in place what is read elsewhere"),
    "numbers of one length": (lambda m, x: x + torch.linspace(0, 1, 9).view(1, -1, 1), "differs from frame to frame"),
    "rows in between": (lambda m, x: _stirred(m, x), "a mean over rows|axes"),
}


def _overwritten(m: Any, x: Any) -> Any:
    h = m.gru(x)[0]
    h[:, :, 0] = 0
    return h


def _stirred(m: Any, x: Any) -> Any:
    h = torch.zeros(len(x), 16)
    for frame in x.unbind(1):
        h = m.cell(frame, h)
        h = h - h.mean(0)
    return h


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_followed_is_named(case: str) -> None:
    call, says = REFUSED[case]
    with pytest.raises(UnsupportedError, match=says):
        cgru.from_torch(Own(call, gru=gru(), cell=nn.GRUCell(8, 16)).eval(), example=torch.randn(4, 9, 8))


@pytest.mark.parametrize("example", [None, torch.ones(3, 7, 8), (torch.ones(3, 7, 8),), {"x": torch.ones(3, 7, 8)}])
def test_a_branch_on_values_is_refused_whatever_an_example_takes(example: Any, capfd: Any) -> None:
    module = Own(lambda m, x: m.fc(m.gru(x)[0]) if x.sum() > 0 else x, gru=gru(), fc=nn.Linear(16, 3)).eval()
    with pytest.raises(UnsupportedError, match="hangs on the values of its input"):
        cgru.from_torch(module, example=example)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [tuple, dict])
def test_packed_sequences_take_lengths(kind: Any) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = gru()

        def forward(self, x: Any, lengths: Any) -> Any:
            return self.gru(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))[1][-1]

    given = {"x": torch.randn(2, 5, 8), "lengths": torch.tensor([5, 3])}
    module = Packed()
    net = cgru.from_torch(module, example=given if kind is dict else tuple(given.values()))
    want = module(**given).detach().numpy()
    assert np.abs(net(given["x"].numpy(), lengths=[5, 3]) - want).max() <= 2e-6
    with pytest.raises(UnsupportedError, match="make a chain of one input, found 2"):
        cgru.from_torch(Packed(), example=tuple(given.values()), layers=["gru"])


def test_a_mask_of_truth_values_is_named_and_one_of_floats_runs() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = gru()

        def forward(self, x: Any, mask: Any) -> Any:
            return (self.gru(x)[0] * mask.unsqueeze(-1)).sum(1)

    torch.manual_seed(6)
    module, x, mask = Masked().eval(), torch.randn(3, 7, 8), torch.rand(3, 7) > 0.4
    with pytest.raises(UnsupportedError, match=r"input 'mask' holds truth values.*lengths, or a mask of floats"):
        cgru.from_torch(module, example=(x, mask))
    net = cgru.from_torch(module, example=(x, mask.float()))
    want = module(x, mask).detach().numpy()
    assert np.abs(net({"x": x.numpy(), "mask": mask.float().numpy()[..., None]}) - want).max() <= 2e-6


def test_what_hangs_on_the_number_of_steps_is_found() -> None:
    with pytest.raises(UnsupportedError, match="other numbers of rows and steps"):
        cgru.from_torch(Own(lambda m, x: x.sum(1) / x.shape[1]), example=torch.randn(4, 9, 8))


def test_two_heads_come_by_name() -> None:
    torch.manual_seed(1)
    module = Own(
        lambda m, x: {"logits": m.a(m.gru(x)[0]), "value": m.b(m.gru(x)[0][:, -1])},
        gru=gru(), a=nn.Linear(16, 3), b=nn.Linear(16, 1),
    )  # fmt: skip
    x = torch.randn(3, 7, 8)
    found, want = cgru.from_torch(module, example=x)(x.numpy()), module(x)
    assert list(found) == ["logits", "value"]
    for name, array in found.items():
        assert np.abs(array - want[name].detach().numpy()).max() <= 2e-6


def test_a_state_beside_the_output_is_the_networks_own() -> None:
    module = Own(lambda m, x: (lambda out, h: (m.fc(out), h))(*m.gru(x)), gru=gru(), fc=nn.Linear(16, 3))
    x = torch.randn(3, 7, 8)
    net = cgru.from_torch(module, example=x)
    y, state = net.run(x.numpy())
    want, h = module(x)
    assert "the state after the last step" in str(net)
    assert np.abs(y - want.detach().numpy()).max() <= 2e-6
    assert np.abs(state.arrays()["gru.h"] - h.detach().numpy()).max() <= 2e-6
    assert net.stream().step(x[0, 0].numpy()).shape == (3,)


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.gru, self.fc = nn.Embedding(20, 8), gru(11), nn.Linear(16, 3)

        def forward(self, ids: Any, speed: Any, h: Any = None) -> Any:
            return self.fc(self.gru(torch.cat([self.words(ids), speed], -1), h)[0])

    torch.manual_seed(2)
    module, ids, speed, h = Two(), torch.randint(0, 20, (3, 7)), torch.randn(3, 7, 3), torch.randn(1, 3, 16)
    want = module(ids, speed, h).detach().numpy()
    for example in ((ids, speed, h), {"ids": ids, "speed": speed, "h": h}):
        net = cgru.from_torch(module, example=example)
        given = {"ids": ids.numpy(), "speed": speed.numpy(), "h": h[0].numpy()}
        assert np.abs(net(given) - want).max() <= 2e-6
    with pytest.raises(CgruError, match="takes 2 inputs, ids, speed: give an example"):
        cgru.from_torch(module)


def test_channels_before_time() -> None:
    torch.manual_seed(4)
    module = nn.Sequential(
        nn.Conv1d(8, 6, 3, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )
    x = torch.randn(3, 8, 20)
    net = cgru.from_torch(module.eval(), example=x)
    assert "here it is (B, T, 8)" in str(net)
    assert np.abs(net(x.mT.numpy()) - module(x).detach().numpy()).max() <= 2e-6


def _saved(module: Any, *args: Any) -> bytes:
    import io

    file = io.BytesIO()
    torch.export.save(torch.export.export(module, args, strict=False), file)
    return file.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_an_exported_archive_is_the_same_network(case: str) -> None:
    module = module_of(case)
    x = torch.randn(4, 9, 8)
    found = cgru.load(_saved(module, x))
    np.testing.assert_array_equal(found(x.numpy()), cgru.from_torch(module, example=x)(x.numpy()))


def test_an_archive_says_what_its_export_fixed() -> None:
    late = nn.Sequential(nn.Linear(8, 3))
    late.add_module("gru", nn.GRU(3, 4))
    x = torch.randn(4, 9, 8)
    net = cgru.load(_saved(late, x))
    assert "takes input as (T, B, F); here it is (B, T, 8)" in str(net)
    want = late(x)[0].transpose(0, 1).detach().numpy()
    assert np.abs(net(x.transpose(0, 1).numpy()) - want).max() <= 2e-6
    assert "exported with x (4, 9, 8)" in str(cgru.load(_saved(module_of("residual"), x)))


@pytest.mark.parametrize("factor", [lambda x: x.shape[1], lambda x: float(x.shape[1])])
def test_a_factor_of_an_archive_that_may_be_the_number_of_steps_is_refused(factor: Any) -> None:
    with pytest.raises(UnsupportedError, match="a factor of 9"):
        cgru.load(_saved(Own(lambda m, x: x.sum(1) / factor(x)), torch.randn(4, 9, 8)))


def _damaged(data: bytes, member: str, change: Any) -> bytes:
    import io
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith(member) else content)
    return made.getvalue()


DAMAGE: dict[str, tuple[str, Any, str]] = {
    "short weights": ("weights/weight_0", lambda data: data[:8], "does not fit the 8 bytes"),
    "far strides": (
        "weights_config.json",
        lambda data: data.replace(b'"strides": [{"as_int": 8', b'"strides": [{"as_int": 99999'),
        "does not fit",
    ),
    "pickled": (
        "weights_config.json",
        lambda data: data.replace(b'"use_pickle": false', b'"use_pickle": true'),
        "pickled",
    ),
    "no JSON": ("model.json", lambda data: data[:-9], "is not valid JSON"),
    "JSON that nests too deep": ("model.json", lambda data: b"[" * 99999, "nests too deep"),
    "another version": ("model.json", lambda data: data.replace(b'"major": 8', b'"major": 99'), "schema version"),
    "no graph": ("model.json", lambda data: data.replace(b'"nodes"', b'"knots"'), "is no program"),
    "an operator by path": (
        "model.json",
        lambda data: data.replace(b"torch.ops.aten.linear.default", b"os.system"),
        "os.system",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_archive_is_refused(case: str) -> None:
    torch.manual_seed(1)
    data = _saved(nn.Sequential(nn.Linear(8, 3)), torch.randn(4, 9, 8))
    assert cgru.load(data).output_size == 3
    member, change, says = DAMAGE[case]
    with pytest.raises(CgruError, match=says):
        cgru.load(_damaged(data, member, change))


def test_logarithms_and_exponentials_of_little() -> None:
    """log(1 + x) and exp(x) − 1 where x vanishes beside 1, as the magnitudes of a quiet spectrum do."""
    x = torch.logspace(-12, 1, 40).reshape(1, 10, 4)
    module = Own(lambda m, x: torch.cat([torch.log1p(x), torch.expm1(x)], -1)).eval()
    np.testing.assert_allclose(cgru.from_torch(module, example=x)(x.numpy()), module(x.double()).numpy(), rtol=3e-7)


def test_the_angle_of_two_parts() -> None:
    """In all four quadrants and on the axes."""
    x = torch.cat([torch.randn(2, 9, 6), torch.tensor([0.0, 1.0, -1.0, 2.0, 0.0, -3.0]).expand(2, 1, 6)], 1)
    module = Own(lambda m, x: torch.atan2(x[..., :3], x[..., 3:])).eval()
    np.testing.assert_allclose(cgru.from_torch(module, example=x)(x.numpy()), module(x.double()).numpy(), atol=5e-7)
