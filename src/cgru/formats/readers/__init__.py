"""Readers: what a container's arrays and records mean, as layers. Only here are foreign gate orders known."""
