"""Networks as people write them in PyTorch: forward()s of the usual shapes of public code, small."""

# ruff: noqa: B905, RUF059 - as people write them

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install cgru[parity]")
nn: Any = torch.nn
F: Any = torch.nn.functional
pack_padded_sequence: Any = nn.utils.rnn.pack_padded_sequence
pad_packed_sequence: Any = nn.utils.rnn.pad_packed_sequence


class Case(NamedTuple):
    """``make`` builds the module; ``inputs`` gives its arguments for so many rows and steps. ``axes`` says how torch
    has each argument and result, by letters of B, T and features; ids and lengths are whole numbers."""

    make: Callable[[], Any]
    inputs: Callable[[int, int], tuple[Any, ...]]
    takes: tuple[str, ...] = ("BTF",)
    gives: tuple[str, ...] = ("BTF",)
    steps: tuple[int, int] = (12, 17)


CASES: dict[str, Case] = {}


def case(name: str, inputs: Any, **more: Any) -> Callable[[Any], Any]:
    def put(cls: Any) -> Any:
        CASES[name] = Case(cls, inputs, **more)
        return cls

    return put


def frames(size: int) -> Any:
    return lambda rows, steps: (torch.randn(rows, steps, size),)


def ids(vocabulary: int) -> Any:
    return lambda rows, steps: (torch.randint(1, vocabulary, (rows, steps)),)


# ---- speech -------------------------------------------------------------------------------------------------


class Highway(nn.Module):
    def __init__(self, size: Any) -> None:
        super().__init__()
        self.H = nn.Linear(size, size)
        self.H.bias.data.zero_()
        self.T = nn.Linear(size, size)
        self.T.bias.data.fill_(-1)

    def forward(self, inputs: Any) -> Any:
        H = F.relu(self.H(inputs))
        T = torch.sigmoid(self.T(inputs))
        return H * T + inputs * (1.0 - T)


class BatchNormConv1d(nn.Module):
    def __init__(self, i: Any, o: Any, k: Any, padding: Any, activation: Any = None) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(i, o, kernel_size=k, padding=padding, bias=False)
        self.bn = nn.BatchNorm1d(o, momentum=0.99, eps=1e-3)
        self.activation = activation

    def forward(self, x: Any) -> Any:
        x = self.conv1d(x)
        if self.activation is not None:
            x = self.activation(x)
        return self.bn(x)


