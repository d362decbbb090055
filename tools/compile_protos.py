"""Compile the protocol's wire form to the descriptor set that the gRPC server reads at run time.

    pip install grpcio-tools && python tools/compile_protos.py

A descriptor set works with every version of protobuf, where generated Python code works with some.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

V2 = Path(__file__).resolve().parents[1] / "src" / "cgru" / "serve" / "v2"


def main() -> int:
    source = V2 / "open_inference.proto"
    return protoc.main(
        ["protoc", f"-I{V2}", f"--descriptor_set_out={source.with_suffix('.binpb')}", str(source)]
    )


if __name__ == "__main__":
    sys.exit(main())
