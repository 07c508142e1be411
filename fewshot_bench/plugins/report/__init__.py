"""The report: one HTML file about all records of a store."""
