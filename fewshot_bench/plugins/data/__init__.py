"""Fetching, listing and verifying data sets."""
