"""`python -m fewshot_bench.testing.rehearsal`: compile the device, and print what PYTHONPATH needs.

PYTHONPATH=$(python -m fewshot_bench.testing.rehearsal) fsbench run --devices rehearsal:0 ...
"""

from __future__ import annotations

from fewshot_bench.testing.rehearsal import build

if __name__ == "__main__":
    print(build())
