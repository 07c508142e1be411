"""Contracts of plug-ins and records, and the registry of what plug-ins bring."""
