"""People's own data from the command line to records: every family, and the three options."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fewshot_bench.store import Store
from tests.helpers import fsbench, image_folder
from tests.own_sets import hub_or_skip, picture, samples, write_shard

QUICK = ("-m", "zero-shot", "--shots", 1, "--seeds", 1, "--limit", 4, "--backbone", "tiny")


def manifest(root: Path) -> Path:
    """A table of the images of two classes."""
    lines = ["path,label"]
    for number in range(10):
        (root / f"{number}.png").write_bytes(picture(number))
        lines.append(f"{number}.png,{('cat', 'dog')[number % 2]}")
    path = root / "list.csv"
    path.write_text("\n".join(lines))
    return path


def shards(root: Path) -> Path:
    """A folder as clip-benchmark exports it."""
    write_shard(root / "train" / "0.tar", samples(10))
    write_shard(root / "test" / "0.tar", samples(4, 20))
    (root / "classnames.txt").write_text("cat\ndog\n")
    return root


def saved(root: Path) -> Path:
    """A folder that `save_to_disk` wrote."""
    hub = hub_or_skip()
    hub.disable_progress_bars()
    cells = {
        "image": [{"bytes": picture(number), "path": None} for number in range(10)],
        "label": [number % 2 for number in range(10)],
    }
    kinds = {"image": hub.Image(), "label": hub.ClassLabel(names=["cat", "dog"])}
    hub.Dataset.from_dict(cells, features=hub.Features(kinds)).save_to_disk(root)
    return root


def test_every_family_runs(tmp_path: Path) -> None:
    names = (
        f"folder:{image_folder(tmp_path / 'folder')}",
        f"manifest:{manifest(tmp_path)}",
        f"wds:{shards(tmp_path / 'shards')}",
        f"hf:{saved(tmp_path / 'saved')}",
    )
    store = tmp_path / "store"
    result = fsbench("run", *QUICK, "-d", ",".join(names), "--store", store)
    assert (result.code, result.err) == (0, "")
    assert sorted(record.spec.dataset for record in Store(store).records()) == sorted(names)


def test_the_three_options(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pets", train=6) / "train"
    names, store = tmp_path / "names.txt", tmp_path / "store"
    names.write_text("Katze\nHund\n")
    arguments = ["run", *QUICK, "-d", f"folder:{root}", "--store", store]
    arguments += ["--classnames", names, "--templates", "ein {}", "--holdout", 0.4]
    result = fsbench(*arguments)
    assert (result.code, result.err) == (0, "")
    (record,) = Store(store).records()
    assert record.spec.data == {
        "classnames": ["Katze", "Hund"],
        "templates": ["ein {}"],
        "holdout": 0.4,
    }
    assert record.spec.key() != dataclasses.replace(record.spec, data={}).key()
    assert (root / "fsbench-split-holdout-0.4.json").is_file()
    names.write_text("Katze\n")
    result = fsbench(*arguments)
    assert result.code == 2
    assert "--classnames has 1 names" in result.err
