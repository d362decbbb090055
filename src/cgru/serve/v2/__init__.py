"""The Open Inference Protocol (KServe's V2): what it means here, over HTTP and over gRPC."""
