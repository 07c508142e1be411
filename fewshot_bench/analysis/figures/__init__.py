"""Figures of papers, from the tables of records: a module per kind, and what they share."""
