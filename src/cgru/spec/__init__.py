"""What a network is, without an engine: graphs of operations over typed values, cells, activations, precisions."""

from . import operations as operations
