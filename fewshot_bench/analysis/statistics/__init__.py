"""Tests, intervals and variances for comparisons of methods; numbers in, numbers out.

Independent of records, stores and the command line; never imports torch.
docs/explanation/statistics.md explains what each number means and when not to trust it.
"""
