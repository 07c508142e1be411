"""The atlas of printed numbers: a page of the documentation."""
