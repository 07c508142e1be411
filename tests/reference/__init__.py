"""Plain, slow implementations of each paper's mathematics, used to check the shipped methods."""
