"""TorchScript: the code of an archive, read as text, followed on shapes alone, and given to the ATen lowering."""
