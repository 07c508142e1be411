"""Folders of kept models: what is written is read back, and anything else is rejected."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.api.spec import canonical_json
from fewshot_bench.store.kept_models import (
    CONFIG,
    TENSORS,
    ModelConfig,
    read_model,
    verify_config,
    without_path,
    write_model,
)
from fewshot_bench.utils.errors import ContractError, StoreError

MODEL = ModelConfig("gda", "1", "tiny", "abc", ("red", "blue"), ("a photo of a {}.",), {"views": 3})
KEPT = {"weight": torch.arange(6.0).view(2, 3), "beta": torch.tensor(0.1, dtype=torch.float64)}


def test_a_model_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_model(tmp_path / "model", MODEL, KEPT, "# A card")
    config, tensors = read_model(tmp_path / "model")
    assert msgspec.structs.replace(config, tensors="", digest="") == MODEL
    assert tensors.keys() == KEPT.keys()
    assert all(torch.equal(tensors[name], KEPT[name]) for name in KEPT)
    assert (tmp_path / "model" / "README.md").read_text() == "# A card"


def test_transposed_and_shared_tensors_are_kept(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    write_model(tmp_path, MODEL, {"a": base, "b": base.T, "none": torch.empty(0)}, "")
    _, tensors = read_model(tmp_path)
    assert torch.equal(tensors["b"], base.T)
    assert tensors["none"].numel() == 0


def test_values_that_are_not_finite_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="tensor a has values that are not finite"):
        write_model(tmp_path / "model", MODEL, {"a": torch.tensor([float("nan")])}, "")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_changed_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, MODEL, KEPT, "")
    content = bytearray((folder / name).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    with suppress(StoreError):
        config, tensors = read_model(folder)
        # Only whitespace between values, or the letter case of an escape, was changed.
        assert msgspec.structs.replace(config, tensors="", digest="") == MODEL
        assert all(torch.equal(tensors[each], KEPT[each]) for each in KEPT)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("dtd", "dtd"),
        ("folder:/data/photos", "folder:photos"),
        ("wds:train=/data/a.tar;test=~/b.tar", "wds:train=a.tar;test=b.tar"),
    ],
)
def test_a_shared_model_has_no_folders_of_its_author(name: str, shown: str) -> None:
    assert without_path(name) == shown


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0),
        ("temperature", "1"),
        ("temperature", 10**400),
        ("classnames", ["red", "red"]),
        ("classnames", []),
        ("reject", True),
        ("options", []),
        ("image_size", [224]),
        ("data", {"image_digests": "no digits"}),
        ("data", {"image_digests": 1}),
        ("stranger", 1),
    ],
)
def test_values_of_another_kind_are_named(tmp_path: Path, field: str, value: object) -> None:
    write_model(tmp_path, MODEL, KEPT, "")
    plain = json.loads((tmp_path / CONFIG).read_text())
    del plain["digest"]
    plain[field] = value
    plain["digest"] = hashlib.sha256(canonical_json(plain).encode()).hexdigest()
    (tmp_path / CONFIG).write_text(json.dumps(plain))
    with pytest.raises(StoreError, match=f"no config of a model: .*{field}"):
        read_model(tmp_path)


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_file_that_leads_to_a_device_is_not_read(tmp_path: Path, name: str) -> None:
    write_model(tmp_path, MODEL, KEPT, "")
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    for read in (read_model, verify_config):
        with pytest.raises(StoreError, match=f"{name} cannot be read: it is no regular file"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["classnames", "templates"])
def test_lists_of_a_config_have_a_largest_length(tmp_path: Path, name: str) -> None:
    """Millions of classes took half a minute before anything was said."""
    many = msgspec.structs.replace(MODEL, **{name: tuple(map(str, range(100_001)))})
    with pytest.raises(StoreError, match=rf"length <= 100000 - at `\$\.{name}`"):
        write_model(tmp_path, many, KEPT, "")
    assert not list(tmp_path.iterdir())


def test_tensors_that_do_not_fit_into_memory_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, MODEL, KEPT, "")
    monkeypatch.setattr("fewshot_bench.store.kept_models.free_host_memory", lambda: 100)
    with pytest.raises(StoreError, match=r"it has \d+ B, expected at most 100 B of free memory"):
        read_model(tmp_path)


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no model"):
        read_model(tmp_path)
    (tmp_path / CONFIG).write_text("[1]")
    with pytest.raises(StoreError, match="Expected `object`, got `array`"):
        read_model(tmp_path)
    (tmp_path / CONFIG).write_text('{"format": 1, "temperature": NaN}')
    with pytest.raises(StoreError, match="is no config of a model: JSON is malformed"):
        read_model(tmp_path)
    (tmp_path / CONFIG).write_text('{"format": 2}')
    with pytest.raises(StoreError, match="has format 2, this version reads 1"):
        read_model(tmp_path)
    write_model(tmp_path, MODEL, KEPT, "")
    (tmp_path / TENSORS).unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        read_model(tmp_path)
