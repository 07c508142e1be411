"""Violations that a record states: answers that do not keep to the card of their method."""

from __future__ import annotations

from collections.abc import Mapping

DEPENDENT = "depends on other queries"
UNSTEADY = "other answers to the same question"
STATE_KEPT = "keeps state between answers"
HIDDEN_VIEWS = "undeclared views"
POSITION = "depends on the order of a batch"
LEAK = "depends on other batches"
NEEDS_MANY = "fails on small batches"
LOOKS_AHEAD = "looks ahead in a stream"
TEXTS_UNUSED = "ignores its texts"
# Each is the mark of tables, with the note below them.
VIOLATIONS: Mapping[str, str] = {
    DEPENDENT: "asked again for some queries, in another order and alone, it gave other logits; a "
    "user who has one image gets other answers",
    UNSTEADY: "asked the same again, it gave other logits: it draws from a global generator",
    STATE_KEPT: "what it was asked before, or an unseeded generator of its own, changed its logits",
    HIDDEN_VIEWS: "it encodes more images per query than its card declares",
    POSITION: "with a batch in another order, its queries got other logits",
    LEAK: "a batch got other logits after another one",
    NEEDS_MANY: "it has no answer for few queries, those of one class, or equal ones",
    LOOKS_AHEAD: "with others behind it, the beginning of a stream got other logits",
    TEXTS_UNUSED: "with the texts of two classes exchanged, its logits stayed as they were",
}