@case("Tacotron's CBHG", frames(8))
class CBHG(nn.Module):
    def __init__(self, size: Any = 8, K: Any = 3) -> None:
        super().__init__()
        self.in_dim = size
        self.relu = nn.ReLU()
        self.conv1d_banks = nn.ModuleList([BatchNormConv1d(size, size, k, k // 2, self.relu) for k in range(1, K + 1)])
        self.max_pool1d = nn.MaxPool1d(kernel_size=2, stride=1, padding=1)
        self.proj = nn.ModuleList([BatchNormConv1d(K * size, 10, 3, 1, self.relu), BatchNormConv1d(10, size, 3, 1)])
        self.pre_highway = nn.Linear(size, size, bias=False)
        self.highways = nn.ModuleList([Highway(size) for _ in range(2)])
        self.gru = nn.GRU(size, size, 1, batch_first=True, bidirectional=True)

    def forward(self, inputs: Any, input_lengths: Any = None) -> Any:
        x = inputs
        if x.size(-1) == self.in_dim:
            x = x.transpose(1, 2)
        T = x.size(-1)
        x = torch.cat([conv1d(x)[:, :, :T] for conv1d in self.conv1d_banks], dim=1)
        x = self.max_pool1d(x)[:, :, :T]
        for conv1d in self.proj:
            x = conv1d(x)
        x = x.transpose(1, 2)
        if x.size(-1) != self.in_dim:
            x = self.pre_highway(x)
        x += inputs
        for highway in self.highways:
            x = highway(x)
        outputs, _ = self.gru(x)
        return outputs


@case("CRNN", lambda rows, steps: (torch.randn(rows, 1, 16, 2 * steps),), takes=("BFFT",), gives=("TBF",))
class CRNN(nn.Module):
    """OCR: columns of an image are time."""

    def __init__(self, nh: Any = 6, nclass: Any = 5) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, 1, 1),
            nn.ReLU(True),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(4, 6, 3, 1, 1),
            nn.BatchNorm2d(6),
            nn.ReLU(True),
            nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
            nn.Conv2d(6, 8, (4, 2), 1, 0),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.rnn = nn.LSTM(8, nh, bidirectional=True)
        self.embedding = nn.Linear(nh * 2, nclass)

    def forward(self, input: Any) -> Any:
        conv = self.cnn(input)
        b, c, h, w = conv.size()
        assert h == 1, "the height of conv must be 1"
        conv = conv.squeeze(2)
        conv = conv.permute(2, 0, 1)
        recurrent, _ = self.rnn(conv)
        T, b, h = recurrent.size()
        t_rec = recurrent.view(T * b, h)
        output = self.embedding(t_rec)
        output = output.view(T, b, -1)
        return F.log_softmax(output, dim=2)


class BatchRNN(nn.Module):
    def __init__(self, i: Any, h: Any, batch_norm: Any = True) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(i) if batch_norm else None
        self.rnn = nn.GRU(i, h, bidirectional=True, bias=True)
        self.hidden = h

    def forward(self, x: Any) -> Any:
        if self.batch_norm is not None:
            t, n = x.size(0), x.size(1)
            x = x.view(t * n, -1)
            x = self.batch_norm(x)
            x = x.view(t, n, -1)
        x, _ = self.rnn(x)
        x = x.view(x.size(0), x.size(1), 2, -1).sum(2).view(x.size(0), x.size(1), -1)
        return x


@case("Deep Speech 2", lambda rows, steps: (torch.randn(rows, 1, 21, 2 * steps + 1),), takes=("BFFT",))
class DeepSpeech(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 4, kernel_size=(11, 5), stride=(2, 2), padding=(5, 2)),
            nn.BatchNorm2d(4),
            nn.Hardtanh(0, 20, inplace=True),
            nn.Conv2d(4, 3, kernel_size=(7, 5), stride=(2, 1), padding=(3, 2)),
            nn.BatchNorm2d(3),
            nn.Hardtanh(0, 20, inplace=True),
        )
        self.rnns = nn.Sequential(BatchRNN(18, 6, batch_norm=False), BatchRNN(6, 6))
        self.fc = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 5, bias=False))

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3])
        x = x.transpose(1, 2).transpose(0, 1).contiguous()
        for rnn in self.rnns:
            x = rnn(x)
        t, n = x.size(0), x.size(1)
        x = self.fc(x.view(t * n, -1)).view(t, n, -1)
        x = x.transpose(0, 1)
        return F.softmax(x, dim=-1)


@case(
    "speech commands with attention",
    lambda rows, steps: (torch.randn(rows, 1, steps, 10),),
    takes=("BFTF",),
    gives=("BF",),
)
class AttRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, (5, 1), padding=(2, 0))
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 1, (5, 1), padding=(2, 0))
        self.bn2 = nn.BatchNorm2d(1)
        self.lstm = nn.LSTM(10, 6, 2, bidirectional=True, batch_first=True)
        self.query = nn.Linear(12, 12)
        self.fc1 = nn.Linear(12, 8)
        self.fc2 = nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = x.squeeze(1)
        out, _ = self.lstm(x)
        last = out[:, -1, :]
        query = self.query(last)
        scores = torch.bmm(out, query.unsqueeze(2)).squeeze(2)
        scores = torch.softmax(scores, dim=1)
        context = torch.bmm(scores.unsqueeze(1), out).squeeze(1)
        x = F.relu(self.fc1(context))
        return self.fc2(x)


