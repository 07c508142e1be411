"""`--skip-damaged`: unusable images are left out, named, recorded and shown."""

from __future__ import annotations

from pathlib import Path

from fewshot_bench.store.store import Store
from tests.support.helpers import fsbench, image_folder, save_image

QUICK = ("--backbone", "tiny", "-m", "zero-shot", "--shots", 1, "--seeds", 1)


def classes(root: Path) -> Path:
    """Class folders without a split."""
    for label, name in enumerate(("cat", "cow", "dog")):
        for index in range(10):
            save_image(root / name / f"{index}.png", 100 * label + index)
    return root


def run(root: Path, store: Path, *words: object) -> tuple[int, str, str]:
    result = fsbench("run", *QUICK, "-d", f"folder:{root}", "--store", store, *words)
    return result.code, result.out, result.err


def test_what_was_damaged_after_the_split_was_kept(tmp_path: Path) -> None:
    root, store = classes(tmp_path / "pets"), tmp_path / "store"
    assert run(root, store)[0] == 0
    split = next((store / "splits" / "made").iterdir())
    (root / "cat" / "3.png").unlink()
    (root / "dog" / "4.png").write_bytes(b"\x89PNG no more")
    code, _, err = run(root, store)
    assert (code, "--skip-damaged" in err, "cat/3.png" in err) == (3, True, True)
    code, out, err = run(root, store, "--skip-damaged")
    assert (code, err) == (0, "")
    assert "damaged or missing images (2): 'cat/3.png', 'dog/4.png'" in out
    assert "0 done already, 1 to run" in out
    assert "1 done already" in run(root, store, "--skip-damaged")[1]
    found = sorted(Store(store).records(), key=lambda record: record.split.get("skipped", 0))
    assert [record.split.get("skipped") for record in found] == [None, 2]
    assert found[1].spec.data == {"skipped": {f"folder:{root}": ["cat/3.png", "dog/4.png"]}}
    assert found[0].spec.key() != found[1].spec.key()
    blocks = fsbench("compare", "--store", store)
    assert (blocks.code, blocks.out.count(" of 2: skipped images ")) == (0, 2)
    table = fsbench("compare", "--store", store, "--own-data", "none")
    assert (table.code, "left out" in table.out) == (0, False)
    table = fsbench("compare", "--store", store, "--allow-mixed")
    assert "skipped images=" in table.out
    assert "own data" not in table.out
    unwrapped = " ".join(table.out.split())
    assert f"2 damaged or missing images of folder:{root} are left out" in unwrapped
    assert split.is_file()


def test_a_target_with_damaged_images(tmp_path: Path) -> None:
    source, target = image_folder(tmp_path / "a"), image_folder(tmp_path / "b")
    (target / "test" / "cat" / "1.jpg").write_bytes(b"no")
    store = tmp_path / "store"
    words = ("--transfer", f"folder:{target}")
    assert run(source, store, *words)[0] == 3
    code, out, err = run(source, store, *words, "--skip-damaged")
    assert (code, err, "'test/cat/1.jpg'" in out) == (0, "", True)
    found = {record.spec.target: record.split.get("skipped") for record in Store(store).records()}
    assert found == {"": None, f"folder:{target}": 1}
    assert fsbench("compare", "--store", store).code == 0


def test_a_class_that_is_lost_as_a_whole(tmp_path: Path) -> None:
    root, store = classes(tmp_path / "pets"), tmp_path / "store"
    for path in (root / "cow").iterdir():
        path.write_bytes(b"")
    code, _, err = run(root, store)
    assert (code, "all 10 images of class 'cow' among them" in err) == (3, True)
    assert "--skip-damaged" not in err
    code, _, err = run(root, store, "--skip-damaged")
    assert code == 3
    assert "all 10 images of class 'cow' are damaged or missing: mend them, or remove" in err


def test_a_manifest_that_lists_what_is_gone(tmp_path: Path) -> None:
    root = classes(tmp_path / "pets")
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name}" for path in root.rglob("*.png")]
    (tmp_path / "list.csv").write_text("\n".join(["path,class", *lines]))
    (root / "cat" / "3.png").unlink()
    words = ("run", *QUICK, "-d", f"manifest:{tmp_path / 'list.csv'}", "--store", tmp_path / "s")
    refused = fsbench(*words)
    assert (refused.code, "--skip-damaged" in refused.err) == (3, True)
    assert fsbench(*words, "--skip-damaged").code == 0
