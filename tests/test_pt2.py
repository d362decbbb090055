"""What torch.export wrote: small modules whole, against what they computed in PyTorch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.errors import FormatError

FOLDER = Path(__file__).parent / "fixtures" / "pt2"
GOLDEN = np.load(FOLDER / "golden.npz")


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.pt2")))
def test_it_gives_the_module_s_outputs(file: str) -> None:
    given = {key.split(":")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(file + ":")}
    outputs = [given.pop(key) for key in sorted(given) if key.startswith("y")]
    net = cgru.load(FOLDER / file)
    if file.startswith("spotter"):  # the module takes (B, F, T)
        given["x"] = given["x"].swapaxes(1, 2)
    y = net(given if len(given) > 1 else given["x"])
    for ours, theirs in zip(y.values() if isinstance(y, Mapping) else [y], outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def changed(path: Path, member: str, change: Callable[[Any], None]) -> Path:
    """two.pt2 at ``path`` with one of its JSON documents changed."""
    with zipfile.ZipFile(FOLDER / "two.pt2") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith(member):
                document = json.loads(content)
                change(document)
                content = json.dumps(document).encode()
            target.writestr(name, content)
    return path


@pytest.mark.parametrize("name", [["p"], {}, None, 3])
def test_a_tensor_whose_name_is_no_text_is_refused(tmp_path: Path, name: Any) -> None:
    def renamed(document: Any) -> None:
        document["graph_module"]["graph"]["nodes"][-1]["inputs"][0]["arg"] = {"as_tensor": {"name": name}}

    with pytest.raises(FormatError, match="a tensor named"):
        cgru.load(changed(tmp_path / "named.pt2", "models/model.json", renamed))


def test_a_tensor_with_strides_of_its_own_is_read_only_too(tmp_path: Path) -> None:
    def turned(document: Any) -> None:
        document["config"]["read.weight_hh_l0"]["tensor_meta"]["strides"] = [{"as_int": 1}, {"as_int": 12}]

    path = changed(tmp_path / "strided.pt2", "model_weights_config.json", turned)
    before, after = (cgru.read(file)["read.weight_hh_l0"] for file in (FOLDER / "two.pt2", path))
    assert not after.flags.writeable
    np.testing.assert_array_equal(after, before.reshape(4, 12).T)


def test_its_tensors_have_the_names_of_the_state_dict() -> None:
    tensors = cgru.read(FOLDER / "two.pt2")
    assert tensors["tokens.weight"].shape == (11, 3)
    assert tensors["read.weight_ih_l0"].shape == (12, 3)
    assert tensors["start"].shape == (1, 1, 4)
