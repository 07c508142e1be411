"""Benchmarks that are run by hand; the docs quote their output."""
