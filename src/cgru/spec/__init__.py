"""What a network is, without an engine: cells, activations, precisions."""
