"""Tables refuse to mix results of different code of one method."""

from __future__ import annotations

import dataclasses

import pytest

from fewshot_bench.analysis.audit.audit import audit
from fewshot_bench.analysis.filters import select
from fewshot_bench.analysis.table.build import Options, build
from fewshot_bench.api.record import Record
from fewshot_bench.plugins.reproduce.matching import mixture
from fewshot_bench.utils.errors import UsageError
from tests.support.compare_records import make

OLD, NEW = "1" * 64, "2" * 64


def coded(digest: str | None, record: Record) -> Record:
    """The record with the code digest `digest`."""
    said = {} if digest is None else {"code": {"digest": digest}}
    return dataclasses.replace(record, environment=said)


MIXED = [coded(OLD, make(seed=1)), coded(NEW, make(seed=2))]


@pytest.mark.parametrize("second", [NEW, None])
def test_two_digests_of_one_method_are_refused(second: str | None) -> None:
    records = [MIXED[0], coded(second, make(seed=2))]
    with pytest.raises(UsageError, match=r"code of 'coop@1'.*fsbench run again.*--code"):
        build(records)
    assert len(build(records, Options(allow_mixed=True)).rows) == 2


def test_two_methods_may_have_two_digests() -> None:
    build([coded(OLD, make()), coded(NEW, make("zero-shot"))])


def test_what_failed_has_no_number_to_mix() -> None:
    build([coded(OLD, make()), coded(NEW, make(seed=2, top1=None))])


def test_one_code_is_chosen_and_other_methods_stay() -> None:
    other = coded("3" * 64, make("zero-shot"))
    found = select([*MIXED, other], {"code": OLD[:6]})
    assert found == [MIXED[0], other]
    with pytest.raises(UsageError, match="code"):
        select(MIXED, {"code": "abc"})


def test_audit_names_it() -> None:
    kinds = {finding.kind for finding in audit(MIXED).findings}
    assert "method-code" in kinds
    assert "method-code" not in {finding.kind for finding in audit(MIXED[:1]).findings}


def test_a_published_cell_of_two_codes_is_mixed() -> None:
    assert mixture(MIXED) == ["code"]
    assert not mixture(MIXED[:1])
