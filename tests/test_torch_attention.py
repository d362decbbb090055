"""Attention among a sequence's own frames, as people write it in PyTorch: live, exported and traced, beside PyTorch."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from torch_modules import Own

import cgru
from cgru.errors import CgruError, UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn
F: Any = torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore")


def _by_hand(m: Any, x: Any) -> Any:
    """Heads of a view, scores scaled and masked by a buffer of more frames than there are (nanoGPT)."""
    rows, steps, width = x.size()
    q, k, v = (part.view(rows, steps, 2, 4).transpose(1, 2) for part in m.qkv(x).split(width, dim=2))
    scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    scores = scores.masked_fill(m.shown[:, :, :steps, :steps] == 0, float("-inf"))
    return x + m.out((F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(rows, steps, width))


def _einsum(m: Any, x: Any) -> Any:
    q, k, v = (part.reshape(*x.shape[:2], 2, 4) for part in m.qkv(x).chunk(3, -1))
    weights = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / 2, -1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)


def _heads(m: Any, x: Any) -> Any:
    q, k, v = (part.view(*x.shape[:2], 2, 4).transpose(1, 2) for part in m.qkv(x).chunk(3, -1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=m.causal).transpose(1, 2).reshape(x.shape)


def _modules_own(m: Any, x: Any) -> Any:
    return m.norm(x + m.attention(x, x, x, need_weights=m.weights)[0])


def _frames_first(m: Any, x: Any) -> Any:
    x = x.transpose(0, 1)
    later = torch.triu(torch.ones(len(x), len(x), dtype=torch.bool), 1)
    return m.attention(x, x, x, attn_mask=later)[0].transpose(0, 1)


def _encoder(m: Any, x: Any) -> Any:
    return m.layer(x, src_mask=nn.Transformer.generate_square_subsequent_mask(x.size(1)), is_causal=True)


def made(case: str) -> Any:
    torch.manual_seed(7)
    qkv, attention = nn.Linear(8, 24), nn.MultiheadAttention(8, 2, batch_first=True)
    if case == "by hand":
        module = Own(_by_hand, qkv=qkv, out=nn.Linear(8, 8))
        module.register_buffer("shown", torch.tril(torch.ones(40, 40)).view(1, 1, 40, 40))
        return module.eval()
    layer = {"dim_feedforward": 12, "batch_first": True}
    modules = {
        "one head": lambda: Own(lambda m, x: torch.softmax(m.w(x) @ x.mT, 2) @ x, w=nn.Linear(8, 8)),
        "einsum": lambda: Own(_einsum, qkv=qkv),
        "in one call": lambda: Own(_heads, qkv=qkv, causal=False),
        "in one call, causal": lambda: Own(_heads, qkv=qkv, causal=True),
        "MultiheadAttention": lambda: Own(_modules_own, attention=attention, norm=nn.LayerNorm(8), weights=False),
        "with its weights": lambda: Own(_modules_own, attention=attention, norm=nn.LayerNorm(8), weights=True),
        "frames first, causal": lambda: Own(_frames_first, attention=nn.MultiheadAttention(8, 4, bias=False)),
        "encoder layer": lambda: Own(_encoder, layer=nn.TransformerEncoderLayer(8, 2, norm_first=True, **layer)),
        "encoder and GRU": lambda: Own(
            lambda m, x: m.gru(m.encoder(x))[0],
            encoder=nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, activation="gelu", **layer), 2),
            gru=nn.GRU(8, 3, batch_first=True),
        ),
    }
    return modules[case]().eval()


CASES = (
    "by hand", "one head", "einsum", "in one call", "in one call, causal", "MultiheadAttention", "with its weights",
    "frames first, causal", "encoder layer", "encoder and GRU",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_live_exported_and_traced(case: str) -> None:
    module, example = made(case), torch.randn(4, 9, 8)
    nets = [cgru.from_torch(module, example=example)]
    file = io.BytesIO()
    torch.export.save(torch.export.export(module, (example,), strict=False), file)
    nets.append(cgru.load(file.getvalue()))
    if case != "by hand":  # what is traced would have the example's mask
        file = io.BytesIO()
        torch.jit.save(torch.jit.trace(module, example, check_trace=False), file)
        if case not in ("frames first, causal", "encoder layer"):
            nets.append(cgru.load(file.getvalue(), inputs={"x": (None, None, 8)}))
    x = torch.randn(3, 14, 8)
    with torch.no_grad():
        want, exact = module(x).numpy(), module.double()(x.double()).numpy()
    for net in nets:
        assert np.abs(net(x.numpy()) - exact).max() <= max(2e-6, 2 * np.abs(want - exact).max())
        with pytest.raises(CgruError, match="whole sequence"):
            net.stream()


class Scripted(nn.Module):
    """What torch.jit.script leaves takes torch's own call for an even number of heads, and the long way for others."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attention, self.gru = nn.MultiheadAttention(6, heads, batch_first=True), nn.GRU(6, 4, batch_first=True)

    def forward(self, x):  # without types, as torch.jit.script reads them
        return self.gru(self.attention(x, x, x)[0])[0]