@case(
    "voice activity",
    lambda rows, steps: (torch.randn(rows, 6, 4 * steps),),
    takes=("BFT",),
    gives=("BTF",),
    steps=(12, 20),
)
class VAD(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(i: Any, o: Any) -> Any:
            return nn.Sequential(
                nn.Conv1d(i, i, 5, padding=2, groups=i), nn.Conv1d(i, o, 1), nn.BatchNorm1d(o), nn.SiLU()
            )

        self.enc = nn.Sequential(block(6, 8), nn.MaxPool1d(2), block(8, 8), nn.AvgPool1d(2))
        self.drop = nn.Dropout(0.3)
        self.lstm = nn.LSTM(8, 5, batch_first=True)
        self.head = nn.Sequential(nn.Linear(5, 4), nn.PReLU(), nn.Linear(4, 1), nn.Sigmoid())

    def forward(self, x: Any) -> Any:
        x = self.drop(self.enc(x)).permute(0, 2, 1)
        y, (h, c) = self.lstm(x)
        return self.head(y).squeeze(-1)


class ResBlock(nn.Module):
    def __init__(self, dims: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(dims, dims, kernel_size=1, bias=False)
        self.conv2 = nn.Conv1d(dims, dims, kernel_size=1, bias=False)
        self.batch_norm1 = nn.BatchNorm1d(dims)
        self.batch_norm2 = nn.BatchNorm1d(dims)

    def forward(self, x: Any) -> Any:
        residual = x
        x = F.relu(self.batch_norm1(self.conv1(x)))
        return self.batch_norm2(self.conv2(x)) + residual


@case(
    "WaveRNN",
    lambda rows, steps: (torch.randn(rows, 4 * (steps - 4)), torch.randn(rows, 6, steps)),
    takes=("BT", "BFT"),
)
class WaveRNN(nn.Module):
    """Conditioned on a spectrogram that is made longer; the sample before comes as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv1d(6, 8, 5, bias=False)
        self.res = nn.ModuleList([ResBlock(8)])
        self.I = nn.Linear(9, 8)
        self.rnn1 = nn.GRU(8, 8, batch_first=True)
        self.rnn2 = nn.GRU(12, 8, batch_first=True)
        self.fc1 = nn.Linear(12, 8)
        self.fc3 = nn.Linear(8, 10)

    def forward(self, x: Any, mels: Any) -> Any:
        m = self.conv_in(mels)
        for f in self.res:
            m = f(m)
        aux = m.repeat_interleave(4, dim=2).transpose(1, 2)
        a1, a2 = aux[:, :, :4], aux[:, :, 4:]
        x = torch.cat([x.unsqueeze(-1), aux], dim=2)
        x = self.I(x)
        res = x
        x, _ = self.rnn1(x)
        x = x + res
        res = x
        x = torch.cat([x, a1], dim=2)
        x, _ = self.rnn2(x)
        x = x + res
        x = torch.cat([x, a2], dim=2)
        x = F.relu(self.fc1(x))
        return self.fc3(x)


@case("mask of a spectrum", lambda rows, steps: (torch.randn(rows, 2, steps, 9),), takes=("BFTF",), gives=("BFTF",))
class ConvRecurrent(nn.Module):
    """Enhancement: 2-D convolutions down over frequency, a GRU, transposed ones up, with skips (CRN, DCCRN)."""

    def __init__(self) -> None:
        super().__init__()
        self.e1 = nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=(1, 1))
        self.e2 = nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(1, 1))
        self.b1, self.b2, self.b3 = nn.BatchNorm2d(4), nn.BatchNorm2d(6), nn.BatchNorm2d(4)
        self.gru = nn.GRU(18, 18, batch_first=True)
        self.d2 = nn.ConvTranspose2d(12, 4, (2, 3), stride=(1, 2), padding=(0, 1))
        self.d1 = nn.ConvTranspose2d(8, 2, (2, 3), stride=(1, 2), padding=(0, 1))

    def forward(self, x: Any) -> Any:
        e1 = F.elu(self.b1(self.e1(x)[:, :, :-1, :]))
        e2 = F.elu(self.b2(self.e2(e1)[:, :, :-1, :]))
        B, C, T, W = e2.shape
        h = e2.transpose(1, 2).contiguous().view(B, T, C * W)
        h, _ = self.gru(h)
        h = h.view(B, T, C, W).transpose(1, 2).contiguous()
        d2 = self.d2(torch.cat([h, e2], 1))[:, :, 1:, :]
        d2 = F.elu(self.b3(d2))
        d1 = self.d1(torch.cat([d2, e1], 1))[:, :, 1:, :]
        return x * torch.tanh(d1)


@case(
    "keyword spotter per frame",
    lambda rows, steps: (torch.randn(rows, steps, 1, 8, 8),),
    takes=("BTFFF",),
    gives=("BF",),
)
class FrameCNN(nn.Module):
    """Video: a 2-D network of each frame, time folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((1, 1)),
        )
        self.lstm = nn.LSTM(6, 5, batch_first=True)
        self.fc = nn.Linear(5, 3)

    def forward(self, x: Any) -> Any:
        batch_size, timesteps, C, H, W = x.size()
        c_in = x.view(batch_size * timesteps, C, H, W)
        c_out = self.cnn(c_in)
        r_in = c_out.view(batch_size, timesteps, -1)
        r_out, (h_n, c_n) = self.lstm(r_in)
        return self.fc(r_out[:, -1, :])


# ---- text ---------------------------------------------------------------------------------------------------


@case(
    "tagger with characters",
    lambda rows, steps: (torch.randint(0, 20, (rows, steps)), torch.randint(0, 9, (rows, steps, 6))),
    takes=("BT", "BTF"),
)
class CharTagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6, padding_idx=0)
        self.chars = nn.Embedding(9, 4, padding_idx=0)
        self.char_cnn = nn.Conv1d(4, 5, 3, padding=1)
        self.lstm = nn.LSTM(11, 6, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(12, 5)

    def forward(self, words: Any, chars: Any) -> Any:
        B, T, C = chars.shape
        e = self.chars(chars.view(B * T, C)).transpose(1, 2)
        c = F.relu(self.char_cnn(e))
        c = F.max_pool1d(c, c.size(2)).squeeze(2).view(B, T, -1)
        x = self.drop(torch.cat([self.words(words), c], dim=-1))
        y, _ = self.lstm(x)
        return F.log_softmax(self.out(self.drop(y)), dim=-1)


@case("tagger with characters by LSTM", lambda rows, steps: (torch.randint(0, 9, (rows, steps, 6)),), takes=("BTF",))
class CharLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.chars = nn.Embedding(9, 4)
        self.inner = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.outer = nn.GRU(6, 5, batch_first=True)

    def forward(self, chars: Any) -> Any:
        B, T, C = chars.shape
        _, (h, _) = self.inner(self.chars(chars.reshape(B * T, C)))
        words = torch.cat([h[0], h[1]], -1).view(B, T, -1)
        return self.outer(words)[0]


class LockedDropout(nn.Module):
    def forward(self, x: Any, dropout: Any = 0.5) -> Any:
        if not self.training or not dropout:
            return x
        m = x.data.new(1, x.size(1), x.size(2)).bernoulli_(1 - dropout)
        return m / (1 - dropout) * x


class WeightDrop(nn.Module):
    """fastai's and Merity's: the recurrent weights are put into the module anew at every call."""

    def __init__(self, module: Any, p: Any = 0.5) -> None:
        super().__init__()
        self.module, self.p = module, p
        raw = self.module.weight_hh_l0
        self.register_parameter("weight_hh_l0_raw", nn.Parameter(raw.data))
        del self.module._parameters["weight_hh_l0"]
        self.module.weight_hh_l0 = F.dropout(self.weight_hh_l0_raw, p=0.0, training=False)

    def forward(self, *args: Any) -> Any:
        self.module.weight_hh_l0 = F.dropout(self.weight_hh_l0_raw, p=self.p, training=self.training)
        return self.module(*args)


@case("AWD-LSTM", lambda rows, steps: (torch.randint(0, 20, (steps, rows)),), takes=("TB",), gives=("TBF",))
class AWD(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(20, 6)
        self.lockdrop = LockedDropout()
        self.rnns = nn.ModuleList([WeightDrop(nn.LSTM(6, 8)), WeightDrop(nn.LSTM(8, 6))])
        self.decoder = nn.Linear(6, 20)
        self.decoder.weight = self.encoder.weight

    def forward(self, input: Any) -> Any:
        raw = self.lockdrop(self.encoder(input), 0.4)
        for rnn in self.rnns:
            raw, new_h = rnn(raw)
            raw = self.lockdrop(raw, 0.3)
        return self.decoder(raw)


@case("RNN-T", lambda rows, steps: (torch.randn(rows, steps, 6),), gives=("BTF", "BTF"))
class Transducer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_linear = nn.Linear(6, 8)
        self.lstm_layers = nn.ModuleList([nn.LSTM(8, 8, batch_first=True) for _ in range(2)])
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(2)])
        self.time_reduction = 2
        self.proj = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = self.input_linear(x)
        for lstm, norm in zip(self.lstm_layers, self.norms):
            y, _ = lstm(x)
            x = norm(x + y)
        return x, torch.tanh(x) * torch.sigmoid(x).pow(2)


