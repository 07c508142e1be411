"""Stores of records: written whole, listed, claimed, verified, merged, cleaned."""
