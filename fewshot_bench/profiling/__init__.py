"""Costs of a cell: seconds, images, tokens, FLOPs, memory, trained parameters."""
