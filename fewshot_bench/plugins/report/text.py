"""Numbers and names as the report writes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fewshot_bench.analysis.statistics.intervals import Estimate
from fewshot_bench.api.spec import ALL_SHOTS
from fewshot_bench.utils.text import beside_level, counted, printable, signed

LONGEST_NAME, LONGEST_TEXT = 120, 600


def name(text: str) -> str:
    """A name from a record on one line, without control characters."""
    return printable(text, LONGEST_NAME)


def short(text: str, longest: int = 22) -> str:
    """A name that fits into a figure; long ones are cut in the middle."""
    text = printable(text)
    if len(text) <= longest:
        return text
    tail = longest // 3
    return f"{text[: longest - tail - 1]}…{text[-tail:]}"


def short_names(labels: Sequence[str], longest: int) -> dict[str, str]:
    """Short names; where shortening makes two equal, with the overrides in which they differ."""
    names = {label: short(label, longest) for label in labels}
    counts = Counter(names.values())
    for label, shown in names.items():
        method, bracket, _ = label.partition("[")
        if counts[shown] > 1 and bracket:
            others = [other for other in labels if other.startswith(f"{method}[")]
            shared = set.intersection(*(set(_parts(other)) for other in others))
            values = [part.partition("=")[2] for part in _parts(label) if part not in shared]
            names[label] = short(f"{method}[{','.join(values)}]", longest)
    return names


def _parts(label: str) -> list[str]:
    return label.partition("[")[2].removesuffix("]").split(",")


def plain(value: float) -> str:
    """A number of any size in three digits."""
    return f"{value:.3g}".replace("-", "−")


def percent(value: float) -> str:
    """A percentage with two decimals, without its sign."""
    return f"{value:.2f}"


def gap(value: float) -> str:
    """A difference in points, with a true minus sign."""
    return signed(value).replace("-", "−")


def interval(value: Estimate) -> str:
    """Mean and interval, `78.12 ± 0.31`, or the range of few seeds; the mean alone for one seed."""
    return f"{percent(value.mean)} {value.around().replace('±', '± ')}".rstrip()


def p_value(p: float) -> str:
    """A p-value with its relation: `= 0.012`, `< 0.001`.

    A value that would be rounded to 5 % has enough digits to show on which side of 5 % it is.
    """
    if p < 0.001:
        return "< 0.001"
    return f"= {beside_level(p, 3 if p < 0.1 else 2)}"


def shots(count: int) -> str:
    """`1 shot`, `16 shots`, `all train images`."""
    return "all train images" if count == ALL_SHOTS else counted(count, "shot")


def at_shots(count: int) -> str:
    """`at 1 shot`, `at 16 shots`, `with all train images`."""
    return f"{'with' if count == ALL_SHOTS else 'at'} {shots(count)}"


def message(words: str) -> str:
    """Text from a record that may be long: errors, options, versions."""
    return printable(words, LONGEST_TEXT)