@case(
    "siamese",
    lambda rows, steps: (torch.randint(0, 20, (rows, steps)), torch.randint(0, 20, (rows, steps))),
    takes=("BT", "BT"),
    gives=("B",),
)
class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.gru = nn.GRU(6, 7, batch_first=True, bidirectional=True)

    def encode(self, x: Any) -> Any:
        out, h = self.gru(self.embed(x))
        return torch.cat((h[-2], h[-1]), dim=1)

    def forward(self, a: Any, b: Any) -> Any:
        return F.cosine_similarity(self.encode(a), self.encode(b), dim=1)


@case(
    "Manhattan LSTM",
    lambda rows, steps: (torch.randn(rows, steps, 4), torch.randn(rows, steps + 5, 4)),
    takes=("BTF", "BTF"),
    gives=("B",),
)
class Manhattan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)

    def forward(self, a: Any, b: Any) -> Any:
        _, (ha, _) = self.lstm(a)
        _, (hb, _) = self.lstm(b)
        return torch.exp(-torch.sum(torch.abs(ha[-1] - hb[-1]), dim=1))


@case(
    "sentiment of packed rows",
    lambda rows, steps: (
        torch.randint(1, 20, (rows, steps)),
        torch.tensor([steps, *range(steps - 1, steps - rows, -1)]),
    ),
    takes=("BT", "L"),
    gives=("BF",),
)
class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.rnn = nn.LSTM(6, 5, num_layers=2, bidirectional=True, dropout=0.5, batch_first=True)
        self.fc = nn.Linear(10, 2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, text: Any, text_lengths: Any) -> Any:
        embedded = self.dropout(self.embedding(text))
        packed = pack_padded_sequence(embedded, text_lengths.to("cpu"), batch_first=True)
        packed_output, (hidden, cell) = self.rnn(packed)
        hidden = self.dropout(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1))
        return self.fc(hidden)


