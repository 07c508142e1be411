"""The site of printed and submitted numbers, and bundles of results that travel."""
