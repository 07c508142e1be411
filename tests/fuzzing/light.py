"""Readers that need no torch: records, splits, lists of data sets, configs, archives, plug-ins."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from fewshot_bench.cli import config, own_data
from fewshot_bench.cli.progress import outcome
from fewshot_bench.compare import latex, markdown, terminal, tidy
from fewshot_bench.compare.aggregate import Options, build
from fewshot_bench.data.extract import unpack
from fewshot_bench.data.lock import _read as read_lock
from fewshot_bench.data.members import DamagedError, UnsafeError
from fewshot_bench.data.partial import Origin, Part, source_of
from fewshot_bench.data.verified import passed, recall, remember
from fewshot_bench.dataset import DatasetCard
from fewshot_bench.errors import FsbenchError, UsageError
from fewshot_bench.record import Record
from fewshot_bench.registry import registry
from fewshot_bench.split_files import checks
from fewshot_bench.split_files.coop import load_split
from fewshot_bench.split_files.imported import load_imported
from fewshot_bench.split_files.index import index_text
from fewshot_bench.split_files.lines import lines_text
from fewshot_bench.split_files.mapping import mapped
from fewshot_bench.split_files.model import SplitFile, lists_digest, with_setting
from fewshot_bench.split_files.ours import ours_text
from fewshot_bench.split_files.reading import read_split_file
from fewshot_bench.store import Store
from tests import dataset_trees, own_sets
from tests.compare_records import make
from tests.fuzzing import tables
from tests.fuzzing.subject import Seed, Subject, seeds_in
from tests.helpers import fsbench
from tests.preparing import tar, zipped
from tests.split_trees import write_small

GOOD = make("coop", options={"rank": 2}, overrides={"rank": 2})
PARSED_WITHOUT_RUNNING = ("-m", "zero-shot", "-d", "digits")


def assert_plain(text: str) -> None:
    """That a terminal shows text and does nothing else."""
    bad = {c for c in text if not c.isprintable() and c not in "\n\t"}
    assert not bad, f"control characters {bad} in the output"


def run(*arguments: object) -> bool:
    """A command in this process: it ends with a documented code, and prints plain text."""
    done = fsbench(*arguments)
    assert done.code in (0, 1, 2, 3), done
    assert "Traceback" not in done.err
    assert_plain(done.out + done.err)
    return done.code == 0


# Records and logits.


def _records(folder: Path) -> list[Seed]:
    store = Store(folder)
    store.create()
    store.write(GOOD, [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    store.write(make("zero-shot", shots=4, seed=2), [[0.1, 0.9]], [1], ["c"])
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
    return len(store.logits(file.stem)["logits"]) > 0


def _own_keys(folder: Path) -> list[Seed]:
    """Records that are named as their content wants it, so that they are read."""
    values = make("lora", "dtd", 4, 2, data={"classnames": ["a", "b"]}, limit=5).to_dict()
    values |= {"notes": {"a": 1}, "incidents": [{"kind": "retry", "text": "again"}]}
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


def _compare(folder: Path, file: Path) -> bool:
    store = Store(folder)
    records = list(store.records())
    if not records:
        return False
    for damage in store.damaged:
        assert "\n" not in str(damage.reason)
    for record in records:
        assert_plain(outcome(record))
    for mixed in (False, True):
        options = Options(allow_mixed=mixed, store=str(folder))
        try:
            table = build([*records, GOOD, make("zero-shot")], options)
        except UsageError:
            continue
        json.loads(tidy.render_json(table))
        for module in (terminal, markdown, latex):
            assert_plain(module.render(table))
        assert_plain(tidy.render_csv(table) + tidy.render_json(table))
    return True


# Split files.


def _lists(folder: Path) -> tuple[str, Any]:
    name = write_small(folder)
    return name, registry().dataset(name).items()


def _picks(folder: Path) -> SplitFile:
    name, pools = _lists(folder)
    lists = {"train": (pools["train"][0], pools["train"][2]), "val": pools["val"]}
    digest = lists_digest(lists)
    return SplitFile(folder, "fsbench", lists, name, "r", "coop", 1, 1, digest)


def _splits(folder: Path) -> list[Seed]:
    picks, (_, pools) = _picks(folder), _lists(folder)
    (folder / "in").mkdir(exist_ok=True)
    return [
        Seed("in/ours.json", ours_text(picks).encode(), "json"),
        Seed("in/coop.json", (folder / "split.json").read_bytes(), "json"),
        Seed("in/shot_1-seed_1.json", index_text(picks.lists, pools).encode(), "json"),
        Seed("in/list.jsonl", lines_text(pools).encode(), "jsonl"),
        *(Seed("in/shot_1-seed_2.pkl", _pickled(picks, number), "pickle") for number in (0, 2, 4)),
    ]


def _pickled(file: SplitFile, protocol: int) -> bytes:
    class Datum:
        """As CoOp's caches name it."""

    module = types.ModuleType("fsbench_fuzz_datum")
    Datum.__module__, Datum.__qualname__ = module.__name__, "Datum"
    vars(module)["Datum"] = Datum
    sys.modules[module.__name__] = module
    content: dict[str, list[Any]] = {}
    for role, items in file.lists.items():
        for item in items:
            datum = Datum()
            vars(datum).update(_impath=item.id, _label=item.label, _classname=item.classname)
            content.setdefault(role, []).append(datum)
    data = pickle.dumps(content, protocol)
    del sys.modules[module.__name__]
    return data


