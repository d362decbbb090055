"""PyTorch's ATen operators → cgru's graph: one lowering for live modules and for the archives of torch.export."""
