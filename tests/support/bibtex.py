"""Read fields from BibTeX entries."""

from __future__ import annotations

import re


def fields_of(text: str) -> list[dict[str, str]]:
    """A small reader of BibTeX: entries with their type, key and fields."""
    found = []
    for entry in re.findall(r"@(.*?)^}$", text, re.MULTILINE | re.DOTALL):
        head, *lines = entry.strip().splitlines()
        kind, key = re.fullmatch(r"(\w+)\{([\w:+./-]+),", head).groups()
        fields = dict(re.fullmatch(r"  (\w+) = \{(.*)\},", line).groups() for line in lines)
        for value in fields.values():
            depths = [value[:end].count("{") - value[:end].count("}") for end in range(len(value))]
            assert min(depths, default=0) >= 0
            assert value.count("{") == value.count("}")
            assert not re.search(r"(?<!\\)[&%$#_]", value) or value.startswith("http")
        found.append({"kind": kind, "key": key, **fields})
    assert text.count("@") == len(found)
    return found
