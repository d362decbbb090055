"""Containers: bytes in, named arrays and plain records out. What they mean is the readers' business."""
