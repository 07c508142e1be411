"""The version of fewshot_bench; it stands alone, so that nothing needs to import the face."""

__version__ = "0.1.0"
