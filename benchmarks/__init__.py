"""Measurements that are run by hand; their output stands in the docs."""
