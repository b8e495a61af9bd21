"""Layers that can stream: `y, state = layer(x, state)`, where no state means the start of a signal."""
