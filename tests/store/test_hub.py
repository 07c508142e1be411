"""Models on a hub: pushed models load by commit, and errors are one line."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fewshot_bench.store.hub import hub_name, model_folder, push
from fewshot_bench.store.kept_models import (
    CARD,
    CONFIG,
    EXTRAS,
    TENSORS,
    ModelConfig,
    read_model,
    write_model,
)
from fewshot_bench.utils.errors import DataMissingError, StoreError, UsageError
from tests.support.hub_server import Hub, hub_running

constants = pytest.importorskip("huggingface_hub.constants")
MODEL = ModelConfig("gda", "1", "tiny", "abc", ("red", "blue"), ("a photo of a {}.",), {"views": 3})
NAME = "hub:user/flowers"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_running() as running:
        for name, value in running.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        template = f"{running.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        # Before version 1.0, the module that uses the address holds a copy of it.
        for module in (constants, importlib.import_module("huggingface_hub.file_download")):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        with_new_sessions()
        yield running
    with_new_sessions()


def with_new_sessions() -> None:
    """Drop connections made in another mode (offline), if the package's version keeps them."""
    from huggingface_hub import utils

    for name in ("reset_sessions", "close_session"):
        getattr(utils, name, lambda: None)()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", MODEL, {"weight": torch.arange(6.0)}, "---\n---\n# Flowers\n")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_was_pushed_is_loaded_by_its_commit(hub: Hub, folder: Path) -> None:
    pushed = push(folder, NAME)
    said: list[str] = []
    found = model_folder(NAME, said.append)
    assert contents(found) == contents(folder)
    assert said == [f"{NAME} is at commit {pushed.revision}; {pushed} names it for good"]
    assert found.name == pushed.revision == hub.repositories["user/flowers"].branches["main"]


def test_a_pinned_model_is_asked_for_once(hub: Hub, folder: Path) -> None:
    pushed = push(folder, NAME)
    newer = ModelConfig("gda", "1", "tiny", "abc", ("red", "blue"), ("{}",))
    write_model(folder, newer, {"weight": torch.zeros(2)}, "# Flowers\n")
    assert push(folder, NAME) != pushed
    said: list[str] = []
    first = model_folder(str(pushed), said.append)
    hub.requests.clear()
    assert model_folder(str(pushed), said.append) == first
    assert read_model(first)[0].templates == MODEL.templates
    assert said == hub.requests == []


def test_only_the_files_of_the_format_come_over(hub: Hub, folder: Path) -> None:
    push(folder, NAME)
    hub.repositories["user/flowers"].commit("main", {"modeling.py": b"raise SystemExit"})
    found = model_folder(NAME, print)
    assert sorted(contents(found)) == sorted((CONFIG, TENSORS, CARD))
    assert not any("modeling" in path for _, path in hub.requests)


def test_training_images_stay_here(hub: Hub, folder: Path) -> None:
    write_model(
        folder, MODEL, {"weight": torch.zeros(2)}, "# Flowers\n", dict.fromkeys(EXTRAS, b"pictures")
    )
    assert all((folder / name).exists() for name in EXTRAS)
    push(folder, NAME)
    found = model_folder(NAME, print)
    assert sorted(contents(found)) == sorted((CONFIG, TENSORS, CARD))
    files = hub.repositories["user/flowers"].commits.values()
    assert not any(b"pictures" in content for commit in files for content in commit.values())


def test_a_branch_is_made_and_loaded(hub: Hub, folder: Path) -> None:
    push(folder, NAME, branch="trial/2")
    pushed = push(folder, NAME, branch="trial/2")
    assert model_folder(f"{NAME}@trial/2", print).name == pushed.revision
    with pytest.raises(DataMissingError, match="holds no model: one of its files is not there"):
        model_folder(f"{NAME}@main", print)


def test_a_private_model_stays_private(hub: Hub, folder: Path) -> None:
    push(folder, NAME, private=True)
    assert hub.repositories["user/flowers"].private
    push(folder, "hub:user/open")
    before = dict(hub.repositories["user/open"].commits)
    with pytest.raises(UsageError, match="hub:user/open is there and public"):
        push(folder, "hub:user/open", private=True)
    assert hub.repositories["user/open"].commits == before


