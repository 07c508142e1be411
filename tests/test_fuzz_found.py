"""What fuzzing found, each as a test of its own."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fsbench_datasets.mat_file import read_records
from safetensors.torch import save

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fewshot_bench.backbones import loading
from fewshot_bench.cache_entries import entries
from fewshot_bench.cache_folder import IMAGES, CacheFile
from fewshot_bench.data.extract import unpack
from fewshot_bench.data.lock import _read
from fewshot_bench.data.members import DamagedError
from fewshot_bench.data.partial import Part, source_of
from fewshot_bench.errors import FsbenchError, StoreError
from fewshot_bench.feature_rows import tensors_digest
from fewshot_bench.feature_store import FeatureStore
from fewshot_bench.image_files import ImageFiles
from fewshot_bench.image_segments import open_segment
from fewshot_bench.record import Record
from fewshot_bench.registry import registry
from fewshot_bench.segment_format import pack_description
from fewshot_bench.spec import RunSpec
from fewshot_bench.store import Store
from tests.compare_records import make
from tests.helpers import fsbench
from tests.own_sets import picture
from tests.preparing import zipped

DEEP = "[" * 30_000 + "]" * 30_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shots", "1"),
        ("shots", True),
        ("split_seed", None),
        ("method", 3),
        ("limit", "5"),
        ("options", []),
        ("classes", "half"),
        ("target", {}),
        ("shots", -1),
        ("train_seed", 10**30),
        ("limit", 0),
        ("dataset", ""),
        ("overrides", {"": 1}),
        ("val", "x|y:z"),
        ("prompts", "other"),
        ("precision", "fp8"),
        ("protocol", "\ud800"),
        ("data", {"templates": "a {}"}),
        ("data", {"templates": [["a {}"]]}),
        ("data", {"holdout": "x|y"}),
        ("data", {"holdout": 1.5}),
    ],
)
def test_a_specification_of_other_kinds_is_refused(name: str, value: Any) -> None:
    values = make().spec.to_dict() | {name: value}
    with pytest.raises(StoreError, match=f"spec has {name}"):
        RunSpec.from_dict(values)


@pytest.mark.parametrize(
    ("key", "value"),
    [("error", "text"), ("notes", [1]), ("incidents", ["x"]), ("split", {"verified": []})],
)
def test_a_record_of_other_kinds_is_refused(key: str, value: Any) -> None:
    with pytest.raises(StoreError, match=f"record's {key}"):
        Record.from_dict(make().to_dict() | {key: value})


def test_errors_are_one_printable_line() -> None:
    text = str(FsbenchError("a\nb\x1b[2J\u202e\ud800" + "x" * 10_000))
    assert text.isprintable()
    assert text.startswith("a b\ufffd[2J\ufffd\ufffdxx")
    assert len(text) < 4000


@pytest.mark.parametrize("name", ["run.yaml", "run.toml"])
@pytest.mark.parametrize("text", [DEEP, "9" * 5000])
def test_configs_that_are_too_deep_or_too_large(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(f"shots{' =' if name.endswith('toml') else ':'} {text}\n")
    result = fsbench("run", "--config", tmp_path / name, "-m", "zero-shot", "-d", "digits")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("error: ")


@pytest.mark.parametrize("text", ["1-1000000000000", "1-" + "9" * 5000, "9" * 5000])
def test_ranges_that_nobody_means(text: str) -> None:
    result = fsbench("run", "-m", "zero-shot", "-d", "digits", "--seeds", text)
    assert result.code == 2
    assert "expected at most 100,000 numbers" in result.err or "at most 18 digits" in result.err


def test_a_deep_class_name_file(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text(DEEP)
    options = ("--classnames", tmp_path / "names.yaml")
    result = fsbench("run", "-m", "zero-shot", "-d", "digits", *options)
    assert (result.code, "nested too deep" in result.err) == (2, True)


def test_a_zip_that_points_before_its_start(tmp_path: Path) -> None:
    content = bytearray(zipped({"a/b.jpg": b"x" * 50}))
    end = content.rindex(b"PK\x05\x06")
    (size,) = struct.unpack_from("<I", content, end + 12)
    struct.pack_into("<I", content, end + 12, size)
    struct.pack_into("<I", content, end + 16, 2**31)
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DamagedError):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_notes_that_are_nested_deep(tmp_path: Path) -> None:
    part = Part.of(tmp_path / "x.zip")
    for path in (part.about, tmp_path / "x.zip.source.json", tmp_path / ".lock"):
        path.write_text(DEEP)
    assert part.origin() is None
    assert source_of(tmp_path / "x.zip") == ""
    assert _read(tmp_path / ".lock") is None


@pytest.mark.parametrize("name", ["entry_points.txt", "METADATA"])
@pytest.mark.parametrize("content", [b"\xff\xfe[fewshot_bench]\n", b"[fewshot_bench]\nx\n"])
def test_a_damaged_distribution_takes_no_other_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_bytes(b"Metadata-Version: 2.1\nName: evil\nVersion: 1\n")
    (info / "entry_points.txt").write_bytes(b"[fewshot_bench]\nx = no_such_module_\n")
    (info / name).write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    try:
        result = fsbench("list", "plugins")
        assert result.code == 0
        assert "builtin_methods" in result.out
        assert "FAILED" in result.out
        assert "Traceback" not in result.err
        assert "coop" in registry().methods.entries
    finally:
        registry.cache_clear()


def test_plugin_names_do_not_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\x1b[2J\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fewshot_bench]\n\x1b]0;x\x07 = no_such_module_\x1b\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.cache_clear()
    try:
        for kind in ("plugins", "methods", "datasets"):
            result = fsbench("list", kind)
            assert "\x1b" not in result.out + result.err
            assert "\x07" not in result.out + result.err
    finally:
        registry.cache_clear()


def pixels(**changes: Any) -> bytes:
    """A file of two decoded images whose head says something else."""
    head = {"shape": [2, 3, 4, 4], "chunk": 9, "checks": [0], "wall": 1.0, "cpu": 1.0}
    head |= {"transform": "t", "dataset": "set"}
    return bytes(96) + pack_description(head | changes, [b"0" * 32, b"1" * 32])


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": 3},
        {"shape": ["2", 3, 4, 4]},
        {"shape": [0, 3, 4, 4]},
        {"shape": [-2, -3, 4, 4]},
        {"shape": [1, 6, 4, 4]},
        {"chunk": 0},
        {"checks": []},
        {"checks": ["0"]},
        {"wall": []},
        {"wall": float("nan")},
        {"cpu": 10**400},
        {"transform": None},
    ],
)
def test_pixels_that_describe_themselves_otherwise(tmp_path: Path, changes: Any) -> None:
    path = tmp_path / "x.pixels"
    path.write_bytes(pixels())
    assert open_segment(path, "t", (3, 4, 4)) is not None
    path.write_bytes(pixels(**changes))
    assert open_segment(path, "t", (3, 4, 4)) is None
    (entry,) = entries([CacheFile(path, IMAGES, 1, 0.0)])
    assert entry.images is None or "transform" in changes


def test_features_of_another_shape_are_not_used(tmp_path: Path) -> None:
    """The same bytes under another shape, or a cost that is no number, are a damaged file."""
    features = torch.arange(12.0).view(4, 3)
    assert tensors_digest(features) != tensors_digest(features.view(3, 4))
    from fewshot_bench.meter import Meter

    asked: list[int] = []

    def compute() -> torch.Tensor:
        asked.append(1)
        return features

    for change in ({}, {"cost": "3"}, {"cost": '{"wall": "x"}'}, {"cost": DEEP}):
        for path in tmp_path.rglob("*.safetensors"):
            meta = {"key": path.stem, "sha256": tensors_digest(features), "dataset": ""}
            path.write_bytes(save({"features": features}, meta | change))
        meter = Meter(torch.device("cpu"))
        with meter.phase("encode_support"):
            FeatureStore(tmp_path).get({"a": 1}, compute, meter)
    assert len(asked) == 4


def matlab(**options: Any) -> bytes:
    """A file as scipy writes it."""
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", object), ("words", object)]
    rows = [(number, f"n{number:08d}", "ä word") for number in range(1, 8)]
    out = io.BytesIO()
    savemat(out, {"other": 1, "synsets": np.array(rows, dtype=kinds).reshape(-1, 1)}, **options)
    return out.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files(compressed: bool) -> None:
    """The same as scipy's reader, which ends the process on some damaged files."""
    content = matlab(do_compression=compressed)
    found = read_records(content, "synsets", ("ILSVRC2012_ID", "WNID"), 10**6)
    assert found == [(number, f"n{number:08d}") for number in range(1, 8)]
    with pytest.raises(ValueError, match="no 'nothing'"):
        read_records(content, "nothing", (), 10**6)
    with pytest.raises(ValueError, match="have the fields"):
        read_records(content, "synsets", ("no",), 10**6)
    if compressed:
        with pytest.raises(ValueError, match="expands to more"):
            read_records(content, "synsets", ("WNID",), 100)
    for end in range(0, len(content), 7):
        try:
            read_records(content[:end], "synsets", ("WNID",), 10**6)
        except ValueError:
            continue
        pytest.fail(f"cut at {end}")