@pytest.mark.parametrize("heads", [2, 3])
def test_scripted(heads: int) -> None:
    torch.manual_seed(6)
    module, file, x = Scripted(heads).eval(), io.BytesIO(), torch.randn(3, 9, 6)
    torch.jit.save(torch.jit.script(module), file)
    net = cgru.load(file.getvalue())
    assert np.abs(net(x.numpy()) - module(x).detach().numpy()).max() <= 2e-6


class Padded(nn.Module):
    """Rows of several lengths, whose padding attention passes over."""

    def __init__(self, masked: bool = True) -> None:
        super().__init__()
        self.attention, self.masked = nn.MultiheadAttention(8, 2, batch_first=True), masked
        self.gru = nn.GRU(8, 4, batch_first=True)

    def forward(self, x: Any, lengths: Any) -> Any:
        padding = torch.arange(x.size(1))[None] >= lengths[:, None]
        y = self.attention(x, x, x, key_padding_mask=padding if self.masked else None, need_weights=False)[0]
        return y.masked_fill(padding.unsqueeze(-1), 0.0).sum(1)


def test_rows_of_several_lengths() -> None:
    torch.manual_seed(5)
    module, x = Padded().eval(), torch.randn(3, 9, 8)
    net = cgru.from_torch(module, example=(x, torch.tensor([9, 4, 1])))
    x, lengths = torch.randn(4, 12, 8), torch.tensor([3, 12, 7, 1])
    want = module(x, lengths).detach().numpy()
    assert np.abs(net(x.numpy(), lengths=lengths.numpy()) - want).max() <= 2e-6
    with pytest.raises(UnsupportedError, match=r"the padding behind them counts in it.*key_padding_mask"):
        cgru.from_torch(Padded(masked=False).eval(), example=(x, lengths))


def _windowed(m: Any, x: Any) -> Any:
    apart = (torch.arange(x.shape[1])[None] - torch.arange(x.shape[1])[:, None]).abs()
    return torch.softmax((x @ x.mT).masked_fill(apart > 2, -math.inf), -1) @ x


REFUSED: dict[str, tuple[Any, str]] = {
    "a window": (_windowed, "other than the causal one"),
    "distances": (lambda m, x: torch.softmax(x @ x.mT + torch.ones(x.shape[1], x.shape[1]), -1) @ x, "added to the"),
    "no softmax": (lambda m, x: (x @ x.mT) @ x, "without a softmax"),
    "over queries": (lambda m, x: torch.softmax(x @ x.mT, 1) @ x, "over the frames that attend"),
    "the matrix itself": (lambda m, x: torch.relu(x @ x.mT), "a matrix of every frame with every other"),
    "weights changed": (lambda m, x: (torch.softmax(x @ x.mT, -1) * 2) @ x, "mul of the weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_attention_is_named(case: str) -> None:
    call, says = REFUSED[case]
    with pytest.raises(UnsupportedError, match=says):
        cgru.from_torch(Own(call), example=torch.randn(4, 9, 8))
