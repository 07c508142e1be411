"""Contracts of methods, data sets, backbones, records and metrics, and the registry of plug-ins."""
