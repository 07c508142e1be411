"""Readers of a store: records and logits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fewshot_bench.analysis import formats
from fewshot_bench.analysis.audit import audit as rendered
from fewshot_bench.analysis.audit.audit import audit
from fewshot_bench.analysis.comparison import Block, Made, document_of, map_blocks
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.analysis.table.grids import Display
from fewshot_bench.analysis.table.layouts import lay_out
from fewshot_bench.analysis.table.per_class import class_names
from fewshot_bench.analysis.table.table import Table
from fewshot_bench.api.record import Record
from fewshot_bench.engines.reporting import outcome
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import UsageError
from tests.fuzzing.commands import assert_plain
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.support.answers import put_answers
from tests.support.compare_records import make
from tests.support.store_cases import fit_digests

GOOD = make("coop", options={"rank": 2}, overrides={"rank": 2})


def _records(folder: Path) -> list[Seed]:
    store = Store(folder)
    store.create()
    put_answers(store, GOOD, [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    put_answers(store, make("zero-shot", shots=4, seed=2), [[0.1, 0.9]], [1], ["c"])
    return seeds_in(folder, ("records/*/*.json", "json"))


def _read_record(folder: Path, file: Path) -> bool:
    store = Store(folder)
    list(store.records())
    return store.get(file.stem) is not None


def _logits(folder: Path) -> list[Seed]:
    _records(folder)
    return seeds_in(folder, ("records/*/*.npz", "zip"))


def _read_logits(folder: Path, file: Path) -> bool:
    store = Store(folder)
    store.get(file.stem)
    return len(store.answers(file.stem).answers.logits) > 0


def _own_keys(folder: Path) -> list[Seed]:
    """Records under the file names that their content requires, so that they are read."""
    values = make("lora", "dtd", 4, 2, data={"classnames": ["a", "b"]}, limit=5).to_dict()
    values |= {"notes": {"a": 1}, "incidents": [{"kind": "retry", "text": "again"}]}
    values |= {"curves": {"loss": {"steps": [1, 2], "values": [0.5, 1e-05]}}}
    values["split"] |= {
        "classnames": ["a", "b"],
        "templates": ["a {}"],
        "images": "0",
        "overlap": 1,
    }
    values["split"] |= {"train": 2, "val": 2, "test": 2, "test_images": "1", "mirrored": True}
    failed = make("coop", top1=None).to_dict()
    half = make("coop", "dtd", classes="new", target="eurosat").to_dict()
    return [
        Seed("records/00/x.json", json.dumps(each).encode(), "json", _place)
        for each in (GOOD.to_dict(), values, failed, half)
    ]


def _place(content: bytes) -> str | None:
    with suppress(Exception):
        key = Record.from_dict(json.loads(content)).spec.key()
        return f"records/{key[:2]}/{key}.json"
    return None


def _seal(file: Path) -> None:
    """Recompute the digest for the changed values, so that later checks are reached."""
    with suppress(Exception):
        values = json.loads(file.read_bytes())
        fit_digests(values)
        file.write_text(json.dumps(values))


def _compare(folder: Path, file: Path) -> bool:
    _seal(file)
    store = Store(folder)
    records = list(store.records())
    if not records:
        return False
    for damage in store.damaged:
        assert "\n" not in str(damage.reason)
    for record in records:
        assert_plain(outcome(record))
        assert len(class_names([record], 2)) == 2
    found = audit(records)
    for form in ("terminal", "markdown", "csv"):
        assert_plain(formats.render(rendered.document(found, form), form))
    for mixed in (False, True):
        options = Options(allow_mixed=mixed, store=str(folder))
        try:
            made = map_blocks([*records, GOOD, make("zero-shot")], options, _table, assert_plain)
        except UsageError:
            continue
        texts = {form: _written(form, made) for form in formats.FORMATS}
        json.loads(texts["json"])
        for text in texts.values():
            assert_plain(text)
    return True


def _table(block: Block, options: Options) -> Table:
    return build(block.records, options, data=block.data)


def _written(form: str, made: Sequence[Made[Table]]) -> str:
    return formats.render(
        document_of(made, lambda table: lay_out(table, form, Display("full"))), form
    )


SUBJECTS = (
    Subject("records", 12, _records, _read_record),
    Subject("records with their own key", 12, _own_keys, _compare),
    Subject("logits", 10, _logits, _read_logits),
)
