"""Packed values: what is read of a text equals the value that was packed, and its entries."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.api.record import entry
from fewshot_bench.store.frames import Frames

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    # Parts of what ends a line with a number.
    | st.text(' -0159.e:,\n\\"', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=2), inner)
        | st.dictionaries(st.sampled_from("abcd"), inner)
    ),
    max_leaves=8,
)


def test_an_absent_part_is_null_however_often_it_is_packed() -> None:
    frames = Frames()
    assert [frames.pack(b"null") for _ in range(3)] == ["null"] * 3
    assert frames.unpack("null") is None


@given(st.lists(st.dictionaries(st.sampled_from("abcd"), JSON), min_size=1, max_size=5))
def test_an_entry_is_that_of_the_whole(values: list[dict[str, Any]]) -> None:
    frames = Frames()
    # Frames are used for text that occurs more than once.
    for value in values * 3:
        text = frames.pack(json.dumps(value, indent=1).encode())
        assert repr(frames.unpack(text)) == repr(value)
        for name in "abcde":
            assert repr(frames.reader((name,))(text)) == repr((value.get(name),))
        # Values inside objects, and the default for absent ones.
        names = tuple(f"{one}.{other}" for one in "abe" for other in "abcde")
        expected = tuple(entry(value, name, "absent") for name in names)
        assert repr(frames.reader(names, "absent")(text)) == repr(expected)