@case(
    "attention over packed rows",
    lambda rows, steps: (torch.randn(rows, steps, 4), torch.tensor([3, steps, *range(5, 5 + rows - 2)])),
    takes=("BTF", "L"),
    gives=("BF", "BT"),
)
class PackedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True, bidirectional=True)
        self.att = nn.Linear(12, 1)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Any, lengths: Any) -> Any:
        T = x.size(1)
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        out, _ = self.gru(packed)
        out, _ = pad_packed_sequence(out, batch_first=True, total_length=T)
        mask = torch.arange(T, device=x.device)[None, :] < lengths[:, None]
        scores = self.att(torch.tanh(out)).squeeze(-1)
        scores = scores.masked_fill(~mask, float("-inf"))
        weights = F.softmax(scores, dim=1)
        context = (out * weights.unsqueeze(-1)).sum(dim=1)
        return self.fc(context), weights


@case(
    "mean of packed rows",
    lambda rows, steps: (torch.randn(steps, rows, 4), torch.tensor([3, steps, *range(5, 5 + rows - 2)])),
    takes=("TBF", "L"),
    gives=("BF",),
)
class PackedMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, num_layers=2)
        self.fc = nn.Linear(12, 3)

    def forward(self, x: Any, lengths: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        out, (h, c) = self.lstm(packed)
        out, lens = nn.utils.rnn.pad_packed_sequence(out)
        mean = out.sum(0) / lens.unsqueeze(1).to(out.device)
        return self.fc(torch.cat([mean, h[-1]], dim=-1))


@case(
    "linear on packed data",
    lambda rows, steps: (torch.randn(rows, steps, 4), torch.tensor([3, steps, *range(5, 5 + rows - 2)])),
    takes=("BTF", "L"),
    gives=("BTF",),
)
class PackedData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inp, self.gru, self.out = nn.Linear(4, 5), nn.GRU(5, 6, bidirectional=True), nn.Linear(12, 3)

    def forward(self, x: Any, lengths: Any) -> Any:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        packed = nn.utils.rnn.PackedSequence(
            torch.relu(self.inp(packed.data)), packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices
        )
        packed, _ = self.gru(packed)
        y, _ = pad_packed_sequence(packed, batch_first=True)
        return y


# ---- loops --------------------------------------------------------------------------------------------------


@case("GRU by hand", frames(4), gives=("BTF", "BF"))
class HandGRU(nn.Module):
    def __init__(self, i: Any = 4, h: Any = 6) -> None:
        super().__init__()
        self.hidden = h
        self.xz, self.hz = nn.Linear(i, h), nn.Linear(h, h, bias=False)
        self.xr, self.hr = nn.Linear(i, h), nn.Linear(h, h, bias=False)
        self.xn, self.hn = nn.Linear(i, h), nn.Linear(h, h, bias=False)

    def forward(self, x: Any) -> Any:
        h = torch.zeros(x.size(0), self.hidden, device=x.device)
        outs = []
        for t in range(x.size(1)):
            xt = x[:, t, :]
            z = torch.sigmoid(self.xz(xt) + self.hz(h))
            r = torch.sigmoid(self.xr(xt) + self.hr(h))
            n = torch.tanh(self.xn(xt) + self.hn(r * h))
            h = (1 - z) * h + z * n
            outs.append(h.unsqueeze(1))
        return torch.cat(outs, dim=1), h


@case("LSTM by hand", frames(4), gives=("BTF",))
class HandLSTM(nn.Module):
    """One matrix for all gates, chunked; layer normalisation in the cell; outputs written into a buffer."""

    def __init__(self, i: Any = 4, h: Any = 6) -> None:
        super().__init__()
        self.hidden = h
        self.x2h, self.h2h = nn.Linear(i, 4 * h), nn.Linear(h, 4 * h, bias=False)
        self.ln_c = nn.LayerNorm(h)
        self.h0 = nn.Parameter(torch.randn(h))

    def forward(self, x: Any) -> Any:
        B, T, _ = x.shape
        h, c = self.h0.expand(B, -1), x.new_zeros(B, self.hidden)
        out = torch.zeros(B, T, self.hidden)
        for t in range(T):
            gates = self.x2h(x[:, t]) + self.h2h(h)
            i, f, g, o = gates.chunk(4, 1)
            c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(self.ln_c(c))
            out[:, t, :] = h
        return out


@case("stack of cells with dropout and residuals", frames(6), gives=("BTF",))
class CellStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(6, 6) for _ in range(3)])
        self.norms = nn.ModuleList([nn.LayerNorm(6) for _ in range(3)])
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Any) -> Any:
        states = [(x.new_zeros(x.size(0), 6), x.new_zeros(x.size(0), 6)) for _ in self.cells]
        outs = []
        for t in range(x.size(1)):
            inp = x[:, t]
            for k, cell in enumerate(self.cells):
                h, c = cell(inp, states[k])
                h = self.norms[k](h)
                states[k] = (h, c)
                inp = inp + self.drop(h)
            outs.append(inp)
        return torch.stack(outs, dim=1)


