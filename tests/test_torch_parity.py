"""Against PyTorch itself, on networks hypothesis makes up. Runs where the extra ``parity`` is installed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from strategies import SIZES, Case, cases
from torch_side import CLOSE, assert_agrees, error, module, results, run, torch

import cgru


@settings(max_examples=60)
@given(case=cases(steps=50, least=1, lengths=None))
def test_same_numbers(backend: str, case: Case) -> None:
    assert_agrees(results(case.gru(), case, backend), case)


# With weights three times as large, networks amplify rounding errors, some a hundredfold. cgru's error against
# float64 is then at most twice PyTorch's own: as a root mean square over a few networks of any one kind, and as
# the largest number over many networks. Of single networks by themselves that is not true of anybody: the
# largest error of a small one is chance, and for 1 or 2 in 100 it is more than twice PyTorch's, as PyTorch's is
# more than twice cgru's for others.


@settings(max_examples=25)
@given(case=cases(steps=20, least=1, lengths=None, scale=3.0))
def test_weights_times_three_in_the_mean(backend: str, case: Case) -> None:
    ours = theirs = 0.0
    for k in range(8):
        twin = replace(case, seed=(case.seed + k) % 2**32)
        got = results(twin.gru(), twin, backend)
        for a, b, c in zip(run(twin), got, run(twin, "float64"), strict=True):
            theirs, ours = theirs + float(np.mean((a - c) ** 2)), ours + float(np.mean((b - c) ** 2))
    assert math.sqrt(ours / 16) <= 2 * math.sqrt(theirs / 16) + 1e-8


def test_weights_times_three_at_most(backend: str) -> None:
    rng = np.random.default_rng(0)
    ours = theirs = 0.0
    for seed in range(200):
        batch, steps = (int(n) for n in rng.integers((1, 1), (9, 51)))
        inputs, hidden = (int(n) for n in rng.choice(SIZES, 2))
        layers, directions, bias = (int(n) for n in rng.integers((1, 1, 0), (4, 3, 2)))
        lengths = tuple(int(n) for n in rng.integers(0, steps + 1, batch)) if seed % 2 else None
        case = Case(inputs, hidden, layers, directions, bool(bias), batch, steps, seed, lengths, scale=3.0)
        exact = run(case, "float64")
        theirs = max(theirs, error(run(case), exact))
        ours = max(ours, error(results(case.gru(), case, backend), exact))
    assert ours <= 2 * theirs + 1e-7


@settings(max_examples=20)
@given(case=cases(steps=12, directions=1, least=1))
def test_gru_cell(backend: str, case: Case) -> None:
    """A GRUCell's state_dict is a stack of one."""
    cell = torch.nn.GRUCell(case.inputs, case.hidden, bias=case.bias)
    cell.load_state_dict(
        {key.removesuffix("_l0"): torch.from_numpy(a) for key, a in case.arrays.items() if key.endswith("_l0")}
    )
    gru = cgru.GRU.from_torch(cell.state_dict())
    h = torch.from_numpy(case.h0[0])
    got, _ = gru(case.x, case.h0[:1], backend=backend)
    with torch.no_grad():
        for t in range(case.steps):
            h = cell(torch.from_numpy(case.x[:, t].copy()), h)
            assert np.abs(got[:, t] - h.numpy()).max() <= CLOSE


def test_state_dict_with_a_prefix_and_tensors_in(backend: str) -> None:
    """torch tensors go in as they are, a module's weights by its prefix; results are numpy arrays."""

    case = Case(5, 7, 2, 2, True, 3, 6, seed=50, lengths=(6, 2, 4))
    net = torch.nn.ModuleDict({"rnn": module(case), "head": torch.nn.Linear(2, 2)})
    gru = cgru.GRU.from_torch(net.state_dict(), prefix="rnn.")
    got, got_h = gru(torch.from_numpy(case.x), torch.from_numpy(case.h0), torch.tensor(case.lengths), backend=backend)
    want, want_h = run(case)
    assert isinstance(got, np.ndarray)
    assert np.abs(got - want).max() <= CLOSE
    assert np.abs(got_h - want_h).max() <= CLOSE
    single, single_h = gru(torch.from_numpy(case.x[0]), torch.from_numpy(case.h0[:, 0]), backend=backend)
    assert single.shape == (6, 14)
    assert single_h.shape == (4, 7)
