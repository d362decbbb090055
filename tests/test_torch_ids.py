"""Torch modules that make masks of token ids and count them: means, attention and packing without lengths=."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import UnsupportedError

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn


class Words(nn.Module):
    """Ids, 0 behind each row's own, of which forward() makes a mask or counts."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.call = call
        self.embed, self.gru = nn.Embedding(20, 8, padding_idx=0), nn.GRU(8, 6, batch_first=True)
        self.both = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.score, self.key = nn.Linear(6, 1), nn.Linear(8, 8)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True), 1, enable_nested_tensor=False
        )

    def forward(self, x: Any) -> Any:
        return self.call(self, x)


def _mean(m: Any, x: Any) -> Any:
    seen = (x != 0).unsqueeze(-1).float()
    return (m.gru(m.embed(x))[0] * seen).sum(1) / seen.sum(1).clamp(min=1)


def _pooled(m: Any, x: Any) -> Any:
    y = m.gru(m.embed(x))[0]
    a = torch.softmax(m.score(y).squeeze(-1).masked_fill(x.eq(0), float("-inf")), 1)
    return torch.bmm(a.unsqueeze(1), y).squeeze(1)


def _largest(m: Any, x: Any) -> Any:
    return m.gru(m.embed(x))[0].masked_fill((x == 0)[:, :, None], -1e9).max(1).values


def _indexed(m: Any, x: Any) -> Any:
    count = (x != 0).sum(1)
    return m.gru(m.embed(x))[0][torch.arange(x.size(0)), count - 1]


def _gathered(m: Any, x: Any) -> Any:
    y, count = m.gru(m.embed(x))[0], (x > 0).sum(dim=1)
    return y.gather(1, (count - 1).view(-1, 1, 1).expand(-1, 1, y.size(2))).squeeze(1)


def _packed(m: Any, x: Any) -> Any:
    count = (x != 0).sum(1).cpu()
    packed = nn.utils.rnn.pack_padded_sequence(m.embed(x), count, batch_first=True, enforce_sorted=False)
    y, (h, c) = m.both(packed)
    y, _ = nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=x.size(1))
    return torch.cat([h[-2], h[-1], c[0], y.sum(1)], 1)


def _scores(m: Any, x: Any) -> Any:
    e = m.embed(x)
    scores = (m.key(e) @ e.mT / 3).masked_fill((x == 0).unsqueeze(1), -1e9)
    return m.gru(torch.softmax(scores, -1) @ e)[0]


def _chosen(m: Any, x: Any) -> Any:
    e = m.embed(x)
    scores = torch.where((x != 0)[:, None, :], m.key(e) @ e.mT / 3, float("-inf"))
    return m.gru(torch.softmax(scores, -1) @ e)[0]


def _added(m: Any, x: Any) -> Any:
    e = m.embed(x)
    return m.gru(torch.softmax(m.key(e) @ e.mT / 3 + (1.0 - (x != 0).float())[:, None] * -10000.0, -1) @ e)[0]


def _encoded(m: Any, x: Any) -> Any:
    padding = x == 0
    y = m.encoder(m.embed(x), src_key_padding_mask=padding).masked_fill(padding.unsqueeze(-1), 0.0)
    return y.sum(1) / (~padding).sum(1, keepdim=True)


def _in_one_call(m: Any, x: Any) -> Any:
    e = m.embed(x)
    return nn.functional.scaled_dot_product_attention(m.key(e), e, e, attn_mask=(x != 0).unsqueeze(1))


CASES = {
    "masked mean": _mean, "attention pooling": _pooled, "masked maximum": _largest, "the last by index": _indexed,
    "the last by gather": _gathered, "packed, both directions": _packed, "scores filled": _scores,
    "scores chosen": _chosen, "scores added to": _added, "a padded encoder": _encoded, "in one call": _in_one_call,
}  # fmt: skip


def _ids(rows: int, steps: int) -> Any:
    x = torch.randint(1, 20, (rows, steps))
    for row in range(rows):
        x[row, max(1, steps - 3 * row) :] = 0
    return x


def _checked(net: cgru.Model, module: Any, x: Any) -> None:
    with torch.no_grad():
        want = module(x)
        exact = module.double()(x) if module.call is not _added and module.call is not _mean else want
    module.float()
    own = float((want - exact).abs().max())
    assert np.abs(net(x.numpy()) - exact.numpy()).max() <= max(2e-6, 2 * own)


@pytest.mark.parametrize("case", CASES)
def test_live(case: str) -> None:
    torch.manual_seed(7)
    module = Words(CASES[case]).eval()
    net = cgru.from_torch(module, example=_ids(3, 11))
    _checked(net, module, _ids(4, 14))
    zeros = _ids(4, 14)
    zeros[2, 1:3] = 0  # padding in between counts as what forward() says of it
    zeros[2, 3] = 5
    _checked(net, module, zeros)


@pytest.mark.parametrize("case", [case for case in CASES if "packed" not in case and case != "in one call"])
def test_exported_and_traced(case: str) -> None:
    torch.manual_seed(7)
    module, file = Words(CASES[case]).eval(), io.BytesIO()
    torch.export.save(torch.export.export(module, (_ids(3, 11),), strict=False), file)
    _checked(cgru.load(file.getvalue()), module, _ids(4, 14))
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, _ids(3, 11), check_trace=False), file)
    if case != "a padded encoder":  # of which tracing leaves sizes
        _checked(cgru.load(file.getvalue()), module, _ids(4, 14))


def test_a_file_does_not_say_that_a_mask_holds_truth() -> None:
    module, file = Words(_in_one_call).eval(), io.BytesIO()
    torch.export.save(torch.export.export(module, (_ids(3, 11),), strict=False), file)
    with pytest.raises(UnsupportedError, match="truth values"):
        cgru.load(file.getvalue())


def test_comparisons_of_ids_that_are_not_run_are_named() -> None:
    module = Words(lambda m, x: m.gru(m.embed(x))[0] * (x > 3).unsqueeze(-1))
    with pytest.raises(UnsupportedError, match="gt of ids and 3; equal and unequal run"):
        cgru.from_torch(module.eval(), example=_ids(3, 11))