@pytest.mark.parametrize("name", [CONFIG, TENSORS])
def test_a_tampered_file_is_noticed(hub: Hub, folder: Path, name: str) -> None:
    push(folder, NAME)
    content = bytearray((folder / name).read_bytes())
    content[-10] ^= 1
    hub.repositories["user/flowers"].commit("main", {name: bytes(content)})
    with pytest.raises(
        StoreError, match=rf"^{NAME}@\w+ is damaged .*{name} is.*remove .*--flowers$"
    ):
        model_folder(NAME, print)


def test_a_commit_that_leads_elsewhere_is_refused(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, NAME)
    repository = hub.repositories["user/flowers"]
    repository.commits["../../outside"] = repository.commits[repository.branches["main"]]
    repository.branches["main"] = "../../outside"
    with pytest.raises(StoreError, match="names no commit of it"):
        model_folder(NAME, print)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("hub:user/none", "hub:user/none: no such model, or it is private: check it, or log in"),
        (f"{NAME}@v9", f"{NAME}@v9: no such revision; name a branch, a tag or a commit"),
        (f"{NAME}@{'0' * 40}", f"{NAME}@{'0' * 40}: no such revision"),
    ],
)
def test_what_is_not_there_is_one_line(hub: Hub, folder: Path, name: str, complaint: str) -> None:
    push(folder, NAME)
    with pytest.raises(DataMissingError, match=f"^{re.escape(complaint)}") as caught:
        model_folder(name, print)
    assert "\n" not in str(caught.value)


def test_a_wrong_token_is_one_line(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DataMissingError, match=r"does not allow it \(401\): log in") as caught:
        push(folder, NAME)
    assert "hf_wrong" not in str(caught.value)
    assert not hub.repositories


def test_offline_a_pinned_model_is_used_and_a_newest_one_is_not(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = push(folder, NAME)
    model_folder(str(pushed), print)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with_new_sessions()
    assert model_folder(str(pushed), print).name == pushed.revision
    for name, here in ((NAME, pushed.revision), ("hub:user/none", "none")):
        with pytest.raises(DataMissingError, match=rf"@COMMIT \(here: {here}\)"):
            model_folder(name, print)
    with pytest.raises(DataMissingError, match="offline"):
        model_folder(f"{NAME}@{'0' * 40}", print)
    with pytest.raises(DataMissingError, match="offline, so that nothing can be put on a hub"):
        push(folder, NAME)


def test_a_server_that_is_not_there_is_one_line(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    for ask in (lambda: model_folder(NAME, print), lambda: push(folder, NAME)):
        with pytest.raises(DataMissingError, match=r"127\.0\.0\.1:1 does not answer as a hub"):
            ask()


def test_what_is_no_model_is_not_pushed(hub: Hub, folder: Path) -> None:
    (folder / CARD).write_text(" \n")
    with pytest.raises(StoreError, match="has no model card"):
        push(folder, NAME)
    (folder / CARD).write_text("---\nlicense: [\n---\n")
    with pytest.raises(DataMissingError, match=f"{NAME}: .*metadata is no YAML"):
        push(folder, NAME)
    (folder / TENSORS).write_bytes(b"other")
    with pytest.raises(StoreError, match="is damaged"):
        push(folder, NAME)


@pytest.mark.parametrize(
    "name",
    ["hub:", "hub:flowers", "hub:a/b/c", "hub:a/b@", "hub:a/../b", "hub:a/b@v 1", "hub:a/b@c@d"],
)
def test_names_have_one_form(name: str) -> None:
    with pytest.raises(UsageError, match="expected hub:USER/NAME"):
        hub_name(name)


def test_other_names_are_folders(folder: Path) -> None:
    assert model_folder(folder, print) == model_folder(str(folder), print) == folder


def test_without_the_package_the_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install 'fewshot-bench\[hub\]'"):
        model_folder(NAME, print)