def _read_split(folder: Path, file: Path) -> bool:
    split = with_setting(read_split_file(file), None, None)
    for check in (checks.check_digest, checks.check_overlap, checks.check_classes):
        with suppress(FsbenchError):
            check(split)
    name, pools = f"coop:{folder}", load_split(folder / "split.json")
    found = mapped(split, pools, name)
    checks.check_pools(found, pools, name)
    checks.check_positions(split, found, pools, name)
    return True


def _verify_split(folder: Path, file: Path) -> bool:
    return run("splits", "verify", file, "--dataset", f"coop:{folder}")


def _import_split(folder: Path, file: Path) -> bool:
    where = ("--dataset", f"coop:{folder}", "--store", folder / "store")
    return run("splits", "import", file, *where)


def _imported(folder: Path) -> list[Seed]:
    picks = _picks(folder)
    file = folder / "ours.json"
    file.write_text(ours_text(picks))
    arguments = ("--dataset", f"coop:{folder}", "--shots", 1, "--seed", 1, "--store", folder)
    run("splits", "import", file, *arguments)
    return seeds_in(folder, ("splits/*/*.json", "json"))


def _load_imported(folder: Path, file: Path) -> bool:
    pools = load_split(folder / "split.json")
    return bool(load_imported(folder, f"coop:{folder}", 1, 1, pools).train)


# Lists of data sets.

ROWS = [(f"img/{n}.png", n % 2, ("cat", "dog")[n % 2], ("train", "test")[n > 5]) for n in range(8)]
NAMES = ("path", "label", "class", "split")


def _manifests(folder: Path) -> list[Seed]:
    for number, (path, *_) in enumerate(ROWS):
        dataset_trees.put(folder / path, own_sets.picture(number))
    rows = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
    free = [{k: v for k, v in row.items() if k in ("path", "class")} for row in rows]
    tables = {
        f"m{end}": "\n".join(mark.join(map(str, row)) for row in (NAMES, *ROWS))
        for end, mark in ((".csv", ","), (".tsv", "\t"))
    }
    return [
        *(Seed(name, text.encode(), name[-3:]) for name, text in tables.items()),
        Seed("m.json", json.dumps(rows).encode(), "json"),
        Seed("m.jsonl", "\n".join(map(json.dumps, rows)).encode(), "jsonl"),
        Seed("n.jsonl", "\n".join(map(json.dumps, free)).encode(), "jsonl"),
        *_parquet(rows),
    ]


