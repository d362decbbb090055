"""Makes tests/fixtures/containers: small torch, safetensors and npz files, and what they hold.

Run ``python tests/make_fixtures/containers.py`` with PyTorch 2.13.0 and safetensors installed. Every value in
``golden.npz`` (keys ``<file>:<tensor name>``) comes from the live objects before saving or from
``torch.load``, never from cgru.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "containers"


class Tagger(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(3, 5)
        self.head = torch.nn.Linear(5, 2)


def dtype_zoo() -> dict[str, torch.Tensor]:
    values = torch.tensor([[0.0, -1.5, 3.25], [1e-3, 100.0, -7.75]])
    zoo = {f"f_{str(t).split('.')[1]}": values.to(t) for t in (torch.float64, torch.float32, torch.float16)}
    zoo["f_bfloat16"] = values.to(torch.bfloat16)
    for kind in (torch.int64, torch.int32, torch.int16, torch.int8):
        zoo[f"i_{str(kind).split('.')[1]}"] = torch.tensor([-5, 0, 100], dtype=kind)
    zoo["i_uint8"] = torch.tensor([0, 7, 255], dtype=torch.uint8)
    zoo["i_uint16"] = torch.tensor([0, 7, 65535], dtype=torch.uint16)
    zoo["i_uint32"] = torch.tensor([0, 7, 2**32 - 1], dtype=torch.uint32)
    zoo["flag"] = torch.tensor([True, False, True])
    zoo["scalar"] = torch.tensor(2.5)
    zoo["empty"] = torch.zeros(0, 4)
    return zoo


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32) * 0.5
    grid = base.view(4, 6)
    return {
        "plain": grid,
        "transposed": grid.t(),
        "sliced": grid[1:3, 2:5],
        "stepped": base[3::4],
        "expanded": base[2:5].unsqueeze(1).expand(3, 4),
        "tied": grid,
        "tied_again": base.view(4, 6),
    }


def plain(values: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The numbers as numpy holds them; bfloat16 widened."""
    return {
        name: (value.detach().float() if value.dtype == torch.bfloat16 else value.detach()).numpy().copy()
        for name, value in values.items()
    }


def as_big_endian(data: bytes) -> bytes:
    """The same checkpoint as a big-endian machine writes it; float32 storages only."""
    source, out = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if "/data/" in item.filename:
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            elif item.filename.endswith("/byteorder"):
                content = b"big"
            target.writestr(zipfile.ZipInfo(item.filename, (1980, 1, 1, 0, 0, 0)), content)
    return out.getvalue()


def without_sources(file: Path) -> None:
    """Empty the members that quote source code, with the paths of the machine it was on."""
    source = zipfile.ZipFile(io.BytesIO(file.read_bytes()))
    with zipfile.ZipFile(file, "w") as target:
        for item in source.infolist():
            quotes = item.filename.endswith((".debug_pkl", "model.json"))
            entry = zipfile.ZipInfo(item.filename, (1980, 1, 1, 0, 0, 0))
            target.writestr(entry, b"" if quotes else source.read(item))


def main() -> None:
    torch.manual_seed(20)
    FOLDER.mkdir(parents=True, exist_ok=True)
    golden: dict[str, Any] = {}

    def save(file: str, content: object, holds: dict[str, torch.Tensor] | None, **options: Any) -> None:
        torch.save(content, FOLDER / file, **options)
        if holds is not None:
            golden.update({f"{file}:{name}": value for name, value in plain(holds).items()})

    model = Tagger()
    state = model.state_dict()
    save("state_dict.pt", state, state)
    save("protocol4.pt", state, state, pickle_protocol=4)
    save("parameters.pt", dict(model.named_parameters()), state)
    save("views.pt", views(), views())
    save("dtypes.pt", dtype_zoo(), dtype_zoo())
    save("wrapped.pt", {f"module._orig_mod.{name}": value for name, value in state.items()}, state)
    nested = {"encoder": {"gru": dict(model.gru.state_dict())}, "heads": [model.head.weight.detach()]}
    save(
        "nested.pt",
        nested,
        {f"encoder.gru.{name}": value for name, value in model.gru.state_dict().items()}
        | {"heads.0": model.head.weight},
    )
    optimizer = torch.optim.Adam(model.parameters())
    out, _ = model.gru(torch.ones(2, 1, 3))
    model.head(out).sum().backward()
    optimizer.step()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save(
        "checkpoint.pt",
        {
            "epoch": 3,
            "loss": torch.tensor(0.25),
            "model_state_dict": state,
            "optimizer": optimizer.state_dict(),
        },
        state,
    )
    save(
        "lightning.ckpt",
        {
            "epoch": 1,
            "pytorch-lightning_version": "2.5.0",
            "state_dict": {f"model.{name}": value for name, value in state.items()},
            "optimizer_states": [optimizer.state_dict()],
            "callbacks": {"best": {"score": torch.tensor(0.5), "weights": torch.ones(3)}},
            "hyper_parameters": argparse.Namespace(hidden=5, folder=Path("runs")),
        },
        {f"model.{name}": value for name, value in state.items()},
    )
    both = {"generator": dict(model.gru.state_dict()), "critic": dict(model.head.state_dict())}
    flat = {f"{part}.{name}": value for part, values in both.items() for name, value in values.items()}
    save("two_models.pt", {**both, "optimizer": optimizer.state_dict()}, flat)

    save("module.pt", model, None)
    save("legacy.pt", state, None, _use_new_zipfile_serialization=False)
    torch.jit.script(torch.nn.GRU(2, 2)).save(str(FOLDER / "torchscript.pt"))
    torch.export.save(torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(1, 2),)), FOLDER / "exported.pt2")
    without_sources(FOLDER / "torchscript.pt")
    without_sources(FOLDER / "exported.pt2")
    save("sparse.pt", {"dense": torch.ones(2), "sparse": torch.eye(2).to_sparse()}, None)

    (FOLDER / "big_endian.pt").write_bytes(as_big_endian((FOLDER / "state_dict.pt").read_bytes()))
    swapped = torch.load(FOLDER / "big_endian.pt", weights_only=True)
    golden.update({f"big_endian.pt:{name}": value for name, value in plain(swapped).items()})

    safetensors.torch.save_file(dtype_zoo(), FOLDER / "library.safetensors", metadata={"made by": "the library"})
    golden.update({f"library.safetensors:{name}": value for name, value in plain(dtype_zoo()).items()})

    arrays: dict[str, Any] = plain(dtype_zoo()) | {"fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    arrays["swapped"] = np.arange(4, dtype=">f4")
    np.savez(FOLDER / "stored.npz", **arrays)
    np.savez_compressed(FOLDER / "deflated.npz", **arrays)
    for file in ("stored.npz", "deflated.npz"):
        golden.update({f"{file}:{name}": value for name, value in arrays.items()})

    np.savez_compressed(FOLDER / "golden.npz", **golden)


if __name__ == "__main__":
    main()
