"""Numbers in words are true as they read, and messages are short."""

from __future__ import annotations

import pytest

from fewshot_bench.analysis.table.evidence import probability
from fewshot_bench.cli.output import warn
from fewshot_bench.cli.run import TerminalReporter
from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.text import signed


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.234, "+1.23"), (-0.006, "-0.01"), (-0.004, "0.00"), (0.0, "0.00"), (0.004, "0.00")],
)
def test_a_difference_that_rounds_to_nothing_has_no_sign(value: float, text: str) -> None:
    assert signed(value) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        *((0.3, "0.30"), (0.031, "0.031"), (0.0042, "0.0042"), (1e-5, "<0.0001")),
        *((0.04999, "0.04999"), (0.0496, "0.0496"), (0.05, "0.050"), (0.0503, "0.0503")),
    ],
)
def test_a_p_value_shows_on_which_side_of_five_percent_it_is(p: float, text: str) -> None:
    assert probability(p) == text


def test_messages_of_any_length_are_cut_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    text = f"begin{' word' * 10_000}; next step"
    warn(text)
    TerminalReporter().warning(text)
    for line in capsys.readouterr().err.splitlines():
        assert len(line) < 2100
        assert line.startswith("warning: begin word")
        assert line.endswith("word; next step")
    assert len(str(UsageError(text))) < 2100
