"""The messages of an ONNX file as tables for the protobuf parser, and how each tensor type holds its numbers.

Source: onnx/onnx.proto of ONNX 1.23 (IR version 14). Fields that say nothing about what a network computes
(documentation, training, devices, quantization notes) are left out, so the parser skips them.
"""

from __future__ import annotations

from collections.abc import Mapping

from .protobuf import Schema

SCHEMA: Schema = {
    "ModelProto": {
        1: ("ir_version", "int64"), 2: ("producer_name", "string"), 3: ("producer_version", "string"),
        4: ("domain", "string"), 7: ("graph", "GraphProto"), 8: ("opset_import", "OperatorSetIdProto*"),
        14: ("metadata_props", "StringStringEntryProto*"), 25: ("functions", "FunctionProto*"),
    },
    "GraphProto": {
        1: ("node", "NodeProto*"), 2: ("name", "string"), 5: ("initializer", "TensorProto*"),
        11: ("input", "ValueInfoProto*"), 12: ("output", "ValueInfoProto*"), 13: ("value_info", "ValueInfoProto*"),
        15: ("sparse_initializer", "SparseTensorProto*"),
    },
    "NodeProto": {
        1: ("input", "string*"), 2: ("output", "string*"), 3: ("name", "string"), 4: ("op_type", "string"),
        5: ("attribute", "AttributeProto*"), 7: ("domain", "string"), 8: ("overload", "string"),
    },
    "AttributeProto": {
        1: ("name", "string"), 2: ("f", "float"), 3: ("i", "int64"), 4: ("s", "bytes"), 5: ("t", "TensorProto"),
        6: ("g", "GraphProto"), 7: ("floats", "float*"), 8: ("ints", "int64*"), 9: ("strings", "bytes*"),
        10: ("tensors", "TensorProto*"), 11: ("graphs", "GraphProto*"), 20: ("type", "enum"),
        21: ("ref_attr_name", "string"),
    },
    "FunctionProto": {
        1: ("name", "string"), 4: ("input", "string*"), 5: ("output", "string*"), 6: ("attribute", "string*"),
        7: ("node", "NodeProto*"), 9: ("opset_import", "OperatorSetIdProto*"), 10: ("domain", "string"),
        11: ("attribute_proto", "AttributeProto*"), 13: ("overload", "string"),
    },
    "TensorProto": {
        1: ("dims", "int64*"), 2: ("data_type", "int32"), 3: ("segment", "Segment"), 4: ("float_data", "float*"),
        5: ("int32_data", "int32*"), 6: ("string_data", "bytes*"), 7: ("int64_data", "int64*"), 8: ("name", "string"),
        9: ("raw_data", "bytes"), 10: ("double_data", "double*"), 11: ("uint64_data", "uint64*"),
        13: ("external_data", "StringStringEntryProto*"), 14: ("data_location", "enum"),
    },
    "Segment": {1: ("begin", "int64"), 2: ("end", "int64")},
    "SparseTensorProto": {1: ("values", "TensorProto")},
    "ValueInfoProto": {1: ("name", "string"), 2: ("type", "TypeProto")},
    "TypeProto": {
        1: ("tensor_type", "TensorTypeProto"), 4: ("sequence_type", "OtherTypeProto"),
        5: ("map_type", "OtherTypeProto"),
        8: ("sparse_tensor_type", "OtherTypeProto"), 9: ("optional_type", "OtherTypeProto"),
    },
    "TensorTypeProto": {1: ("elem_type", "int32"), 2: ("shape", "TensorShapeProto")},
    "OtherTypeProto": {},
    "TensorShapeProto": {1: ("dim", "DimensionProto*")},
    "DimensionProto": {1: ("dim_value", "int64"), 2: ("dim_param", "string")},
    "OperatorSetIdProto": {1: ("domain", "string"), 2: ("version", "int64")},
    "StringStringEntryProto": {1: ("key", "string"), 2: ("value", "string")},
}  # fmt: skip

#: AttributeProto.type → the field that holds such an attribute's value.
ATTRIBUTE_FIELDS: Mapping[int, str] = {
    1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs",
}  # fmt: skip

#: TensorProto.data_type → (ONNX' name, the dtype of its raw data, the field that holds its numbers otherwise).
#: Raw data of types without a dtype of numpy's is bytes, or bits, that onnx_tensors.py decodes.
TENSOR_TYPES: Mapping[int, tuple[str, str, str]] = {
    1: ("FLOAT", "<f4", "float_data"), 2: ("UINT8", "u1", "int32_data"), 3: ("INT8", "i1", "int32_data"),
    4: ("UINT16", "<u2", "int32_data"), 5: ("INT16", "<i2", "int32_data"), 6: ("INT32", "<i4", "int32_data"),
    7: ("INT64", "<i8", "int64_data"), 8: ("STRING", "O", "string_data"), 9: ("BOOL", "?", "int32_data"),
    10: ("FLOAT16", "<f2", "int32_data"), 11: ("DOUBLE", "<f8", "double_data"),
    12: ("UINT32", "<u4", "uint64_data"), 13: ("UINT64", "<u8", "uint64_data"),
    14: ("COMPLEX64", "<c8", "float_data"), 15: ("COMPLEX128", "<c16", "double_data"),
    16: ("BFLOAT16", "<u2", "int32_data"), 17: ("FLOAT8E4M3FN", "u1", "int32_data"),
    18: ("FLOAT8E4M3FNUZ", "u1", "int32_data"), 19: ("FLOAT8E5M2", "u1", "int32_data"),
    20: ("FLOAT8E5M2FNUZ", "u1", "int32_data"), 21: ("UINT4", "u1", "int32_data"), 22: ("INT4", "u1", "int32_data"),
    23: ("FLOAT4E2M1", "u1", "int32_data"), 24: ("FLOAT8E8M0", "u1", "int32_data"),
    25: ("UINT2", "u1", "int32_data"), 26: ("INT2", "u1", "int32_data"), 27: ("FLOAT6E2M3", "u1", "int32_data"),
    28: ("FLOAT6E3M2", "u1", "int32_data"),
}  # fmt: skip