@case("both ways by hand", frames(4), gives=("BTF",))
class HandBoth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.b = nn.Linear(4 + 5, 5), nn.Linear(4 + 5, 5)

    def forward(self, x: Any) -> Any:
        hf = hb = torch.zeros(x.shape[0], 5)
        fs: list[Any] = []
        bs: list[Any] = []
        for t in range(x.shape[1]):
            hf = torch.tanh(self.f(torch.cat([x[:, t], hf], 1)))
            fs.append(hf)
        for t in range(x.shape[1] - 1, -1, -1):
            hb = torch.tanh(self.b(torch.cat([x[:, t], hb], 1)))
            bs.insert(0, hb)
        return torch.cat([torch.stack(fs, 1), torch.stack(bs, 1)], 2)


@case(
    "GRU-D",
    lambda rows, steps: (
        torch.randn(rows, steps, 4),
        (torch.rand(rows, steps, 4) > 0.3).float(),
        torch.rand(rows, steps, 4),
    ),
    takes=("BTF",) * 3,
    gives=("BF",),
)
class GRUD(nn.Module):
    """Missing values decay to their mean (Che et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("x_mean", torch.randn(4))
        self.gx, self.gh = nn.Linear(4, 4), nn.Linear(4, 5)
        self.cell = nn.GRUCell(8, 5)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Any, mask: Any, delta: Any) -> Any:
        h = torch.zeros(x.size(0), 5)
        last = torch.zeros_like(x[:, 0])
        for t in range(x.size(1)):
            m, d = mask[:, t], delta[:, t]
            last = m * x[:, t] + (1 - m) * last
            g = torch.exp(-torch.relu(self.gx(d)))
            xh = m * x[:, t] + (1 - m) * (g * last + (1 - g) * self.x_mean)
            h = h * torch.exp(-torch.relu(self.gh(d)))
            h = self.cell(torch.cat([xh, m], 1), h)
        return torch.sigmoid(self.fc(h))


@case("quasi-recurrent", frames(6), gives=("BTF",))
class QRNN(nn.Module):
    """Gates by a convolution, a pooling loop over time (Bradbury et al. 2017), time first inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 15, 2)

    def forward(self, x: Any) -> Any:
        g = self.conv(F.pad(x.transpose(1, 2), (1, 0))).permute(2, 0, 1)
        z, f, o = g.split(5, dim=2)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        c, cs = None, []
        for t in range(z.size(0)):
            c = (1 - f[t]) * z[t] if c is None else f[t] * c + (1 - f[t]) * z[t]
            cs.append(c)
        return (o * torch.stack(cs)).transpose(0, 1)


# ---- forecasting and the like -------------------------------------------------------------------------------