def _parquet(rows: list[dict[str, Any]]) -> list[Seed]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        return []
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    return [Seed("m.parquet", sink.getvalue().to_pybytes())]


def _open(name: str) -> bool:
    dataset = registry().dataset(name)
    pools = dataset.items()
    dataset.card()
    for items in pools.values():
        for item in items[:2]:
            with suppress(OSError):
                dataset.read(item)
    return True


def _open_manifest(folder: Path, file: Path) -> bool:
    return _open(f"manifest:{file}")


def _kept_splits(folder: Path) -> list[Seed]:
    free = next(seed for seed in _manifests(folder) if seed.path == "n.jsonl")
    (folder / free.path).write_bytes(free.content)
    _open(f"manifest:{folder / free.path}")
    return seeds_in(folder, ("*.fsbench-split.json", "json"))


def _open_kept(folder: Path, file: Path) -> bool:
    return _open(f"manifest:{folder / 'n.jsonl'}")


def _coop(folder: Path) -> list[Seed]:
    write_small(folder)
    return seeds_in(folder, ("split.json", "json"))


def _open_coop(folder: Path, file: Path) -> bool:
    return _open(f"coop:{folder}")


def _aircraft(folder: Path) -> list[Seed]:
    dataset_trees.write_aircraft(folder / "fgvc_aircraft")
    return seeds_in(folder, ("fgvc_aircraft/*.txt", "txt"))


def _open_named(name: str) -> Any:
    def read(folder: Path, file: Path) -> bool:
        os.environ["FSBENCH_DATA"] = str(folder)
        return _open(name)

    return read


def _imagenet(folder: Path) -> list[Seed]:
    import tempfile

    with tempfile.TemporaryDirectory(dir=folder.parent) as source:
        dataset_trees.write_imagenet(Path(source), each=2)
        dataset_trees.pack_imagenet(Path(source), folder / "imagenet")
    return seeds_in(folder, ("imagenet/*.tar", "tar"), ("imagenet/*.gz", "tar.gz"))


def _devkit_meta(folder: Path) -> list[Seed]:
    """The class table of the kit alone, packed anew around every change."""
    import io
    import tarfile

    seeds = _imagenet(folder)
    kit = next(seed for seed in seeds if seed.path.endswith(".gz"))
    with tarfile.open(fileobj=io.BytesIO(kit.content)) as archive:
        member = archive.extractfile("ILSVRC2012_devkit_t12/data/meta.mat")
        assert member is not None
        return [Seed("meta.mat", member.read())]


def _read_meta(folder: Path, file: Path) -> bool:
    from fsbench_datasets import imagenet_devkit

    return bool(imagenet_devkit._synsets(file, file.read_bytes()))


def _shards(folder: Path) -> list[Seed]:
    own_sets.write_shard(folder / "set" / "train" / "0.tar", own_sets.samples(4))
    described = ((f"{n}.{end}", content) for n in range(4) for end, content in _described(n))
    own_sets.write_shard(folder / "set" / "test" / "0.tar", described)
    (folder / "set" / "classnames.txt").write_text("cat\nbig dog\n")
    (folder / "set" / "zeroshot_classification_templates.txt").write_text("a {c}.\nart: {c}\n")
    return seeds_in(folder, ("set/*/*.tar", "tar"), ("set/*.txt", "txt"))


def _described(number: int) -> tuple[tuple[str, bytes], ...]:
    label = json.dumps({"label": number % 2, "class": ("cat", "big dog")[number % 2]})
    return ("png", own_sets.picture(number)), ("json", label.encode())


def _open_shards(folder: Path, file: Path) -> bool:
    return _open(f"wds:{folder / 'set'}")


def _kept_index(folder: Path) -> list[Seed]:
    _shards(folder)
    _open_shards(folder, folder)
    return seeds_in(folder, ("cache/tar-index/*.json", "json"))


