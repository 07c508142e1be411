"""Names of metrics that columns of tables and data frames have already, and values of a Metric."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

import fewshot_bench as fb
from fewshot_bench.analysis.results import HEADS
from fewshot_bench.analysis.table.columns import CURVE, FACTS
from fewshot_bench.analysis.table.costs import COSTS
from fewshot_bench.api.column_names import BESIDE, FIXED, taken
from fewshot_bench.api.metrics import METRICS, Metric
from fewshot_bench.utils.errors import ContractError
from tests.support.helpers import fsbench
from tests.support.synthetic_store import fill

SOURCE = """
from fewshot_bench import Metric, hookimpl

@hookimpl
def register_metrics(register):
    register("{name}", "{module}:METRIC")

METRIC = Metric("{name}", "an odd one", lambda hits: 7.0)
"""


def compute(hits: Any) -> float:
    """Always 1."""
    return 1.0


@pytest.mark.parametrize("name", ["method", "n_seeds", "top1_mean", "nll_ci95", "trained", "curve"])
def test_the_name_of_a_column_is_refused(name: str, install: Any) -> None:
    install("odd", SOURCE.replace("{name}", name))
    assert f"metric '{name}' (fsbench-odd:odd, " in fsbench("list", "plugins").out
    refused = fsbench("compare", "--columns", "ece", "--metric", name)
    assert refused.code == 2
    assert "the name is taken by a column of tables or data frames; choose another" in refused.err


def test_the_name_of_a_column_of_another_plug_in_is_refused(install: Any) -> None:
    install("one", SOURCE.replace("{name}", "own"))
    install("two", SOURCE.replace("{name}", "own_n"))
    assert "metric 'own_n' (fsbench-two:two, " in fsbench("list", "metrics").err
    assert "a column of another plug-in's metric" in fsbench("show", "own_n").err
    assert "an odd one" in fsbench("list", "metrics").out


def test_every_fixed_column_is_known(tmp_path: Path) -> None:
    store = fill(tmp_path / "s", 2, 2, (1, 4), (1, 2, 3), queries=20, classes=4, halves=True)
    words = ("compare", "--store", store.path, "--baseline", "linear-probe", "--format", "csv")
    columns = set(next(csv.reader(io.StringIO(fsbench(*words).out))))
    columns |= {*HEADS, *fb.load(store.path).to_frame().columns, *COSTS, CURVE, *FACTS}
    beside = {f"{name}{ending}" for name in METRICS for ending in BESIDE}
    free = {name for name in columns - METRICS.keys() - beside if not taken(name, METRICS)}
    # These are no valid names of metrics.
    assert {name for name in free if name.isidentifier()} == set()
    assert {"data", "method", "n_seeds"} <= FIXED


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"digits": -1}, "digits is -1, expected a whole number from 0 to 9"),
        ({"digits": 1.5}, "digits is 1.5, expected a whole number"),
        ({"digits": 400}, "digits is 400, expected a whole number"),
        ({"digits": True}, "digits is True, expected a whole number"),
        ({"unit": "\x1b[31m"}, "unit is '\\x1b[31m', expected text without control characters"),
        ({"short": "\n"}, "short is '\\n', expected text without control characters"),
        ({"title": "a\tb"}, "title is 'a\\tb', expected text without control characters"),
        ({"title": " "}, "title is ' ', expected the words of captions"),
        ({"compute": 3}, "compute is 3, expected a function whose parameters can be read"),
        ({"compute": lambda: 1.0}, "has compute without parameters: expected parameters among"),
        ({"scores": max}, "expected a function whose parameters can be read"),
    ],
)
def test_values_are_checked_where_a_metric_is_built(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ContractError) as caught:
        Metric(**{"name": "odd", "title": "an odd one", "compute": compute, **values})
    assert said in str(caught.value)


def test_the_error_of_a_metric_that_was_not_built_is_shown_whole(install: Any) -> None:
    source = SOURCE.replace("{name}", "odd").partition("METRIC = ")[0]
    source += "try:\n    Metric('odd', 'odd', lambda foo: 1.0)\n"
    install("odd", source + "except Exception as error:\n    METRIC = error\n")
    said = fsbench("show", "odd").err
    assert "metric 'odd' asks for 'foo': expected parameters among logits, labels" in said
    assert "surprises, brier_scores" in said
