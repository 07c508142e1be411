"""An example plug-in for fewshot_bench."""
