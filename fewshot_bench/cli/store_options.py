"""Shared by the commands on stores: the option, opening a store, and counts as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fewshot_bench.api.spec import DEFAULT_STORE
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError

if TYPE_CHECKING:
    from fewshot_bench.store.store import Store

_PATH: Any = click.Path(path_type=Path)
FOUND = 1

store_option = click.option(
    "--store",
    "folder",
    type=_PATH,
    default=DEFAULT_STORE,
    show_default=True,
    metavar="DIR",
    help="The store.",
)


def opened(folder: Path) -> Store:
    """A store that is there; UsageError and DataMissingError when it is not."""
    from fewshot_bench.store.store import Store

    store = Store(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"store '{folder}' is not a folder; choose another one with --store DIR")
    if not store.root.is_dir():
        what = "holds no records" if folder.exists() else "does not exist"
        raise DataMissingError(
            f"store '{folder}' {what}; make results with fsbench run, or name another --store"
        )
    return store


def counted(counts: Mapping[str, int], names: Sequence[str], nothing: str) -> str:
    """`3 done, 1 failed`, in the order of `names`, without what there is none of."""
    return ", ".join(f"{counts[name]:,} {name}" for name in names if counts[name]) or nothing


def show(kind: str, path: Path, text: str) -> None:
    """One finding on one line; text from files must not reach the terminal as commands."""
    line = f"{kind}: {path}" + (f": {text}" if text else "")
    click.echo(" ".join("".join(c if c.isprintable() else " " for c in line).split()))


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Hold a store's lock while results that are there already are changed.

    Runs take no lock: they write cells whole.
    """
    from fewshot_bench.utils.locks import exclusive

    def waiting() -> None:
        click.echo("waiting for another merge of this store", err=True)

    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder, "records", waiting))
        except OSError as error:
            raise StoreError(
                f"cannot lock '{folder}': {error}; make the store writable, or copy it to a disk "
                "of this machine"
            ) from None
        yield
