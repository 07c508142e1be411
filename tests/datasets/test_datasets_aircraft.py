"""FGVC-Aircraft from its own lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench import DataMissingError
from fewshot_bench.api.dataset import all_items
from tests.support.dataset_trees import JPEG, open_set, put, write_aircraft

PLACES = ["fgvc_aircraft", "fgvc-aircraft-2013b/data"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("end", ["\n", "\r\n", "  \r\n", "\n\n"])
def test_labels_are_line_numbers_and_pools_keep_the_order_of_the_lists(
    data: Path, place: str, end: str
) -> None:
    write_aircraft(data / place, end=end)
    dataset = open_set("fgvc_aircraft")
    card, pools = dataset.card(), dataset.items()
    assert card.classnames == ("707-320", "F-16A/B", "Boeing 717")
    assert [(i.id, i.label, i.classname) for i in pools["train"]] == [
        ("0000001.jpg", 2, "Boeing 717"),
        ("0000002.jpg", 1, "F-16A/B"),
        ("0000003.jpg", 0, "707-320"),
    ]
    assert [i.id for i in pools["test"]] == ["0000007.jpg", "0000008.jpg", "0000009.jpg"]
    assert card.folder == str(data / place / "images")
    assert card.custom_templates == ("a photo of a {}, a type of aircraft.",)
    assert card.expected_counts == {"train": 3334, "val": 3333, "test": 3333}
    assert any("3 classes and 3/3/3 images" in note for note in card.notes)
    assert all(dataset.read(item) == JPEG for _, item in all_items(dataset))
    assert all(dataset.stamp(item) for _, item in all_items(dataset))


@pytest.mark.parametrize("place", PLACES)
def test_a_root_may_be_the_folder_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    write_aircraft(tmp_path / place)
    monkeypatch.setenv("FSBENCH_DATA", str(tmp_path / place.partition("/")[0]))
    assert len(open_set("fgvc_aircraft").items()["val"]) == 3


def test_lists_and_images_are_found_independently(data: Path) -> None:
    base = write_aircraft(data / PLACES[0])
    (data / PLACES[1]).mkdir(parents=True)
    (base / "images").rename(data / PLACES[1] / "images")
    assert open_set("fgvc_aircraft").card().folder == str(data / PLACES[1] / "images")


def test_variants_that_no_list_names_are_no_classes_and_are_reported(data: Path) -> None:
    base = write_aircraft(data / PLACES[0], ("A300B4", "A310"))
    put(base / "variants.txt", b"707-320\nA300B4\nConcorde\nA310\n")
    card = open_set("fgvc_aircraft").card()
    assert card.classnames == ("A300B4", "A310")
    assert "2 of 4 variants are in no list and are no classes: 707-320, Concorde" in card.notes


VAL = "images_variant_val.txt"
TEST = "images_variant_test.txt"


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (VAL, None, r"annotation list .*images_variant_val.txt is missing"),
        ("variants.txt", None, r"annotation list .*variants.txt is missing"),
        (VAL, b"0000001 Concorde\n", "line 1 names the variant 'Concorde', which is not in"),
        (VAL, b"0000001\n", "line 1 is '0000001': expected an image number"),
        (VAL, b"../../x 707-320\n", "line 1 is '../../x 707-320': expected an image number"),
        (VAL, b"0000001 \x00\n", "expected plain text"),
        (VAL, b"\xff\xfe\n", "cannot be read"),
        (VAL, b"0000004 707-320\n0000001 707-320\n", "image 0000001 is listed twice, in .*train"),
        ("images_variant_train.txt", b"", "lists no images"),
        ("images_variant_train.txt", b"0000001 707-320\n", "'Boeing 717' is listed in .* no image"),
        ("variants.txt", b"707-320\nF-16A/B\nBoeing 717\n707-320\n", "names '707-320' twice"),
        ("images/0000005.jpg", None, r"1 of 9 listed images are not in .*: 0000005.jpg \("),
    ],
)
def test_damaged_parts(data: Path, file: str, content: bytes | None, expected: str) -> None:
    base = write_aircraft(data / PLACES[0])
    (base / file).unlink()
    if content is not None:
        put(base / file, content)
    with pytest.raises(DataMissingError, match=expected) as caught:
        open_set("fgvc_aircraft").items()
    assert "fsbench data prepare fgvc_aircraft" in str(caught.value)


def test_what_is_missing_altogether(data: Path) -> None:
    def said() -> str:
        with pytest.raises(DataMissingError) as caught:
            open_set("fgvc_aircraft").items()
        return str(caught.value)

    assert "no variants.txt and no image lists in" in said()
    assert "fsbench data prepare fgvc_aircraft" in said()
    write_aircraft(data / "fgvc_aircraft" / "data")
    deep, right = data / "fgvc_aircraft" / "data", data / "fgvc_aircraft"
    assert f"they are in {deep}: move its content to {right}" in said()
    right.rename(data / "away")
    (data / "away" / "data").rename(data / "FGVCAircraft")
    assert f"{data / 'FGVCAircraft'} has another name than expected: rename it to {right}" in said()
    (data / "FGVCAircraft").rename(right)
    (right / "images").rename(data / "away" / "images")
    assert f"they are in {data / 'away' / 'images'}: move its content to {right / 'images'}" in (
        said()
    )