@case(
    "forecaster with categories",
    lambda rows, steps: (torch.randn(rows, steps, 3), torch.randint(0, 7, (rows, steps)), torch.randint(0, 5, (rows,))),
    takes=("BTF", "BT", "B"),
    gives=("BTF",),
)
class Forecaster(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.day, self.store = nn.Embedding(7, 3), nn.Embedding(5, 2)
        self.gru = nn.GRU(8, 6, num_layers=2, batch_first=True, dropout=0.1)
        self.mu, self.sigma = nn.Linear(6, 1), nn.Linear(6, 1)

    def forward(self, x: Any, day: Any, store: Any) -> Any:
        s = self.store(store).unsqueeze(1).expand(-1, x.size(1), -1)
        h, _ = self.gru(torch.cat([x, self.day(day), s], dim=-1))
        return torch.cat([self.mu(h), F.softplus(self.sigma(h)) + 1e-6], dim=-1)


@case("residual stack", frames(6), gives=("BTF",))
class ResidualStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.LSTM(6, 6, batch_first=True) for _ in range(3)])
        self.norms = nn.ModuleList([nn.LayerNorm(6, elementwise_affine=i > 0) for i in range(3)])
        self.drop = nn.Dropout(0.1)
        self.alpha = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Any) -> Any:
        for layer, norm in zip(self.layers, self.norms):
            y, _ = layer(norm(x))
            x = x + self.alpha * self.drop(y)
        return x


class Chomp1d(nn.Module):
    def __init__(self, n: Any) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Any) -> Any:
        return x[:, :, : -self.n].contiguous()


@case("temporal convolutions and a GRU", frames(4), gives=("BF",))
class TCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(i: Any, o: Any, d: Any) -> Any:
            return nn.Sequential(
                nn.utils.parametrizations.weight_norm(nn.Conv1d(i, o, 3, padding=2 * d, dilation=d)),
                Chomp1d(2 * d),
                nn.ReLU(),
                nn.Dropout(0.2),
            )

        self.blocks = nn.ModuleList([block(4, 6, 1), block(6, 6, 2), block(6, 6, 4)])
        self.down = nn.Conv1d(4, 6, 1)
        self.gru = nn.GRU(6, 5, batch_first=True)
        self.fc = nn.Linear(5, 2)

    def forward(self, x: Any) -> Any:
        x = x.transpose(1, 2)
        for i, block in enumerate(self.blocks):
            y = block(x)
            x = F.relu(y + (self.down(x) if i == 0 else x))
        out, h_n = self.gru(x.transpose(1, 2))
        return self.fc(h_n.squeeze(0))


class SqueezeExcite(nn.Module):
    def __init__(self, channel: Any, reduction: Any = 2) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool1d(1)
        self.fc = nn.Sequential(
            nn.Linear(channel, channel // reduction, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channel // reduction, channel, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Any) -> Any:
        b, c, _ = x.size()
        y = self.avg_pool(x).view(b, c)
        y = self.fc(y).view(b, c, 1)
        return x * y.expand_as(x)


@case(
    "LSTM beside a convolutional branch",
    lambda rows, steps: (torch.randn(rows, 3, steps),),
    takes=("BFT",),
    gives=("BF",),
)
class LSTMFCN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.c1, self.c2 = nn.Conv1d(3, 6, 7, padding="same"), nn.Conv1d(6, 8, 5, padding="same")
        self.n1, self.n2 = nn.BatchNorm1d(6), nn.BatchNorm1d(8)
        self.se = SqueezeExcite(6)
        self.fc = nn.Linear(13, 4)

    def forward(self, x: Any) -> Any:
        a = self.lstm(x.transpose(2, 1))[0][:, -1]
        b = self.se(F.relu(self.n1(self.c1(x))))
        b = F.relu(self.n2(self.c2(b)))
        b = torch.mean(b, 2)
        return self.fc(torch.cat([a, b], dim=1))


@case(
    "FiLM", lambda rows, steps: (torch.randn(rows, steps, 4), torch.randn(rows, 3)), takes=("BTF", "BF"), gives=("BTF",)
)
class FiLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.film = nn.Linear(3, 12)
        self.gru, self.out = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Any, cond: Any) -> Any:
        gamma, beta = self.film(cond).chunk(2, dim=-1)
        h0 = torch.tanh(gamma).unsqueeze(0)
        h, _ = self.gru(x, h0.contiguous())
        h = h * (1 + gamma.unsqueeze(1)) + beta[:, None, :]
        return self.out(F.gelu(h))


@case("shifts, sums and slices", frames(6), gives=("BTF",))
class Slices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 6, batch_first=True)

    def forward(self, x: Any) -> Any:
        a, b, c = x.split([1, 2, 3], dim=-1)
        delta = F.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0))
        total = torch.cumsum(x, dim=1) * 0.1
        y = self.gru(torch.flip(x, [1]))[0].flip(1) + delta + total
        y = torch.cat([y[..., ::2], b.masked_fill(b > 0.5, 0.0), c.clamp(min=-1), -a.abs()], -1)
        return y


