"""Papers: labels, BibTeX, and that nothing that is built in lacks one."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from fewshot_bench import ContractError, MethodCard, Paper
from fewshot_bench.api.catalog import Catalog
from fewshot_bench.api.method_card import card_of
from fewshot_bench.api.paper import family
from fewshot_bench.api.plugin_host import pack, unpack
from fewshot_bench.api.registry import registry
from fewshot_bench.backbones import papers_of_weights
from fewshot_bench.cli.completion import backbones
from fewshot_bench.utils.errors import PluginError
from tests.support.bibtex import fields_of

THREE = ("Kaiyang Zhou", "Loy, Chen Change", "Raoul de Charette")
# Families whose images are the user's, so that no paper is known.
OWN = {"coop:", "folder:", "manifest:", "hf:", "wds:"}


def built_in() -> dict[str, tuple[Paper, ...]]:
    known = registry()
    found = {name: card_of(known.method_class(name)).papers for name in known.methods.names()}
    for catalog in (known.datasets, known.backbones):
        found |= {name: entry.papers for name, entry in catalog.entries.items()}
    return {name: papers for name, papers in found.items() if name not in OWN}


def test_nothing_built_in_lacks_a_paper() -> None:
    found = built_in()
    assert len(found) >= 35 + 19 + 1
    assert not [name for name, papers in found.items() if not papers]
    papers = {paper for listed in found.values() for paper in listed}
    assert all(len(paper.authors) and paper.venue and paper.year for paper in papers)
    keys = [paper.key for paper in papers]
    assert len(keys) == len(set(keys))
    entries = fields_of("\n".join(paper.bibtex() for paper in papers))
    assert {entry["key"] for entry in entries} == set(keys)
    typed = ("inproceedings", "article")
    assert {entry["howpublished"] for entry in entries if entry["kind"] not in typed} == {
        *("arXiv", "Software", "UCI Machine Learning Repository")
    }


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("ViT-B-16/openai", {"radford2021learning"}),
        ("ViT-B-32/laion2b_s34b_b79k@file.pt", {"cherti2023reproducible", "schuhmann2022laion"}),
        ("ViT-B-16-SigLIP2/webli", {"tschannen2025siglip"}),
        ("EVA02-B-16/merged2b_s8b_b131k", {"sun2023eva"}),
        ("ViT-L-14/commonpool_xl_laion_s13b_b90k", {"gadre2023datacomp"}),
        ("ViT-B-16/dfn2b", {"fang2024data"}),
        ("ViT-H-14/metaclip_fullcc", {"xu2024demystifying"}),
        ("hf-hub:apple/MobileCLIP-S1-OpenCLIP", {"vasu2024mobileclip"}),
        ("local-dir:/mine/laion", set()),
        ("siglip", set()),
    ],
)
def test_weights_of_open_clip_have_papers(name: str, keys: set[str]) -> None:
    found = {paper.key for paper in papers_of_weights(name)}
    assert keys <= found
    assert bool(keys) == bool(found)


def test_every_tag_of_open_clip_has_a_paper() -> None:
    listed = [name for name in backbones() if "/" in name]
    assert len(listed) > 100
    assert not [name for name in listed if not papers_of_weights(name)]


def test_labels_and_key_follow_from_the_facts() -> None:
    paper = Paper(
        "Tip-Top: LoRA, us & Few-Shot 100 % {of} A_b",
        THREE,
        2022,
        venue="IJCV",
        url="https://a/b_c",
    )
    assert paper.label == "Zhou et al. 2022"
    assert paper.long_label == "Zhou et al., IJCV 2022"
    assert Paper("A", THREE[1:], 2022).label == "Loy and de Charette 2022"
    assert paper.key == "zhou2022tip"
    (entry,) = fields_of(paper.bibtex())
    assert entry == {
        "kind": "article",
        "key": "zhou2022tip",
        "title": r"{Tip-Top}: {LoRA}, us \& Few-Shot 100 \% {of} A\_b",
        "author": "Kaiyang Zhou and Loy, Chen Change and Raoul de Charette",
        "journal": "International Journal of Computer Vision (IJCV)",
        "year": "2022",
        "url": "https://a/b_c",
    }
    assert family("{Our group}") == "Our group"


@pytest.mark.parametrize(
    "wrong",
    [
        {"title": ""},
        {"title": "a } b"},
        {"title": 3},
        {"authors": ()},
        {"authors": "Zhou"},
        {"authors": ["Zhou"]},
        {"authors": ("Zhou", "")},
        {"authors": ("Ann Oak and Tom Ash",)},
        {"venue": "ICLR\n2024"},
        {"year": "2022"},
        {"key": "a, b"},
        {"venue": None},
    ],
)
def test_wrong_facts_are_refused_where_they_are_written(wrong: dict[str, object]) -> None:
    with pytest.raises(ContractError, match="Paper"):
        Paper(**{"title": "A", "authors": THREE, "year": 2022, **wrong})


def test_a_card_takes_one_paper_or_several() -> None:
    one, other = (Paper(title, THREE, 2022) for title in ("A lamp", "A tree"))
    assert MethodCard("x", paper=one).papers == (one,)
    assert MethodCard("x", paper=(one, other)).papers == (one, other)
    for wrong in ("Zhou et al. 2022", (one, "x"), (one, one)):
        with pytest.raises(ContractError, match=r"MethodCard\.paper"):
            MethodCard("x", paper=wrong)


def test_papers_cross_between_processes() -> None:
    card = MethodCard("x", paper=(Paper("A lamp", THREE, 2022, code="https://a"),))
    assert unpack(json.loads(json.dumps(pack(card)))) == card


def test_data_sets_and_backbones_are_registered_with_papers() -> None:
    paper = Paper("A lamp", THREE, 2022)
    catalog = Catalog("data set", "datasets")
    catalog.register("lamps", "lamps:open", paper=paper)
    assert catalog.find("lamps").papers == (paper,)
    with pytest.raises(PluginError, match="expected a Paper"):
        catalog.register("trees", "trees:open", paper="Zhou et al. 2022")
    with pytest.raises(PluginError, match="only methods, data sets and backbones"):
        Catalog("engine", "engines").register("lamp", "lamps:Lamp", paper=paper)


def test_papers_of_built_in_methods_need_no_import() -> None:
    code = """if True:
        import sys
        from fewshot_bench.analysis.citations import papers_of_method
        print(papers_of_method("clip-lora")[0].label, "torch" in sys.modules)"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "Zanella and Ben Ayed 2024 False\n"
