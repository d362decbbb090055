"""Weight and spectral normalisation are folded when a state_dict is read: against torch's own modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.formats.readers.reparametrization import folded

RNG = np.random.default_rng(3)


def arr(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def test_by_the_formulas() -> None:
    """Without torch: lengths along axis 0, one length for all, and the largest singular value."""
    v, g = arr(3, 5), np.abs(arr(3, 1))
    wanted = v / np.linalg.norm(v, axis=1, keepdims=True) * g
    for names in (("fc.weight_g", "fc.weight_v"), ("fc.parametrizations.weight.original0",
                                                   "fc.parametrizations.weight.original1")):  # fmt: skip
        made = folded({names[0]: g, names[1]: v, "fc.bias": arr(3)})
        assert list(made) == ["fc.weight", "fc.bias"]
        np.testing.assert_allclose(made["fc.weight"], wanted, rtol=1e-6)
    made = folded({"weight_g": np.array(2.5), "weight_v": v})
    np.testing.assert_allclose(made["weight"], 2.5 * v / np.linalg.norm(v), rtol=1e-6)
    left, values, right = np.linalg.svd(v)
    made = folded({"weight_orig": v, "weight_u": left[:, 0], "weight_v": right[0]})
    np.testing.assert_allclose(np.linalg.norm(made["weight"], 2), 1, rtol=1e-5)
    np.testing.assert_allclose(made["weight"], v / values[0], rtol=1e-5)


def test_parts_alone_stay_and_parts_that_do_not_fit_are_named() -> None:
    assert folded({"a.weight_v": arr(2)}).keys() == {"a.weight_v"}
    assert folded({"weight_orig": arr(3, 5), "weight_u": arr(3)}).keys() == {"weight_orig", "weight_u"}
    with pytest.raises(
        cgru.FormatError, match=r"fc\.weight: weight normalisation of \(3, 5\) with lengths of shape \(4, 1\)"
    ):
        folded({"fc.weight_g": arr(4, 1), "fc.weight_v": arr(3, 5)})
    with pytest.raises(cgru.FormatError, match="spectral normalisation"):
        folded({"weight_orig": arr(3, 5), "weight_u": arr(4), "weight_v": arr(5)})


@pytest.mark.parametrize("way", ["weight_norm", "old_weight_norm", "spectral_norm", "old_spectral_norm"])
def test_a_file_of_tensors_gives_what_the_module_gives(way: str, tmp_path: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    wraps: dict[str, Callable[..., Any]] = {
        "weight_norm": nn.utils.parametrizations.weight_norm, "old_weight_norm": nn.utils.weight_norm,
        "spectral_norm": nn.utils.parametrizations.spectral_norm, "old_spectral_norm": nn.utils.spectral_norm,
    }  # fmt: skip
    torch.manual_seed(0)
    gru, head = nn.GRU(6, 8, batch_first=True), wraps[way](nn.Linear(8, 3))
    if "weight" in way:
        gru = wraps[way](gru, "weight_hh_l0")
    else:
        for _ in range(3):  # the vectors settle while it trains
            head(torch.randn(4, 8))
    model = nn.ModuleDict({"gru": gru, "head": head}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
        x = torch.randn(2, 9, 6)
        wanted = model["head"](model["gru"](x)[0]).numpy()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    net = cgru.load(tmp_path / "net.pt", layers=["gru", "head"])
    np.testing.assert_allclose(net(x.numpy()), wanted, rtol=0, atol=2e-6)
