"""The version of fewshot_bench, separate so that reading it does not import the public API."""

__version__ = "0.1.0"
