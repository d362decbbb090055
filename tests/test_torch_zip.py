"""The torch reader against what PyTorch itself says the same files hold."""

from __future__ import annotations

import argparse
import datetime
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgru.errors import FormatError, UnsupportedError
from cgru.formats.containers import torch_zip
from cgru.formats.containers.zip_members import zip_kind

FOLDER = Path(__file__).parent / "fixtures" / "containers"
READABLE = [
    "state_dict.pt",
    "protocol4.pt",
    "parameters.pt",
    "views.pt",
    "dtypes.pt",
    "wrapped.pt",
    "nested.pt",
    "checkpoint.pt",
    "lightning.ckpt",
    "two_models.pt",
    "big_endian.pt",
]


def golden(file: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / "golden.npz") as values:
        return {name.split(":", 1)[1]: values[name] for name in values if name.startswith(file + ":")}


@pytest.mark.parametrize("file", READABLE)
def test_holds_what_pytorch_says(file):
    expected = golden(file)
    found = torch_zip.read(FOLDER / file)
    assert found.kind == "torch"
    assert found.shown == str(FOLDER / file)
    assert found.tensors.keys() == expected.keys()
    for name, values in expected.items():
        assert found.tensors[name].dtype == values.dtype, name
        np.testing.assert_array_equal(found.tensors[name], values, err_msg=name)


@pytest.mark.parametrize("file", READABLE)
def test_bytes_and_path_agree_and_arrays_are_read_only(file):
    from_path = torch_zip.read(FOLDER / file)
    from_bytes = torch_zip.read((FOLDER / file).read_bytes())
    assert from_bytes.shown == "<bytes>"
    for name, values in from_path.tensors.items():
        np.testing.assert_array_equal(values, from_bytes.tensors[name])
        assert not values.flags.writeable
        assert values.flags.c_contiguous
        assert values.flags.aligned
        assert values.dtype.isnative


@pytest.mark.parametrize("file", ["state_dict.pt", "views.pt", "dtypes.pt", "big_endian.pt", "nested.pt"])
def test_live_torch_load_agrees(file, torch):
    loaded = torch.load(FOLDER / file, weights_only=True)
    if file == "nested.pt":
        loaded = {f"encoder.gru.{k}": v for k, v in loaded["encoder"]["gru"].items()} | {"heads.0": loaded["heads"][0]}
    found = torch_zip.read(FOLDER / file)
    assert list(found.tensors) == list(loaded)
    for name, value in loaded.items():
        values = value.float() if value.dtype == torch.bfloat16 else value
        np.testing.assert_array_equal(found.tensors[name], values.numpy(), err_msg=name)


def test_views_of_the_same_memory_are_aliases_and_others_are_not():
    found = torch_zip.read(FOLDER / "views.pt")
    assert found.aliases == {"tied": "plain", "tied_again": "plain"}
    assert found.tensors["tied"] is found.tensors["plain"]
    assert found.tensors["transposed"].shape == (6, 4)


def test_optimizer_state_and_callbacks_are_left_out():
    for file in ("checkpoint.pt", "lightning.ckpt", "two_models.pt"):
        names = torch_zip.read(FOLDER / file).tensors
        assert not any("exp_avg" in name or "score" in name or "loss" in name for name in names), file


def test_two_models_keep_their_prefixes():
    names = torch_zip.read(FOLDER / "two_models.pt").tensors
    assert {"generator.weight_hh_l0", "critic.weight"} <= names.keys()


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("torchscript.pt", "TorchScript"),
        ("exported.pt2", "torch.export"),
        ("sparse.pt", "'sparse'.*sparse_tensor"),
    ],
)
def test_other_torch_files_are_refused_by_name(file, says):
    with pytest.raises(UnsupportedError, match=says) as refused:
        torch_zip.read(FOLDER / file)
    assert file in str(refused.value)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("state_dict.pt", "torch"),
        ("lightning.ckpt", "torch"),
        ("torchscript.pt", "torchscript"),
        ("exported.pt2", "pt2"),
        ("stored.npz", "npz"),
        ("deflated.npz", "npz"),
    ],
)
def test_zip_kind(file, kind):
    assert zip_kind(FOLDER / file) == kind
    assert zip_kind((FOLDER / file).read_bytes()) == kind


def test_looks_like():
    for file in READABLE:
        assert torch_zip.looks_like((FOLDER / file).read_bytes()[:64]), file
    assert not torch_zip.looks_like((FOLDER / "library.safetensors").read_bytes()[:64])
    assert not torch_zip.looks_like(b"")


def test_an_npz_is_not_mistaken_for_a_checkpoint():
    with pytest.raises(FormatError, match="npz"):
        torch_zip.read(FOLDER / "stored.npz")


