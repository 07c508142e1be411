"""Tests, intervals and variances for comparisons of methods; numbers in, numbers out.

Nothing here knows records, stores or the command line, and nothing brings torch in. What each
number means, and when not to trust it, stands in docs/statistics.md.
"""
