"""The conformance kit, for pytest and `fsbench check NAME`: names may still change."""

from fewshot_bench.testing.bench import Bench
from fewshot_bench.testing.failure import CheckFailure, CheckSkipped
from fewshot_bench.testing.kit import (
    KIT_VERSION,
    CheckResult,
    NamedCheck,
    all_checks,
    check_method,
    iter_checks,
    parametrize_with_checks,
    quick,
    run_checks,
)
from fewshot_bench.testing.toy import toy_backbone

__all__ = [
    "KIT_VERSION",
    "Bench",
    "CheckFailure",
    "CheckResult",
    "CheckSkipped",
    "NamedCheck",
    "all_checks",
    "check_method",
    "iter_checks",
    "parametrize_with_checks",
    "quick",
    "run_checks",
    "toy_backbone",
]