def saved(torch, value) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_view_reads_as_pytorch_shows_it(data):
    """Random offsets, strides and shapes over one shared storage, overlapping and expanded ones included."""
    torch = pytest.importorskip("torch", reason="live comparison with PyTorch needs the extra cgru[parity]")
    size = data.draw(st.integers(1, 60))
    base = torch.arange(size, dtype=torch.float32)
    tensors = {}
    for index in range(data.draw(st.integers(1, 4))):
        axes = data.draw(st.integers(0, 4))
        stride = data.draw(st.lists(st.integers(0, 9), min_size=axes, max_size=axes))
        offset = data.draw(st.integers(0, size - 1))
        shape, room = [], size - 1 - offset
        for step in stride:
            length = data.draw(st.integers(0, min(6, room // step + 1) if step else 6))
            shape.append(length)
            room -= max(0, length - 1) * step
        tensors[f"t{index}"] = base.as_strided(shape, stride, offset)
    tensors["whole"] = base
    found = torch_zip.read(saved(torch, tensors)).tensors
    for name, value in tensors.items():
        np.testing.assert_array_equal(found[name], value.numpy(), err_msg=name)
        assert found[name].shape == tuple(value.shape)


def test_bfloat16_widens_exactly_for_every_bit_pattern(torch):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.bfloat16)
    found = torch_zip.read(saved(torch, {"w": values})).tensors["w"]
    np.testing.assert_array_equal(found.view(np.uint32), values.float().view(torch.int32).numpy().view(np.uint32))


def test_compiled_submodule_prefix_goes_anywhere(torch):
    found = torch_zip.read(saved(torch, {"net._orig_mod.gru.w": torch.ones(2), "b": torch.ones(1)}))
    assert list(found.tensors) == ["net.gru.w", "b"]


def test_a_prefix_whose_removal_would_merge_two_names_stays(torch):
    found = torch_zip.read(saved(torch, {"_orig_mod.w": torch.ones(2), "w": torch.zeros(2)}))
    assert list(found.tensors) == ["_orig_mod.w", "w"]


def test_joined_names_that_collide_are_refused(torch):
    with pytest.raises(FormatError, match=r"two tensors are named 'a\.b'"):
        torch_zip.read(saved(torch, {"a.b": torch.ones(2), "a": {"b": torch.ones(2)}}))


def test_a_file_saved_without_checksums_is_read(torch):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        content = saved(torch, {"w": torch.arange(3.0)})
    finally:
        torch.serialization.set_crc32_options(before)
    np.testing.assert_array_equal(torch_zip.read(content).tensors["w"], [0, 1, 2])


def test_many_names_of_one_large_tensor_are_no_bomb(torch):
    weight = torch.ones(1 << 20)
    found = torch_zip.read(saved(torch, {f"w{index}": weight for index in range(40)}))
    assert len(found.aliases) == 39


def test_the_model_is_found_beside_stray_tensors(torch):
    """A loss curve, class weights and arguments saved beside the model's own state_dict."""
    around = {"losses": torch.ones(9), "args": argparse.Namespace(lr=0.1)}
    for key in ("state_dict", "model_state_dict"):
        assert list(torch_zip.read(saved(torch, {**around, key: {"gru.w": torch.ones(2)}})).tensors) == ["gru.w"]
    found = torch_zip.read(saved(torch, {"model": {"w": torch.ones(2)}, "bias": torch.ones(2)}))
    assert list(found.tensors) == ["model.w", "bias"]


@pytest.mark.parametrize("dtype", ["complex64", "float8_e4m3fn"])
def test_dtypes_without_a_counterpart_are_named(dtype, torch):
    value = torch.ones(2).to(getattr(torch, dtype))
    with pytest.raises(UnsupportedError, match=r"'w' is stored as .*(Complex|float8)"):
        torch_zip.read(saved(torch, {"w": value}))


def test_conjugated_view_is_not_read_as_its_storage(torch):
    value = torch.tensor([1 + 2j]).conj().imag
    assert value.is_neg()
    with pytest.raises(UnsupportedError, match="negated"):
        torch_zip.read(saved(torch, {"w": value}))


def test_something_else_among_the_tensors_is_named(torch):
    content = saved(torch, {"w": torch.ones(2), "extra": datetime.timedelta(1)})
    with pytest.raises(UnsupportedError, match=r"'extra' is a datetime\.timedelta"):
        torch_zip.read(content)


@pytest.mark.parametrize("value", ["text", 3, [], {}, {"lr": 0.1}])
def test_a_file_without_tensors_says_so(value, torch):
    with pytest.raises(FormatError, match="no tensors"):
        torch_zip.read(saved(torch, value))


def test_a_bare_tensor_is_refused(torch):
    with pytest.raises(UnsupportedError, match="bare tensor"):
        torch_zip.read(saved(torch, torch.ones(3)))
