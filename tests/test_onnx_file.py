"""ONNX files read as records and arrays, against the onnx package and, written back, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_side import as_onnx, branches, graph, model, node, tensor, value

import cgru
from cgru.errors import FormatError, UnsupportedError
from cgru.formats.containers.onnx_file import read, read_model
from cgru.formats.containers.onnx_records import Graph
from cgru.formats.containers.onnx_schema import SCHEMA, TENSOR_TYPES
from cgru.formats.containers.protobuf_write import encode

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"


@pytest.fixture(scope="module")
def onnx() -> Any:
    return pytest.importorskip("onnx", reason="onnx is not installed")


@pytest.fixture(scope="module")
def runtime() -> Any:
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def ran(runtime: Any, content: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


# Tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "raw"),
    [(code, raw) for code, (name, _, _) in TENSOR_TYPES.items() for raw in (True, False)[name == "STRING" :]],
)
def test_every_tensor_type(onnx: Any, code: int, raw: bool) -> None:
    """All codes of the small types, random bits of the large ones, an odd number of each."""
    name, rng = TENSOR_TYPES[code][0], np.random.default_rng(code)
    helper = onnx.helper
    if name == "STRING":
        proto = helper.make_tensor("t", code, (3,), ["", "ä", "b" * 50])
        expected: Any = np.array(["", "ä", "b" * 50], object)
    else:
        dtype = helper.tensor_dtype_to_np_dtype(code)
        bits = rng.integers(0, 256, 3 * 85 * dtype.itemsize, np.uint8)
        if dtype.itemsize == 1:
            bits = np.arange(255, dtype=np.uint8)
            small = {"4": 15, "6": 63, "2": 3}.get(name.removeprefix("U").replace("FLOAT", "").replace("INT", "")[:1])
            bits = bits & small if small and "8" not in name else bits & 1 if name == "BOOL" else bits
        expected = bits.view(dtype).reshape(3, 85)
        proto = onnx.numpy_helper.from_array(expected, "t")
        if not raw and dtype.itemsize > 1 and dtype.kind in "fc":
            expected = np.nan_to_num(expected, nan=1, posinf=2, neginf=3)
        if not raw:
            proto = helper.make_tensor("t", code, (3, 85), expected.reshape(-1))
    assert proto.HasField("raw_data") == raw
    content = helper.make_model(helper.make_graph([], "g", [], [], [proto])).SerializeToString()
    found = cgru.read(content)["t"]
    wanted = expected if name == "STRING" else onnx.numpy_helper.to_array(proto)
    assert found.shape == wanted.shape
    assert not found.flags.writeable
    if name == "STRING":
        assert found.tolist() == wanted.tolist()
    elif name.startswith(("UINT", "INT", "BOOL", "COMPLEX", "DOUBLE")) or name in ("FLOAT", "FLOAT16"):
        np.testing.assert_array_equal(found, wanted.astype(found.dtype))
        assert found.dtype == wanted.dtype or name in ("UINT4", "INT4", "UINT2", "INT2")
    else:
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted.astype(np.float32))
        number = ~np.isnan(found)
        np.testing.assert_array_equal(np.signbit(found)[number], np.signbit(wanted.astype(np.float32))[number])


def test_scalars_and_empty_tensors(onnx: Any) -> None:
    arrays: dict[str, np.ndarray] = {
        "scalar": np.array(3, np.float32),
        "empty": np.zeros((0, 4), np.int64),
        "none": np.zeros((0,), np.float16),
    }
    tensors = [onnx.numpy_helper.from_array(item, name) for name, item in arrays.items()]
    found = cgru.read(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors)).SerializeToString())
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


def test_external_data_beside_the_model(onnx: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"w{i}": rng.normal(size=(40, 30 + i)).astype(np.float32) for i in range(3)}
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    made = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors))
    (tmp_path / "sub").mkdir()
    onnx.save(made, tmp_path / "sub" / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    found = cgru.read(tmp_path / "sub" / "m.onnx")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_two_tensors_may_share_their_external_data(tmp_path: Path) -> None:
    (tmp_path / "d.bin").write_bytes(np.array([7, 8], np.float32).tobytes())
    outside = {"raw_data": None, "data_location": 1, "external_data": [{"key": "location", "value": "d.bin"}]}
    tensors = [tensor("a", **outside), tensor("b", **outside)]
    (tmp_path / "m.onnx").write_bytes(model(graph([], [], [], initializer=tensors)))
    found = cgru.read(tmp_path / "m.onnx")
    assert {name: array.tolist() for name, array in found.items()} == {"a": [7, 8], "b": [7, 8]}


def test_constants_and_tensors_of_subgraphs_have_names() -> None:
    constant = node("Constant", [], ["k"], {"name": "value", "type": 4, "t": tensor("", [5.0])})
    branch = graph([constant, node("Add", ["k", "w"], ["y"])], initializer=[tensor("w")], inputs=[])
    chosen = node("If", ["x"], ["y2"], *branches(branch, branch), name="choose")
    whole = graph([constant | {"output": ["c"]}, chosen], ["y2"])
    found = read(model(whole)).tensors
    assert list(found) == [
        "c", "choose.then_branch/w", "choose.then_branch/k", "choose.else_branch/w", "choose.else_branch/k",
    ]  # fmt: skip
    assert found["choose.then_branch/w"].tolist() == [1, 2]


# Records ----------------------------------------------------------------------------------------------------------


def test_records_of_a_small_model() -> None:
    attributes = [
        {"name": "axis", "type": 2, "i": -1}, {"name": "alpha", "type": 1, "f": 0.5},
        {"name": "mode", "type": 3, "s": b"same"}, {"name": "pads", "type": 7, "ints": [0, -2, 3]},
        {"name": "names", "type": 8, "strings": [b"a", b"b"]}, {"name": "none", "type": 7},
    ]  # fmt: skip
    content = model(
        graph(
            [node("Op", ["x", "", "w"], ["y", ""], *attributes, name="n", domain="ai.onnx")],
            [value("y", ("B", 3))], [value("x", (1, "T")), value("w")], initializer=[tensor("w")],
            value_info=[value("z", (4,), 7)],
        )
    )  # fmt: skip
    read_back = read_model(content)
    (item,) = read_back.graph.nodes
    assert (item.op, item.domain, item.version, item.inputs, item.outputs) == ("Op", "", 17, ("x", "", "w"), ("y", ""))
    assert item.attributes == {
        "axis": -1, "alpha": 0.5, "mode": "same", "pads": (0, -2, 3), "names": ("a", "b"), "none": (),
    }  # fmt: skip
    assert [(info.name, info.dtype, info.shape) for info in read_back.graph.inputs] == [("x", "float32", (1, "T"))]
    assert read_back.graph.outputs[0].shape == ("B", 3)
    assert read_back.graph.declared["z"].dtype == "int64"


def test_nodes_in_any_order_are_sorted() -> None:
    nodes = [node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)]
    found = read_model(model(graph(nodes[::-1], ["v3000"], ["v0"]))).graph
    assert [item.outputs[0] for item in found.nodes] == [f"v{i + 1}" for i in range(3000)]


def test_a_node_comes_after_what_its_subgraph_captures() -> None:
    inner = graph([node("Neg", ["late"], ["r"])], ["r"], [])
    chosen = node("If", ["x"], ["y"], *branches(inner, inner))
    found = read_model(model(graph([chosen, node("Abs", ["x"], ["late"])]))).graph
    assert [item.op for item in found.nodes] == ["Abs", "If"]
    assert found.nodes[1].attributes["then_branch"].captures == ("late",)


def function(name: str, nodes: list[Any], inputs: list[str], outputs: list[str], **more: Any) -> dict[str, Any]:
    opsets = [{"version": 17}, {"domain": "own", "version": 1}]
    fields = {"name": name, "domain": "own", "input": inputs, "output": outputs, "node": nodes, "opset_import": opsets}
    return fields | more


def with_functions(nodes: list[Any], functions: list[Any], outputs: tuple[str, ...] = ("y",)) -> bytes:
    opsets = [{"version": 17}, {"domain": "own", "version": 1}]
    return model(graph(nodes, [value(name, ("n",)) for name in outputs]), functions=functions, opset_import=opsets)


def test_functions_are_written_out_as_onnx_runtime_runs_them(runtime: Any) -> None:
    """Attributes given and left out, calls of calls, an If inside, one function twice, an inner value as output."""
    reference = {"name": "alpha", "type": 1, "ref_attr_name": "slope"}
    default = {"name": "slope", "type": 1, "f": 0.25}
    leaky = function("Leaky", [node("LeakyRelu", ["a"], ["t"], reference), node("Neg", ["t"], ["o"])], ["a"], ["o"],
                     attribute_proto=[default])  # fmt: skip
    branch = graph([node("Leaky", ["p"], ["bo"], {"name": "slope", "type": 1, "ref_attr_name": "s"}, domain="own")],
                   [value("bo", ("n",))], [])  # fmt: skip
    other = graph([node("Abs", ["p"], ["bo"])], [value("bo", ("n",))], [])
    outer = function(
        "Outer",
        [
            node("ReduceSum", ["p"], ["sum"], {"name": "keepdims", "type": 2, "i": 0}),
            node("Constant", [], ["zero"], {"name": "value_float", "type": 1, "f": 0.0}),
            node("Greater", ["sum", "zero"], ["c"]),
            node("If", ["c"], ["t"], *branches(branch, other)),
            node("Leaky", ["t"], ["q"], domain="own"),
        ],
        ["p"], ["q", "t"], attribute=["s"],
    )  # fmt: skip
    content = with_functions(
        [
            node("Outer", ["x"], ["t", "same"], {"name": "s", "type": 1, "f": 0.5}, domain="own", name="one"),
            node("Outer", ["t"], ["u", ""], domain="own", name="two"),
            node("Add", ["u", "same"], ["y"]),
        ],
        [leaky, outer],
    )
    records = read_model(content)
    written = as_onnx(records).SerializeToString()
    assert not read_model(written).graph.captures
    for x in (np.array([3, -1], np.float32), np.array([-3, 1], np.float32)):
        for got, wanted in zip(ran(runtime, written, {"x": x}), ran(runtime, content, {"x": x}), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_function_that_hands_its_input_out() -> None:
    passing = function("F", [node("Relu", ["a"], ["b"])], ["a"], ["a", "b"])
    found = read_model(with_functions([node("F", ["x"], ["y", ""], domain="own")], [passing])).graph
    assert [(item.op, item.inputs, item.outputs) for item in found.nodes if "y" in item.outputs] == [
        ("Identity", ("x",), ("y",))
    ]


# Real files -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_node_test_of_onnx_is_read_and_means_the_same(onnx: Any) -> None:
    """Models of every operator, functions and subgraphs among them: written back, they are what onnx reads."""
    from onnx.backend.test.case.node import collect_testcases

    count = 0
    for case in collect_testcases(None):
        if case.model is None:
            continue
        content = case.model.SerializeToString()
        try:
            records = read_model(content)
        except UnsupportedError:
            # A type that is no tensor's as an attribute: Optional and SequenceEmpty alone.
            continue
        count += 1
        if case.model.functions or any(info.dtype in ("sequence", "optional") for info in records.graph.inputs):
            continue
        back = as_onnx(records).graph
        assert len(back.node) == len(case.model.graph.node)
        for got, wanted in zip(back.node, case.model.graph.node, strict=True):
            assert got.op_type == wanted.op_type
            assert (list(got.input), list(got.output)) == (list(wanted.input), list(wanted.output))
            mine = {item.name: item for item in got.attribute}
            assert mine.keys() == {item.name for item in wanted.attribute}
            for item in wanted.attribute:
                if item.type in (1, 2, 3, 6, 7, 8) and (item.type < 6 or item.ints or item.floats or item.strings):
                    assert onnx.helper.get_attribute_value(mine[item.name]) == onnx.helper.get_attribute_value(item)
    assert count > 1000


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published models are not here (../shared/models)")
@pytest.mark.parametrize("name", ["nsnet2/nsnet2", "gtcrn/gtcrn_simple", "onnx_node/test_gru_clip/model"])
def test_published_models(onnx: Any, name: str) -> None:
    path = SHARED / f"{name}.onnx"
    found = cgru.read(path)
    wanted = onnx.load(path).graph
    for proto in wanted.initializer:
        np.testing.assert_array_equal(found[proto.name], onnx.numpy_helper.to_array(proto))
    assert [item.op for item in read_model(path).graph.nodes] == [item.op_type for item in wanted.node]


def test_schema_names_the_fields_of_onnx(onnx: Any) -> None:
    names = {"DimensionProto": onnx.TensorShapeProto.Dimension, "TensorTypeProto": onnx.TypeProto.Tensor,
             "Segment": onnx.TensorProto.Segment}  # fmt: skip
    for kind, table in SCHEMA.items():
        if kind == "OtherTypeProto":
            continue
        fields = names.get(kind, getattr(onnx, kind, None)).DESCRIPTOR.fields_by_number  # type: ignore[union-attr]
        for number, (name, type_) in table.items():
            assert fields[number].name == name
            single = fields[number].has_presence
            assert single != type_.endswith("*"), (kind, name)


def test_the_writer_writes_what_onnx_reads(onnx: Any) -> None:
    content = model(graph([node("Relu", ["x"], ["y"])], initializer=[tensor("w", [[1.5, -2.0]], dims=[1, 2])]))
    onnx.checker.check_model(onnx.load_from_string(content))
    negative = encode("TensorProto", {"dims": [-1, 2**62], "int32_data": [-5, 5], "float_data": [0.1]}, SCHEMA)
    proto = onnx.TensorProto.FromString(negative)
    assert (list(proto.dims), list(proto.int32_data)) == ([-1, 2**62], [-5, 5])
    assert list(proto.float_data) == [np.float32(0.1)]


def test_onnx_is_known_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(model(graph([node("Relu", ["x"], ["y"])], initializer=[tensor("w")])))
    assert cgru.read(tmp_path / "model.bin")["w"].tolist() == [1, 2]
    with pytest.raises(FormatError):
        cgru.read(b"\x08\x08\x12\x07pytorch\x3a\x00\x80")


def test_graph_records_are_immutable() -> None:
    found = read_model(model(graph([node("Relu", ["x"], ["y"])]))).graph
    assert isinstance(found, Graph)
    with pytest.raises(AttributeError):
        found.name = "other"  # type: ignore[misc]
