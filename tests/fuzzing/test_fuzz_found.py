"""Findings of fuzzing, each as a test of its own."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fewshot_bench import DataMissingError, DatasetCard, Item, UsageError
from fewshot_bench.api.dataset import RemoteFile
from fewshot_bench.api.record import Record
from fewshot_bench.api.registry import registry
from fewshot_bench.api.spec import RunSpec
from fewshot_bench.backbones import loading
from fewshot_bench.images.decode import ImageFiles
from fewshot_bench.plugins.data.download import Download, source_of
from fewshot_bench.plugins.data.extract import DamagedError, unpack
from fewshot_bench.store.answer_files import read
from fewshot_bench.store.store import Store
from fewshot_bench.utils.errors import FsbenchError, StoreError
from tests.fuzzing.hostile import DEEP
from tests.support.answers import put_answers
from tests.support.compare_records import make
from tests.support.helpers import fsbench
from tests.support.own_sets import picture
from tests.support.preparing import zipped


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
    with pytest.raises(StoreError, match=f"record has {key}"):
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


@pytest.mark.parametrize(
    "arrays",
    [
        {"statistics": np.float32(1.0)},
        {"statistics": np.zeros(2, np.float32)},
        {"names": np.array([["a", "b"]])},
        {"names": np.frombuffer(b"{", np.uint8)},
        {"classes": np.zeros(2, np.int32)},
        {"high": np.zeros((2, 2), np.uint16)},
        {"low": np.array([[None, 1], [2, 3]], dtype=object)},
    ],
)
def test_logits_of_other_shapes_are_damaged(tmp_path: Path, arrays: dict[str, Any]) -> None:
    store = Store(tmp_path)
    record = put_answers(store, make(), [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    (path,) = tmp_path.glob("records/*/*.npz")
    np.savez_compressed(path, **read(path)[0] | arrays)
    with pytest.raises(StoreError, match="are damaged"):
        store.answers(record.spec.key())


def test_a_header_that_claims_more_than_there_is_allocates_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = put_answers(store, make(), [[0.5, 0.5], [1.0, 0.0]], [0, 1], ["a", "b"])
    (path,) = tmp_path.glob("records/*/*.npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    huge = members["high.npy"].replace(b"(2, 2), }" + b" " * 10, b"(2000000000, 2), }" + b" ")
    assert len(huge) == len(members["high.npy"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"high.npy": huge}).items():
            archive.writestr(name, content)
    with pytest.raises(StoreError, match="says that it has"):
        store.answers(record.spec.key())


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
    download = Download(RemoteFile("x.zip", "x"), tmp_path / "x.zip", print)
    for path in (download.note, tmp_path / "x.zip.source.json"):
        path.write_text(DEEP)
    assert download.origin() is None
    assert source_of(tmp_path / "x.zip") == ""


def test_a_parquet_file_with_names_that_are_no_text(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"path": f"{n}.png", "class": "catcatcat"} for n in range(3)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "m.parquet", compression="none")
    data = (tmp_path / "m.parquet").read_bytes()
    (tmp_path / "m.parquet").write_bytes(data.replace(b"catcatcat", b"cat\xffatcat"))
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        registry().dataset(f"manifest:{tmp_path / 'm.parquet'}").items()


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


def test_a_config_whose_numbers_fit_nothing(tmp_path: Path) -> None:
    """A failure at the first use of a model is also reported as an error of the backbone."""
    config = json.loads(json.dumps(CONFIG)) | {"preprocess_cfg": {"size": -1}}
    config["model_cfg"]["vision_cfg"]["image_size"] = -8
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").write_bytes(save({"a": torch.zeros(300)}))
    with pytest.raises(DataMissingError, match="cannot be loaded"):
        loading.load(f"local-dir:{tmp_path}")


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
    """Pillow raises IndexError for a color profile without its compression method."""
    body = b"iCCPx\0"
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    good = picture(1)
    ImageFiles(OneImage(good), [ITEM]).decode(0)
    end = good.index(b"IEND") - 4
    content = good[:end] + chunk + good[end:]
    with pytest.raises(DataMissingError, match="does not decode: IndexError"):
        ImageFiles(OneImage(content), [ITEM]).decode(0)