@case("every other frame", frames(6), gives=("BTF",))
class EveryOther(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(6, 5, batch_first=True), nn.GRU(5, 4, batch_first=True)

    def forward(self, x: Any) -> Any:
        y, _ = self.a(x)
        return self.b(y[:, ::2])[0]


@case("pyramid", frames(4), gives=("BTF",), steps=(12, 20))
class Pyramid(nn.Module):
    """Listen, attend and spell: pairs of frames side by side between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.LSTM(4, 5, bidirectional=True, batch_first=True)
        self.l2 = nn.LSTM(20, 5, bidirectional=True, batch_first=True)

    def forward(self, x: Any) -> Any:
        x, _ = self.l1(x)
        B, T, H = x.shape
        x = x.contiguous().view(B, T // 2, H * 2)
        return self.l2(x)[0]


@case("einsum of two heads", frames(6), gives=("BF",))
class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.q = nn.Parameter(torch.randn(2, 4))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        h, _ = self.gru(x)
        h = h.reshape(h.shape[0], h.shape[1], 2, 4)
        s = torch.einsum("bthd,hd->bth", h, self.q) / 2.0
        w = s.softmax(dim=1)
        pooled = torch.einsum("bth,bthd->bhd", w, h)
        return self.out(pooled.flatten(1))


@case("statistics pooling", lambda rows, steps: (torch.randn(rows, 6, steps),), takes=("BFT",), gives=("BF",))
class XVector(nn.Module):
    """Speaker embeddings: instance normalisation, dilated convolutions, mean and standard deviation over time."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm1d(6)
        self.c1, self.c2 = nn.Conv1d(6, 8, 3), nn.Conv1d(8, 8, 3, dilation=2)
        self.gn = nn.GroupNorm(2, 8)
        self.att = nn.Sequential(nn.Conv1d(8, 4, 1), nn.Tanh(), nn.Conv1d(4, 8, 1), nn.Softmax(dim=2))
        self.bn, self.fc = nn.BatchNorm1d(16), nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = F.leaky_relu(self.c1(self.norm(x)))
        x = self.gn(F.relu(self.c2(x)))
        w = self.att(x)
        mu = torch.sum(x * w, dim=2)
        sg = torch.sqrt((torch.sum((x**2) * w, dim=2) - mu**2).clamp(min=1e-5))
        x = torch.cat((mu, sg), 1)
        return F.normalize(self.fc(self.bn(x)), p=2, dim=1)


@case("two heads in a dict", frames(5), gives=("BTF", "BF"))
class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)
        self.policy, self.value = nn.Linear(6, 4), nn.Linear(6, 1)

    def forward(self, obs: Any) -> Any:
        h, hn = self.gru(obs)
        return {"policy": F.softmax(self.policy(h), dim=-1), "value": self.value(hn[-1])}


@case("autoencoder", frames(4), gives=("BTF",))
class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec, self.out = nn.LSTM(4, 3, batch_first=True), nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Any) -> Any:
        _, (h, _) = self.enc(x)
        z = h[-1].unsqueeze(1).repeat(1, x.size(1), 1)
        y, _ = self.dec(z)
        return self.out(y)


@case(
    "gated convolutions up and down",
    lambda rows, steps: (torch.randn(rows, 2, 4 * steps),),
    takes=("BFT",),
    gives=("BFT",),
)
class Demucs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Sequential(nn.Conv1d(2, 6, 8, 4, padding=2), nn.ReLU(), nn.Conv1d(6, 12, 1), nn.GLU(dim=1))
        self.lstm, self.lin = nn.LSTM(6, 6, 2, bidirectional=True), nn.Linear(12, 6)
        self.dec = nn.Sequential(nn.Conv1d(6, 12, 1), nn.GLU(dim=1), nn.ConvTranspose1d(6, 2, 8, 4, padding=2))

    def forward(self, x: Any) -> Any:
        x = self.enc(x)
        skip = x
        x = x.permute(2, 0, 1)
        x = self.lin(self.lstm(x)[0]).permute(1, 2, 0)
        return self.dec(x + skip)