# Configs and what is said about own data.

YAML = b"""method: [zero-shot, clip-lora]
dataset: digits
shots: [1, 2]
seeds: 1-2
option:
  clip-lora: {rank: [1, 2], lr: 1e-3}
limit: 20
val: none
dry-run: true
"""
TOML = b"""method = ["zero-shot", "clip-lora"]
dataset = "digits"
shots = [1, 2]
seeds = "1-2"
limit = 20
force = false
[option.clip-lora]
rank = [1, 2]
lr = 1e-3
"""


def _configs(folder: Path) -> list[Seed]:
    return [Seed("run.yaml", YAML, "yaml"), Seed("run.toml", TOML, "toml")]


def _read_config(folder: Path, file: Path) -> bool:
    from fewshot_bench.cli.run import command

    config.as_defaults(config.read_config(file), command, file)
    command.make_context("run", ["--config", str(file), *PARSED_WITHOUT_RUNNING])
    return True


def _own(folder: Path) -> list[Seed]:
    return [
        Seed("names.txt", b"cat\nbig dog\n\xc3\xa9t\xc3\xa9\n", "txt"),
        Seed("names.json", b'{"cat": "big cat", "dog": "small dog"}', "json"),
        Seed("list.json", b'["cat", "dog"]', "json"),
        Seed("names.yaml", b"cat: big cat\n'no': small dog\n1e-3: x\n", "yaml"),
        Seed("list.yml", b"- cat\n- dog\n- 'yes'\n", "yaml"),
        Seed("prompts", b"a photo of a {}.\nart of {}\n", "txt"),
    ]


def _read_own(folder: Path, file: Path) -> bool:
    if file.name == "prompts":
        return bool(own_data.read_own_data(None, (str(file),), None))
    return bool(own_data.read_own_data(file, (), None))


def _saved_configs(folder: Path) -> list[Seed]:
    options = {"method": "a,b", "option": ["x=1", "é={}"], "limit": 3, "force": True, "val": "no"}
    return [Seed("options.json", json.dumps(options).encode(), "json")]


def _round_trip(folder: Path, file: Path) -> bool:
    """What --save-config writes, --config reads back."""
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    if not isinstance(values, dict):
        return False
    plain = {k: v for k, v in values.items() if k in ("method", "option", "limit", "force", "val")}
    kept = {k: v for k, v in plain.items() if _is_option(v)}
    for name in ("saved.yaml", "saved.toml"):
        config.save_config(folder / name, kept)
        found = config.read_config(folder / name)
        assert _as_text(found) == _as_text(kept), name
    return True


def _is_option(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(part, str) for part in value)
    return isinstance(value, str | bool | int) or (isinstance(value, float) and abs(value) < 1e15)


def _as_text(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: list(map(str, value)) if isinstance(value, list) else str(value).lower()
        for name, value in values.items()
    }


# Archives and what stands beside downloads.


def _archives(folder: Path) -> list[Seed]:
    tree = {"wares/a/1.jpg": b"x" * 700, "wares/b/2.jpg": b"y" * 80, "wares/list.txt": b"1\n2\n"}
    return [
        Seed("a.zip", zipped(tree), "zip"),
        Seed("a.tar", tar(tree, "w"), "tar"),
        Seed("a.tar.gz", tar(tree, "w:gz"), "tar.gz"),
        Seed("a.tar.xz", tar(tree, "w:xz")),
        Seed("a.tar.bz2", tar(tree, "w:bz2")),
        Seed("b.zip", zipped({"wares/inner.tar": tar(tree, "w")}), "zip"),
    ]


def _unpack(folder: Path, file: Path) -> bool:
    inner = ("wares/inner.tar",) if file.name == "b.zip" else ()
    return unpack(file, folder / "target" / "wares", strip="wares", inner=inner) > 0


