"""Live PyTorch and Keras objects → networks, each run beside the object it came from before it is handed out."""
