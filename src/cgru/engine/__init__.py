"""What runs a network: the model, its state, streams and pools, and the backends behind them."""