def _notes(folder: Path) -> list[Seed]:
    part = Part.of(folder / "file.zip")
    part.start(Origin("http://x/file.zip", '"tag"', "today", 9))
    part.bytes.write_bytes(b"12345")
    about = part.about.read_bytes()
    (folder / "done.zip.source.json").write_bytes(about)
    lock = {"pid": 1, "machine": "m", "started": 0.5, "token": "t"}
    (folder / ".lock").write_text(json.dumps(lock))
    remember(passed("set", DatasetCard("set", "Set", ("a",), folder=str(folder)), 3, ("x",)))
    return seeds_in(
        folder, ("*.json", "json"), (".lock", "json"), ("cache/verified/*.json", "json")
    )


def _read_notes(folder: Path, file: Path) -> bool:
    origin, source = Part.of(folder / "file.zip").origin(), source_of(folder / "done.zip")
    found = recall("set", DatasetCard("set", "Set", ("a",), folder=str(folder)))
    if found is not None:
        assert isinstance(found.day, str)
    return None not in (origin, read_lock(folder / ".lock"), found) and bool(source)


# Plug-ins.

POINTS = b"""[fewshot_bench]
one = fsbench_fuzz_plugin
two = fsbench_fuzz_plugin:Nothing

[console_scripts]
x = a:b
"""
METADATA = b"Metadata-Version: 2.1\nName: fsbench-fuzz\nVersion: 1.0\nSummary: x\n\nText\n"


def _plugins(folder: Path) -> list[Seed]:
    info = folder / "fsbench_fuzz-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "fsbench_fuzz_plugin.py").write_text("x = 1\n")
    return [
        Seed(f"{info.name}/entry_points.txt", POINTS, "ini"),
        Seed(f"{info.name}/METADATA", METADATA, "txt"),
    ]


def _list_plugins(folder: Path, file: Path) -> bool:
    """Only the changed distribution is found; its module is no plug-in, and is let alone."""
    for seed in _plugin_files(folder):
        if not (folder / seed.path).exists():
            (folder / seed.path).write_bytes(seed.content)
    before, sys.path[:] = list(sys.path), [str(folder)]
    registry.cache_clear()
    try:
        return run("list", "plugins")
    finally:
        sys.path[:] = before
        sys.modules.pop("fsbench_fuzz_plugin", None)
        registry.cache_clear()


def _plugin_files(folder: Path) -> list[Seed]:
    name = "fsbench_fuzz-1.0.dist-info"
    return [Seed(f"{name}/entry_points.txt", POINTS), Seed(f"{name}/METADATA", METADATA)]


REFUSED = (DamagedError, UnsafeError)
SUBJECTS = (
    Subject("records", 12, _records, _read_record),
    Subject("records with their own key", 12, _own_keys, _compare),
    Subject("logits", 10, _logits, _read_logits),
    Subject("split files", 14, _splits, _read_split),
    Subject("splits verify", 1, _splits, _verify_split),
    Subject("splits import", 1, _splits, _import_split),
    Subject("imported splits", 4, _imported, _load_imported),
    Subject("manifests", 8, _manifests, _open_manifest),
    Subject("kept splits", 3, _kept_splits, _open_kept),
    Subject("folders with a split file", 4, _coop, _open_coop),
    Subject("aircraft lists", 4, _aircraft, _open_named("fgvc_aircraft")),
    Subject("imagenet archives", 2, _imagenet, _open_named("imagenet")),
    Subject("imagenet class table", 3, _devkit_meta, _read_meta),
    Subject("webdataset shards", 5, _shards, _open_shards),
    Subject("kept index", 3, _kept_index, _open_shards),
    Subject("configs", 6, _configs, _read_config, (click.ClickException,)),
    Subject("class names and prompts", 5, _own, _read_own),
    Subject("saved configs", 2, _saved_configs, _round_trip),
    Subject("archives", 8, _archives, _unpack, REFUSED),
    Subject("notes of downloads", 3, _notes, _read_notes),
    Subject("plug-in metadata", 1, _plugins, _list_plugins),
    *tables.SUBJECTS,
)
