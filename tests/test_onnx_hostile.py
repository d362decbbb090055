"""Damaged and hostile ONNX files: each ends in a FormatError that names the file and what is wrong with it."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crafted import refused
from onnx_side import branches, graph, model, node, tensor, value

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats.containers import onnx_functions
from cgru.formats.containers.onnx_schema import SCHEMA
from cgru.formats.containers.protobuf_write import encode
from cgru.formats.readers.onnx_fold import FOLDED
from cgru.formats.readers.onnx_lowering import CONTROL, HANDLERS
from cgru.formats.readers.onnx_summary import FAMILIES

RELU = node("Relu", ["x"], ["y"])


def bad(tmp_path: Path, content: bytes, says: str, error: type[CgruError] = FormatError, peak: int = 8 << 20) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with refused(path, says, error, peak):
        cgru.read(path)


def bad_graph(tmp_path: Path, *parts: Any, says: str, **more: Any) -> None:
    bad(tmp_path, model(graph(*parts, **more)), says)


def bad_tensor(tmp_path: Path, says: str, error: type[CgruError] = FormatError, **changes: Any) -> None:
    bad(tmp_path, model(graph([RELU], initializer=[tensor("w", **changes)])), says, error)


def test_the_builder_builds_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "good.onnx").write_bytes(model(graph([RELU], initializer=[tensor("w")])))
    assert cgru.read(tmp_path / "good.onnx")["w"].tolist() == [1, 2]


# The file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.9, 0.99])
def test_truncated_file(tmp_path: Path, keep: float) -> None:
    whole = model(graph([RELU], initializer=[tensor("w", np.ones(500))]))
    bad(tmp_path, whole[: int(len(whole) * keep)], "truncated")


def test_truncated_varint(tmp_path: Path) -> None:
    bad(tmp_path, model(graph([RELU])) + b"\x80", "varint is truncated")


def test_bytes_after_the_model(tmp_path: Path) -> None:
    bad(tmp_path, model(graph([RELU])) + bytes(10), "field number 0")


def test_no_graph(tmp_path: Path) -> None:
    bad(tmp_path, model(None), "no graph")


def test_no_version_of_the_operators(tmp_path: Path) -> None:
    bad(tmp_path, model(graph([RELU]), opset_import=[]), "no version of its operators")
    bad(tmp_path, model(graph([RELU]), opset_import=[{"domain": "own", "version": 1}]), "version the file does not say")


def test_versions_of_the_operators_that_make_no_sense(tmp_path: Path) -> None:
    bad(tmp_path, model(graph([RELU]), opset_import=[{"version": 2**40}]), "version 1099511627776")
    bad(tmp_path, model(graph([RELU]), opset_import=[{"version": -1}]), "version -1")
    twice = [{"version": 17}, {"domain": "ai.onnx", "version": 18}]
    bad(tmp_path, model(graph([RELU]), opset_import=twice), "twice")


def test_wire_types_that_do_not_fit(tmp_path: Path) -> None:
    bad(tmp_path, model(None) + encode("X", {"a": 1}, {"X": {7: ("a", "int64")}}), "wire type 0; expected GraphProto")


# Graphs -----------------------------------------------------------------------------------------------------------


def test_cyclic_graph(tmp_path: Path) -> None:
    nodes = [node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), node("Relu", ["b"], ["y"])]
    bad_graph(tmp_path, nodes, says="no cycles")


def test_node_that_reads_itself(tmp_path: Path) -> None:
    bad_graph(tmp_path, [node("Add", ["x", "y"], ["y"])], says="no cycles")


def test_cycle_through_a_subgraph(tmp_path: Path) -> None:
    inner = graph([node("Neg", ["y"], ["r"])], ["r"], [])
    chosen = node("If", ["x"], ["y"], {"name": "then_branch", "type": 5, "g": inner})
    bad_graph(tmp_path, [chosen], says="no cycles")


def test_long_cycle_is_found_in_time(tmp_path: Path) -> None:
    nodes = [node("Relu", [f"v{(i + 1) % 8000}"], [f"v{i}"]) for i in range(8000)]
    start = time.process_time()
    bad(tmp_path, model(graph(nodes, ["v0"])), "no cycles", peak=64 << 20)
    assert time.process_time() - start < 30


def test_missing_input(tmp_path: Path) -> None:
    bad_graph(tmp_path, [node("Add", ["x", "gone"], ["y"])], says=r"'y' \(Add\) takes 'gone', which nothing")


def test_missing_input_of_a_subgraph(tmp_path: Path) -> None:
    inner = graph([node("Neg", ["gone"], ["r"])], ["r"], [])
    bad_graph(tmp_path, [node("If", ["x"], ["y"], {"name": "then_branch", "type": 5, "g": inner})], says="takes 'gone'")


def test_missing_output(tmp_path: Path) -> None:
    bad_graph(tmp_path, [RELU], ["gone"], says="outputs takes 'gone'")


def test_two_nodes_produce_one_name(tmp_path: Path) -> None:
    bad_graph(tmp_path, [RELU, RELU], says="'y', which there is already")


def test_node_produces_an_input_or_initializer(tmp_path: Path) -> None:
    bad_graph(tmp_path, [node("Relu", ["x"], ["x"])], says="'x', which there is already")
    nodes = [node("Relu", ["x"], ["w"]), RELU]
    bad_graph(tmp_path, nodes, initializer=[tensor("w")], says="'w', which there is already")


def test_one_node_produces_a_name_twice(tmp_path: Path) -> None:
    bad_graph(tmp_path, [node("Split", ["x"], ["y", "y"])], says="'y', which there is already")


def test_duplicate_inputs_outputs_and_initializers(tmp_path: Path) -> None:
    bad_graph(tmp_path, [RELU], ["y"], ["x", "x"], says="input 'x' twice")
    bad_graph(tmp_path, [RELU], ["y", "y"], says="output 'y' twice")
    bad_graph(tmp_path, [RELU], initializer=[tensor("w"), tensor("w")], says="initializer 'w' twice")


def test_inputs_and_initializers_without_names(tmp_path: Path) -> None:
    bad_graph(tmp_path, [RELU], ["y"], ["x", ""], says="input without a name")
    bad_graph(tmp_path, [RELU], initializer=[tensor("")], says="initializer without a name")


def test_subgraph_hides_a_name_around_it(tmp_path: Path) -> None:
    inner = graph([node("Neg", ["x"], ["a"])], ["a"], [])
    nodes = [node("Relu", ["x"], ["a"]), node("If", ["a"], ["y"], {"name": "then_branch", "type": 5, "g": inner})]
    bad_graph(tmp_path, nodes, says="'a' is produced in the subgraph 'g' and in a graph around it")


def test_deep_subgraphs(tmp_path: Path) -> None:
    inner = graph([RELU], inputs=[])
    for depth in range(60):
        chosen = node("If", ["x"], [f"y{depth}"], *branches(inner, inner)[:1])
        inner = graph([chosen], [f"y{depth}"], [])
    bad(tmp_path, model({**inner, "input": [value("x")]}), "deeper than 100")


def test_many_nodes_without_names_make_no_long_message(tmp_path: Path) -> None:
    long = "n" * 100_000
    bad_graph(tmp_path, [node("Add", ["x", long], ["y"], name=long)], says="nothing in the file produces")


def test_node_without_operator(tmp_path: Path) -> None:
    bad_graph(tmp_path, [{"input": ["x"], "output": ["y"]}], says="says no operator")


# Attributes and types ---------------------------------------------------------------------------------------------


def test_attribute_of_another_type_than_it_holds(tmp_path: Path) -> None:
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], {"name": "a", "type": 1, "i": 3})], says="of type 1 but holds i")
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], {"name": "a", "i": 3, "f": 1.0})], says="of type 0 but holds f, i")
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], {"name": "a", "type": 99})], says="of type 99 but holds nothing")
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], {"name": "a", "type": 4})], says="holds nothing")


def test_attribute_twice_or_without_a_name(tmp_path: Path) -> None:
    attribute = {"name": "a", "type": 2, "i": 3}
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], attribute, attribute)], says="attribute 'a' twice")
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], {"type": 2, "i": 3})], says="attribute without a name")


def test_attribute_that_refers_to_no_function(tmp_path: Path) -> None:
    attribute = {"name": "a", "type": 2, "ref_attr_name": "b"}
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], attribute)], says="outside of any")


def test_text_attribute_that_is_not_utf8(tmp_path: Path) -> None:
    bad_graph(tmp_path, [node("Relu", ["x"], ["y"], {"name": "a", "type": 3, "s": b"\xff"})], says="not UTF-8")


def test_attributes_that_are_not_read(tmp_path: Path) -> None:
    content = model(graph([node("Relu", ["x"], ["y"], {"name": "a", "type": 11})]))
    bad(tmp_path, content, "sparse tensor", UnsupportedError)


def test_values_of_impossible_types_and_shapes(tmp_path: Path) -> None:
    bad_graph(tmp_path, [RELU], [value("y", (2,), 99)], says="'y' has data type 99")
    bad_graph(tmp_path, [RELU], [value("y", (2**50,))], says="axis of 1125899906842624")
    both = value("y")
    both["type"]["tensor_type"]["shape"]["dim"] = [{"dim_value": 2, "dim_param": "n"}]
    bad_graph(tmp_path, [RELU], [both], says="both a size and a name")


# Tensors ----------------------------------------------------------------------------------------------------------


def test_huge_tensor_declared(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "takes 4294967296 bytes; found 8", dims=[1 << 30])
    bad_tensor(tmp_path, "takes 1073741824 numbers; found 0", dims=[1 << 30], raw_data=None)


def test_shape_that_overflows(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "impossible shape", dims=[2**32, 2**32])
    bad_tensor(tmp_path, "impossible shape", dims=[0, 2**62, 2**62], raw_data=b"")
    bad_tensor(tmp_path, "impossible shape", dims=[-2])


def test_tensor_of_too_many_axes(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "33 axes", dims=[1] * 33, raw_data=bytes(4))


def test_tensor_of_unknown_type(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "data type 0", data_type=0)
    bad_tensor(tmp_path, "data type 99", data_type=99)


def test_tensor_with_two_sets_of_data(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "both raw_data and float_data", float_data=[1, 2])


def test_tensor_with_data_of_another_type(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "FLOAT but holds int64_data", raw_data=None, int64_data=[1, 2])


@pytest.mark.parametrize(
    ("code", "values"), [(2, [0, 256]), (3, [0, -129]), (4, [-1, 0]), (9, [0, 2]), (10, [0, 1 << 16]), (27, [0, 64])]
)
def test_tensor_with_numbers_outside_its_type(tmp_path: Path, code: int, values: list[int]) -> None:
    bad_tensor(tmp_path, "holds", data_type=code, raw_data=None, int32_data=values)


def test_tensor_of_bool_with_other_bytes(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "other bytes than 0 and 1", data_type=9, raw_data=b"\x00\x02")


def test_tensor_of_text(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "text as raw data", data_type=8, raw_data=b"ab")
    bad_tensor(tmp_path, "not UTF-8", data_type=8, raw_data=None, string_data=[b"\xff", b""])


def test_tensor_in_segments(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "segments", UnsupportedError, segment={"begin": 0, "end": 1})


def test_sparse_initializers(tmp_path: Path) -> None:
    content = model(graph([RELU], sparse_initializer=[{"values": tensor("w")}]))
    bad(tmp_path, content, "sparse initializers", UnsupportedError)


# External data ----------------------------------------------------------------------------------------------------


def outside(location: str | None, **keys: str) -> dict[str, Any]:
    entries = ({} if location is None else {"location": location}) | keys
    return {
        "raw_data": None, "data_location": 1,
        "external_data": [{"key": key, "value": item} for key, item in entries.items()],
    }  # fmt: skip


def bad_outside(tmp_path: Path, says: str, location: str | None = "w.bin", **keys: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(bytes(8))
    (tmp_path / "secret.bin").write_bytes(bytes(8))
    bad_tensor(folder, says, **outside(location, **keys))


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "sub/../../secret.bin", "/etc/passwd", "..", "", "C:\\secret.bin", "..\\secret.bin", "w.bin\0"],
)
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    bad_outside(tmp_path, "expected a path within the model's folder", location)


def test_external_data_through_a_link_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    os.symlink(tmp_path, folder / "up")
    bad_outside(tmp_path, "a link out of the model's folder", "link.bin")
    bad_outside(tmp_path, "a link out of the model's folder", "up/secret.bin")


def test_external_data_that_is_not_there(tmp_path: Path) -> None:
    bad_outside(tmp_path, "cannot be read", "gone.bin")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_external_data_in_a_pipe_or_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    os.mkfifo(folder / "pipe")
    bad_outside(tmp_path, "no regular file", "pipe")
    bad_outside(tmp_path, "no regular file", "sub")


def test_external_data_beyond_its_file(tmp_path: Path) -> None:
    bad_outside(tmp_path, "takes bytes 4 to 12", offset="4")
    bad_outside(tmp_path, "truncated", offset="9" * 18)


@pytest.mark.parametrize("text", ["-1", "1e3", "٣", "9" * 30, ""])
def test_external_data_with_numbers_that_are_none(tmp_path: Path, text: str) -> None:
    bad_outside(tmp_path, "as offset of its external data", offset=text)


def test_external_data_of_another_length(tmp_path: Path) -> None:
    bad_outside(tmp_path, "takes 8 bytes", length="4")


def test_external_data_that_does_not_say_where(tmp_path: Path) -> None:
    bad_outside(tmp_path, "does not say where", None)


def test_external_data_of_a_model_given_as_bytes() -> None:
    with pytest.raises(UnsupportedError, match="load the model by its path"):
        cgru.read(model(graph([RELU], initializer=[tensor("w", **outside("w.bin"))])))


def test_external_data_and_data_inside(tmp_path: Path) -> None:
    bad_tensor(tmp_path, "both in the file and outside", **{**outside("w.bin"), "raw_data": bytes(8)})


def test_external_ranges_that_overlap_to_multiply_memory(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(1 << 20))
    tensors = [tensor(f"w{i}", dims=[1 << 17], **outside("w.bin", offset=str(i))) for i in range(1000)]
    bad(tmp_path, model(graph([RELU], initializer=tensors)), "overlaps other tensors", peak=16 << 20)


# Functions --------------------------------------------------------------------------------------------------------


def calling(nodes: list[Any], *functions: Any) -> bytes:
    opsets = [{"version": 17}, {"domain": "own", "version": 1}]
    made = [{"domain": "own", "opset_import": opsets, "input": ["a"], "output": ["b"], **item} for item in functions]
    return model(graph(nodes), opset_import=opsets, functions=made)


def call(name: str, source: str = "x", target: str = "y", *attributes: Any) -> dict[str, Any]:
    return node(name, [source], [target], *attributes, domain="own")


def test_function_that_calls_itself(tmp_path: Path) -> None:
    bad(tmp_path, calling([call("F")], {"name": "F", "node": [call("F", "a", "b")]}), "calls itself")
    pair = [{"name": one, "node": [call(other, "a", "b")]} for one, other in ("FG", "GF")]
    bad(tmp_path, calling([call("F")], *pair), "calls itself")


def test_functions_that_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_functions, "MAX_CALLS", 1000)
    monkeypatch.setattr(onnx_functions, "MAX_NODES", 5000)
    steps = [{"name": f"F{i}", "node": [call(f"F{i + 1}", "a", "t"), call(f"F{i + 1}", "t", "b")]} for i in range(30)]
    content = calling([call("F0")], *steps, {"name": "F30", "node": [node("Relu", ["a"], ["b"])]})
    bad(tmp_path, content, "more than 1000 calls", peak=32 << 20)
    many = {"name": "F", "node": [node("Relu", ["a"], [f"b{i}"]) for i in range(500)], "output": ["b0"]}
    content = calling([call("F", "x", f"y{i}") for i in range(11)] + [RELU], many)
    bad(tmp_path, content, "more than 5000 nodes", peak=32 << 20)


def test_function_twice(tmp_path: Path) -> None:
    relu = {"name": "F", "node": [node("Relu", ["a"], ["b"])]}
    bad(tmp_path, calling([call("F")], relu, relu), "function 'F' stands twice")


def test_function_whose_body_reads_what_is_not_there(tmp_path: Path) -> None:
    bad(tmp_path, calling([call("F")], {"name": "F", "node": [node("Add", ["a", "x"], ["b"])]}), "nothing in the file")
    bad(tmp_path, calling([call("F")], {"name": "F", "node": [node("Relu", ["a"], ["c"])]}), "nothing in the file")


def test_function_called_with_too_many_inputs(tmp_path: Path) -> None:
    relu = {"name": "F", "node": [node("Relu", ["a"], ["b"])]}
    bad(tmp_path, calling([node("F", ["x", "x"], ["y"], domain="own")], relu), "2 inputs and 1 outputs")


def test_function_called_with_an_unknown_attribute(tmp_path: Path) -> None:
    relu = {"name": "F", "node": [node("Relu", ["a"], ["b"])]}
    bad(tmp_path, calling([call("F", "x", "y", {"name": "k", "type": 2, "i": 1})], relu), "which its function has not")


# Every byte -------------------------------------------------------------------------------------------------------


def test_any_byte_changed_or_cut_gives_records_or_an_error() -> None:
    inner = graph([node("Neg", ["x"], ["r"])], ["r"], [])
    nodes = [call("F", "x", "t"), node("If", ["t"], ["y"], *branches(inner, inner))]
    whole = calling(nodes, {"name": "F", "node": [node("Relu", ["a"], ["b"])]})
    rng = np.random.default_rng(1)
    for at in range(len(whole)):
        for byte in (0, 255, whole[at] ^ 1, int(rng.integers(256))):
            with suppress(CgruError):
                cgru.read(whole[:at] + bytes([byte]) + whole[at + 1 :])


def test_schema_is_closed() -> None:
    scalars = {"string", "bytes", "int64", "int32", "uint64", "enum", "float", "double"}
    assert {type_.rstrip("*") for table in SCHEMA.values() for _, type_ in table.values()} <= scalars | SCHEMA.keys()


# The operators ----------------------------------------------------------------------------------------------------


assert FAMILIES  # every operator's handler is in the table now


@pytest.mark.parametrize("operator", sorted({*HANDLERS, *FOLDED} - set(CONTROL)))
@pytest.mark.parametrize("known", [False, True], ids=["computed", "constant"])
def test_an_input_that_is_left_out(operator: str, known: bool) -> None:
    """A name may be empty where an operator can do without the input; where it cannot, the file is at fault."""
    domain, _, name = operator.rpartition(".")
    first = "w" if known else "x"
    opsets = [{"version": 17}, *([{"domain": domain, "version": 1}] if domain else [])]
    for inputs in (["", "w"], [first, ""], [first], ["", ""], [""], [first, "w", ""], [first, "", "w"]):
        graph_ = graph(
            [node(name, inputs, ["t"], domain=domain), node("Add", ["t", "x"], ["y"])],
            [value("y", ("B", "T", 2))],
            [value("x", ("B", "T", 2))],
            initializer=[tensor("w", np.ones((1, 1, 2)))],
        )
        with suppress(CgruError):
            cgru.load(model(graph_, opset_import=opsets))


@pytest.mark.parametrize("parts", [1, 3, 1 << 31, 1 << 62])
def test_a_split_into_more_parts_than_it_gives(parts: int) -> None:
    attributes = [{"name": name, "type": 2, "i": number} for name, number in (("num_outputs", parts), ("axis", 2))]
    split = node("Split", ["x"], ["y", "z"], *attributes)
    graph_ = graph([split], [value("y", ("B", "T", 2))], [value("x", ("B", "T", 2))])
    with pytest.raises(FormatError, match=f"{parts} parts for 2 outputs"):
        cgru.load(model(graph_, opset_import=[{"version": 18}]))
