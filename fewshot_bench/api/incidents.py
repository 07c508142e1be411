"""What the harness had to do, or to undo, on the way to a result; it stands in the record."""

from __future__ import annotations

from collections.abc import Iterator


class Incidents:
    """Incidents in the order in which they came; an equal one is kept once."""

    def __init__(self) -> None:
        self._found: list[dict[str, str]] = []

    def add(self, kind: str, text: str) -> None:
        """Keep one. kind: one word that a program can look for; text: a line for people."""
        incident = {"kind": kind, "text": text}
        if incident not in self._found:
            self._found.append(incident)

    def __iter__(self) -> Iterator[dict[str, str]]:
        return iter(dict(incident) for incident in self._found)

    def __len__(self) -> int:
        return len(self._found)

    def copy(self) -> Incidents:
        """The same incidents, to go on from."""
        other = Incidents()
        other._found = [dict(incident) for incident in self._found]
        return other