CONFIG = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1},
        "text_cfg": {"width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {},
}


@pytest.mark.parametrize(
    ("part", "changes", "match"),
    [
        ("text_cfg", {"tokenizer_kwargs": {"trust_remote_code": True}}, "never done"),
        ("text_cfg", {"width": 10**9}, "width is 1000000000"),
        ("text_cfg", {"layers": 10**6}, "layers is 1000000"),
        ("vision_cfg", {"image_size": float("inf")}, "image_size is inf"),
        ("text_cfg", {"width": 60_000}, "of a model of more than"),
    ],
)
def test_configs_of_backbones(
    tmp_path: Path, part: str, changes: dict[str, Any], match: str
) -> None:
    config = json.loads(json.dumps(CONFIG))
    config["model_cfg"][part] |= changes
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(save({"a": torch.zeros(3)}))
    with pytest.raises(UsageError, match=match):
        loading.load(f"local-dir:{tmp_path}")


@pytest.mark.parametrize("text", ["", DEEP, "[]", '{"model_cfg": 3}', '{"preprocess_cfg": []}'])
def test_configs_that_are_no_configs(tmp_path: Path, text: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(text)
    (tmp_path / "w.safetensors").write_bytes(save({"a": torch.zeros(3)}))
    for name in (f"local-dir:{tmp_path}", f"ViT-B-32@{tmp_path / 'w.safetensors'}"):
        with pytest.raises(DataMissingError, match="backbone config"):
            loading.load(name)


@pytest.mark.parametrize(
    "arrays",
    [
        {"logits": np.float32(1.0)},
        {"logits": np.zeros(2, np.float32)},
        {"labels": np.zeros(3, np.int64)},
        {"labels": np.zeros(2, np.float32)},
        {"ids": np.array([b"a", b"b"])},
        {"logits": np.array([[None, 1], [2, 3]], dtype=object)},
    ],
)
def test_logits_of_other_shapes_are_damaged(tmp_path: Path, arrays: dict[str, Any]) -> None:
    store = Store(tmp_path)
    record = store.write(make(), [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    (path,) = tmp_path.glob("records/*/*.npz")
    good = store.logits(record.spec.key())
    np.savez_compressed(path, **good | arrays)
    with pytest.raises(StoreError, match="are damaged"):
        store.logits(record.spec.key())


def test_a_header_that_claims_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = store.write(make(), [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    (path,) = tmp_path.glob("records/*/*.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    huge = members["logits.npy"].replace(b"(2, 2), }" + b" " * 10, b"(2000000000, 2), }" + b" ")
    assert len(huge) == len(members["logits.npy"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"logits.npy": huge}).items():
            archive.writestr(name, content)
    with pytest.raises(StoreError, match="says that it has"):
        store.logits(record.spec.key())


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30)])
def test_paths_that_are_too_long(tmp_path: Path, name: str) -> None:
    for family in ("manifest", "coop", "folder", "wds", "hf"):
        result = fsbench("show", f"{family}:{name}")
        assert result.code in (0, 2, 3), result
        assert "Traceback" not in result.err
    (tmp_path / "images").mkdir()
    split = {role: [[f"{name}{role}.jpg", 0, "cat"]] for role in ("train", "val", "test")}
    (tmp_path / "split.json").write_text(json.dumps(split))
    with pytest.raises(DataMissingError):
        registry().dataset(f"coop:{tmp_path}").items()


class OneImage:
    """A data set of one image."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def card(self) -> DatasetCard:
        return DatasetCard("one", "One", ("cat",))

    def items(self) -> dict[str, tuple[Item, ...]]:
        return {"train": (ITEM,), "val": (), "test": ()}

    def read(self, item: Item) -> bytes:
        return self.content


ITEM = Item("a.png", 0, "cat")


def test_images_that_pillow_fails_at_in_its_own_ways() -> None:
    """A color profile without its method is an IndexError in Pillow."""
    body = b"iCCPx\0"
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    good = picture(1)
    ImageFiles(OneImage(good), [ITEM]).decode(0)
    end = good.index(b"IEND") - 4
    content = good[:end] + chunk + good[end:]
    with pytest.raises(DataMissingError, match="does not decode: IndexError"):
        ImageFiles(OneImage(content), [ITEM]).decode(0)


def test_a_config_whose_numbers_fit_nothing(tmp_path: Path) -> None:
    """What only fails when the model is used is an error of the backbone as well."""
    config = json.loads(json.dumps(CONFIG)) | {"preprocess_cfg": {"size": -1}}
    config["model_cfg"]["vision_cfg"]["image_size"] = -8
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        loading.load(f"local-dir:{tmp_path}")


def test_a_parquet_file_with_names_that_are_no_text(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"path": f"{n}.png", "class": "catcatcat"} for n in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet", compression="none")
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data.replace(b"catcatcat", b"cat\xffatcat"))
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        registry().dataset(f"manifest:{tmp_path / 'm.parquet'}").items()
