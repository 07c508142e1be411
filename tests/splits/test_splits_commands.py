"""`fsbench splits show`, `export` and `verify`, on DTD's published lists and on a small set."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from fewshot_bench.splits.published import published_splits
from fewshot_bench.store.store import Store
from tests.support.helpers import REPOSITORY, fsbench, image_folder, save_image
from tests.support.split_trees import DTD_FILE, SMALL, dtd_bytes, write_dtd, write_small

PUBLISHED = published_splits()["dtd"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dtd(tmp_path_factory.mktemp("data"))


@pytest.fixture
def dtd(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_DATA", str(root))


@pytest.fixture
def small(tmp_path: Path) -> str:
    return write_small(tmp_path / "small")


def digests(text: str) -> list[str]:
    return re.findall(r"\b[0-9a-f]{64}\b", text)


def done(*arguments: object) -> str:
    result = fsbench("splits", *arguments)
    assert (result.code, result.err) == (0, "")
    return result.out


def refused(code: int, *arguments: object) -> str:
    result = fsbench("splits", *arguments)
    assert result.code == code
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    return result.err


def test_show_says_what_is_published(dtd: None) -> None:
    out = done("show", "dtd", "--shots", "1,16", "--seeds", "1,4")
    assert "2820 images" in out
    assert PUBLISHED.lists_sha256 in out
    assert "equal to the published lists" in out
    assert out.count("equal to the published picks") == 2
    assert out.count("nothing is published for this setting") == 2
    for setting in ("1/1", "16/1"):
        assert set(PUBLISHED.picks[setting]) <= set(digests(out))
    other = done("show", "dtd", "--shots", "16", "--protocol", "clip-lora", "--val", "none")
    assert "0 images" in other
    assert not set(PUBLISHED.picks["16/1"]) & set(digests(other))


def test_lists_are_exported_byte_for_byte(dtd: None, tmp_path: Path) -> None:
    out = done("export", "dtd", "-O", tmp_path)
    content = (tmp_path / DTD_FILE).read_bytes()
    assert hashlib.sha256(content).hexdigest() == PUBLISHED.file_sha256
    assert content == dtd_bytes()
    assert "equal to the published file, byte for byte" in out
    shown = done("show", tmp_path / DTD_FILE)
    assert "equal to the published lists of dtd, byte for byte" in shown
    assert digests(shown) == [PUBLISHED.lists_sha256]


@pytest.mark.parametrize("format", ["fsbench", "index", "jsonl"])
def test_picks_come_back_from_every_format(dtd: None, tmp_path: Path, format: str) -> None:
    """All 15 published settings are exported; some are verified and imported."""
    folder, store = tmp_path / "picks", tmp_path / "store"
    exported = done("export", "dtd", "--shots", "1,2,4,8,16", "--format", format, "-O", folder)
    paths = sorted(folder.iterdir())
    assert len(paths) == len(set(digests(exported))) == len(PUBLISHED.picks) == 15
    for path in paths[::5]:
        out = done("import", path, "--dataset", "dtd", "--store", store)
        assert digests(out)[0] in digests(exported)
        assert "coop       equal: the same images in the same order" in out
        assert "equal to the published picks" in out
        stored = store / "splits" / "dtd" / f"{path.stem}.json"
        assert digests(done("show", stored)) == digests(out)
    checks = done("verify", paths[0], "--dataset", "dtd")
    assert "equal to the published picks" in checks
    assert ("all positions are those of the lists" in checks) is (format == "index")


def test_verify_counts_every_published_draw(
    dtd: None, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = done("verify", "dtd")
    assert out.count("\nok      picks") == 15
    assert "FAILED" not in out
    changed = json.loads(dtd_bytes())
    changed["train"].reverse()
    folder = tmp_path / "dtd"
    folder.mkdir()
    (folder / DTD_FILE).write_text(json.dumps(changed), "utf-8")
    (folder / "images").symlink_to(root / "dtd" / "images")
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path))
    result = fsbench("splits", "verify", "dtd")
    assert result.code == 1
    assert "FAILED  lists        NOT the published ones" in result.out
    assert result.out.count("FAILED  picks") == 15
    assert "FAILED  published    NOT the published lists of dtd" in (
        fsbench("splits", "verify", folder / DTD_FILE).out
    )


def test_verify_of_a_suite_names_the_sets_that_are_absent(dtd: None) -> None:
    result = fsbench("splits", "verify", "all")
    assert result.code == 3
    assert result.out.count("absent  data set") == 10
    assert result.out.count("ok      picks") == 15
    assert fsbench("splits", "verify", "demo").code == 0


def test_nothing_is_replaced_without_force(small: str, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    done("export", small, "-O", target)
    assert "use --force" in refused(2, "export", small, "--format", "jsonl", "-O", target)
    assert json.loads(target.read_bytes()) == SMALL
    done("export", small, "--format", "jsonl", "-O", target, "--force")
    assert target.read_bytes().count(b"\n") == 8
    picks = tmp_path / "picks"
    done("export", small, "--shots", "1", "--seeds", "1", "-O", picks / "shot_1-seed_2.json")
    err = refused(2, "export", small, "--shots", "1", "--seeds", "1-3", "-O", picks)
    assert "shot_1-seed_2.json is there already" in err
    assert len(list(picks.iterdir())) == 1


def test_wrong_requests(small: str, tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    export = ("export", small, "-O", target)
    assert "did you mean 'index'" in refused(2, *export, "--format", "indx")
    assert "add --shots" in refused(2, *export, "--format", "index")
    assert "leave --shots out" in refused(2, *export, "--shots", "1", "--format", "coop")
    assert "expected a folder" in refused(2, *export, "--shots", "1", "--seeds", "1,2")
    assert "unknown protocol 'cop'" in refused(2, *export, "--shots", "1", "--protocol", "cop")
    assert "add --shots" in refused(2, *export, "--seeds", "1")
    assert "--with-test" in refused(2, *export, "--with-test")
    assert "did you mean 'digits'" in refused(2, "show", "digit")
    assert "does not exist" in refused(3, "show", "absent.json")
    assert "is a folder" in refused(3, "verify", tmp_path)
    assert "is for a file" in refused(2, "verify", small, "--dataset", "digits")
    assert "did you mean 'export'" in refused(2, "exprt")
    assert not target.exists()


def test_a_place_that_cannot_be_written_to(small: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot write" in refused(1, "export", small, "-O", tmp_path / "file" / "x.json")


def test_verify_names_what_is_wrong_with_a_file(small: str, tmp_path: Path) -> None:
    target = tmp_path / "shot_1-seed_1.json"
    done("export", small, "--shots", "1", "--seeds", "1", "-O", target)
    content = json.loads(target.read_bytes())

    def failures(**values: object) -> str:
        target.write_text(json.dumps(content | values), "utf-8")
        result = fsbench("splits", "verify", target)
        assert result.code == 1
        return "\n".join(line for line in result.out.splitlines() if line.startswith("FAILED"))

    leaked = failures(train=SMALL["test"])
    assert "digest" in leaked
    assert f"2 train images of {target} are test images of '{small}'" in leaked
    assert "are in two lists" in failures(val=content["train"])
    named = failures(train=[["cat/ä.jpg", 0, "tiger"], ["dog/same.jpg", 1, "dog's"]])
    assert "label 0 has two names" in named
    assert "'cat/ä.jpg' is 0 'tiger' in the file and 0 'house, cat' in the data set" in named
    assert "no train image for 1 of 2 classes" in failures(train=content["train"][:1])
    assert "up to 2 train images per class, expected 1" in failures(train=SMALL["train"])
    assert "FAILED  form" in failures(train=3)


def test_the_documented_output_is_real(
    dtd: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picks = ("dtd", "--shots", "16", "--seeds", "1")
    done("export", *picks, "-O", "picks/shot_16-seed_1.json")
    done("export", *picks, "--format", "index", "-O", "theirs/shot_16-seed_1.json")
    text = (REPOSITORY / "docs" / "how-to" / "splits.md").read_text("utf-8")
    examples = re.findall(r"^\$ fsbench splits (.+)\n((?:.+\n)+?)```", text, re.MULTILINE)
    assert len(examples) == 3
    for arguments, output in examples:
        assert done(*arguments.split()) == output


def test_a_split_that_a_store_keeps_is_shown_exported_imported_and_checked(tmp_path: Path) -> None:
    root, store = image_folder(tmp_path / "pets", train=8) / "train", tmp_path / "store"
    name, kept = f"folder:{root}", ("--store", store)
    ran = ("-m", "zero-shot", "-d", name, "--shots", 1, "--seeds", 1, "--backbone", "tiny", *kept)
    assert fsbench("run", *ran).code == 0
    (record,) = Store(store).records()
    picks, files = ("--shots", 1, "--seeds", 1), (tmp_path / "before.json", tmp_path / "after.json")
    done("export", name, *picks, *kept, "-O", files[0])
    for number in range(8):
        save_image(root / "cat" / f"later{number}.jpg", 5000 + number)
    assert record.split["digest"] in done("show", name, *picks, *kept)
    assert record.split["digest"] not in done("show", name, *picks)
    done("export", name, *picks, *kept, "-O", files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
    done("verify", files[0], "--dataset", name, *kept)
    lists = json.loads(files[0].read_text())
    done("import", files[0], "--dataset", name, *kept)
    assert fsbench("run", *ran, "--protocol", "imported", "--val", "min4").code == 0
    imported = next(r for r in Store(store).records() if r.spec.protocol == "imported")
    assert imported.split["train"] == len(lists["train"])
    assert imported.split["revision"] == record.split["revision"]
