"""Defaults: a backbone chosen by the data sets, a precision chosen by the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.api.spec import TOY_NOTE
from fewshot_bench.cli.config import read_config
from fewshot_bench.runner.request import Request, expand
from fewshot_bench.utils import devices
from tests.support.compare_records import make, read_csv, save
from tests.support.helpers import Result, command, environment, fsbench, image_folder, problems

USUAL = "ViT-B-16/openai"
FEW = ("-m", "zero-shot", "--shots", "1", "--seeds", "1", "--limit", "9")


def dry(folder: Path, *arguments: object) -> Result:
    """Dry run with a store that does not exist."""
    return fsbench("run", *FEW, "--dry-run", "--store", folder / "none", *arguments)


def first_line(result: Result) -> str:
    """The first output line, which names backbone, device and precision."""
    return result.out.splitlines()[0]


def cuda(monkeypatch: pytest.MonkeyPatch, *, bf16: bool, count: int = 2) -> None:
    """Simulate CUDA cards; with `bf16`, all but the last support it natively, otherwise none."""
    last = f"cuda:{count - 1}"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(devices, "has_bf16", lambda names: bf16 and last not in names)


@pytest.mark.parametrize(
    ("names", "backbone"),
    [
        (("-d", "demo"), "tiny"),
        (("-d", "digits"), "tiny"),
        (("-d", "shapes,letters", "--transfer", "digits"), "tiny"),
        (("-d", "digits,dtd"), USUAL),
        (("-d", "digits", "--transfer", "letters,dtd"), USUAL),
        (("-d", "all"), USUAL),
        (("-d", "dtd", "--backbone", "tiny"), "tiny"),
        (("-d", "demo", "--backbone", "ViT-B-32/openai"), "ViT-B-32/openai"),
    ],
)
def test_the_backbone_follows_the_data_sets(
    tmp_path: Path, names: tuple[str, ...], backbone: str
) -> None:
    result = dry(tmp_path, *names)
    assert first_line(result).startswith(f"backbone {backbone}")
    assert ("a toy: its numbers say nothing about CLIP" in first_line(result)) == (
        backbone == "tiny"
    )
    assert first_line(result).endswith(", device cpu, precision fp32")


@pytest.mark.parametrize("family", ["folder:", "manifest:"])
def test_own_images_never_take_the_toy_unasked(tmp_path: Path, family: str) -> None:
    root = image_folder(tmp_path / "pets")
    (root / "list.csv").write_text("path,label\ntrain/cat/0.png,cat\n", encoding="utf-8")
    name = f"folder:{root}" if family == "folder:" else f"manifest:{root / 'list.csv'}"
    shown = dry(tmp_path, "-d", name)
    assert family == "manifest:" or first_line(shown).startswith(f"backbone {USUAL}, ")
    assert "backbone tiny" not in shown.out
    (cell,) = expand(Request(("zero-shot",), (f"folder:{root}",), shots=(1,), seeds=(1,))).cells
    assert cell.backbone == USUAL


@pytest.mark.parametrize(
    ("words", "bf16", "said"),
    [
        ((), True, "device cuda:0, cuda:1, precision fp16"),
        ((), False, "device cuda:0, cuda:1, precision fp16"),
        (("--device", "cuda"), True, "device cuda, precision bf16"),
        (("--device", "cpu"), True, "device cpu, precision fp32"),
        (("--device", "cuda:0"), True, "device cuda:0, precision bf16"),
        (("--device", "cuda:0,cuda:1"), True, "device cuda:0, cuda:1, precision fp16"),
        (("--precision", "fp32"), True, "device cuda:0, cuda:1, precision fp32"),
        (("--device", "cpu", "--precision", "bf16"), True, "device cpu, precision bf16"),
    ],
)
def test_the_precision_follows_the_device(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    bf16: bool,
    said: str,
) -> None:
    cuda(monkeypatch, bf16=bf16)
    assert first_line(dry(tmp_path, "-d", "digits", *words)).endswith(f", {said}")


def test_a_cell_is_recorded_as_it_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewshot_bench.runner import request as plan

    seen: list[Any] = []
    planned = plan.expand
    monkeypatch.setattr(plan, "expand", lambda request: seen.append(planned(request)) or seen[-1])
    cuda(monkeypatch, bf16=True, count=1)
    monkeypatch.setattr(devices, "has_bf16", lambda names: names == ("cuda",))
    dry(tmp_path, "-d", "digits")
    (cell,) = seen[0].cells
    assert (cell.backbone, cell.device, cell.precision) == ("tiny", "cuda", "bf16")


@pytest.mark.parametrize(
    ("words", "device"),
    [
        (("slurm", "--gpus", "1"), "cuda"),
        (("slurm", "--gpus", "a100:2"), "cuda"),
        (("slurm", "--sbatch", "--gres=gpu:1"), "cuda"),
        (("slurm", "--sbatch", "--gres=gpu"), "cuda"),
        (("slurm", "--sbatch", "--gpus-per-node=1"), "cuda"),
        (("slurm", "--gpus", "1", "--device", "cpu"), "cpu"),
        (("slurm", "--device", "cuda"), "cuda"),
        (("slurm", "--gpus", "0"), "cpu"),
        (("slurm", "--gpus", "a100:0"), "cpu"),
        (("slurm", "--sbatch", "--gres=nvme:1"), "cpu"),
        (("slurm",), "cpu"),
        (("ray", "--gpus", "0.5"), "cuda"),
        (("ray", "--gpus", "0.0"), "cpu"),
    ],
)
def test_on_a_cluster_it_is_what_workers_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], device: str
) -> None:
    """It does not depend on the card of the machine that submits."""
    cuda(monkeypatch, bf16=True)
    asked = ("-d", "digits", "--engine", *words)
    shown = dry(tmp_path, *asked)
    if device == "cpu":
        assert first_line(shown).endswith(", device cpu, precision fp32"), shown
    else:
        # What a local run on such a card would choose is not known here.
        assert (shown.code, shown.out) == (2, "")
        assert "give --precision bf16 if they have it" in shown.err
        shown = dry(tmp_path, *asked, "--precision", "bf16")
        assert first_line(shown).endswith(", device cuda, precision bf16"), shown


def test_a_precision_that_is_not_known(tmp_path: Path) -> None:
    for words in (("run", *FEW, "-d", "digits"), ("reproduce", "clip-lora-table3")):
        result = fsbench(*words, "--precision", "fp8", "--store", tmp_path)
        assert result.code == 2
        assert "unknown precision 'fp8': did you mean 'fp32'" in result.err


def test_a_saved_file_holds_what_was_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "run.yaml"
    cuda(monkeypatch, bf16=True)
    first = dry(tmp_path, "-d", "digits,dtd", "--save-config", saved)
    values = read_config(saved)
    assert (values["backbone"], values["precision"]) == (USUAL, "fp16")
    assert values["device"] == "cuda:0,cuda:1"
    again = fsbench("run", "--config", saved, "--dry-run")
    assert first_line(again) == first_line(first)
    monkeypatch.undo()
    refused = fsbench("run", "--config", saved, "--dry-run")
    assert refused.code == 2
    assert "device 'cuda:0': this machine has cpu" in refused.err


def test_reproduce_takes_the_precision_of_the_paper_where_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ("reproduce", "clip-lora-table3", "-m", "clip-lora", "-d", "dtd", "--shots", "1")
    shown = fsbench(*call, "--dry-run", "--store", tmp_path / "none")
    assert first_line(shown) == f"backbone {USUAL}, device cpu, precision fp32"
    cuda(monkeypatch, bf16=True)
    shown = fsbench(*call, "--dry-run", "--store", tmp_path / "none")
    assert first_line(shown) == f"backbone {USUAL}, device cuda:0, cuda:1, precision fp16"


def test_a_sweep_says_that_it_is_a_toys(tmp_path: Path) -> None:
    options = [{"epochs": epochs} for epochs in (1, 2)]
    records = [make("coop", backbone="tiny", options=o, overrides=o) for o in options]
    store = save(tmp_path, records)
    for more in ((), ("-m", "coop", "-o", "epochs=1,2")):
        drawn = fsbench("compare", "--layout", "sweep", *more, "--store", store)
        assert drawn.code == 0, drawn.err
        assert TOY_NOTE in " ".join(drawn.out.split("\n"))


@pytest.mark.parametrize("backbone", ["tiny", USUAL])
def test_every_table_says_that_it_is_a_toys(tmp_path: Path, backbone: str) -> None:
    store = save(tmp_path / "store", [make("coop", top1=54.0, backbone=backbone)])
    for form in ("terminal", "markdown", "latex", "csv", "json"):
        shown = fsbench("compare", "--store", store, "--format", form)
        assert shown.code == 0, shown.err
        if form == "csv":
            said = all("toy backbone" in line["marks"] for line in read_csv(shown.out))
        else:
            said = TOY_NOTE in shown.out.replace("\n", " ")
        assert said == (backbone == "tiny"), form


@pytest.mark.parametrize("backbone", ["tiny", USUAL])
def test_report_and_audit_say_it_too(tmp_path: Path, backbone: str) -> None:
    records = [make(name, top1=54.0, backbone=backbone) for name in ("coop", "zero-shot")]
    store = save(tmp_path / "store", records)
    page = tmp_path / "report.html"
    assert fsbench("report", "--store", store, "-O", page).code == 0
    told = f'<p class="warning" role="note">B{TOY_NOTE[1:]}.</p>'
    assert (told in page.read_text(encoding="utf-8")) == (backbone == "tiny")
    for form in ("terminal", "markdown", "json"):
        shown = fsbench("audit", "--store", store, "--format", form)
        assert (TOY_NOTE in shown.out) == (backbone == "tiny")
    lines = read_csv(fsbench("audit", "--store", store, "--format", "csv").out)
    assert all("toy-backbone" in line["findings"] for line in lines) == (backbone == "tiny")


def test_one_line_where_weights_cannot_be_had(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "pets")
    homes = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    asked = (*FEW, "-d", f"folder:{root},folder:{tmp_path / 'none'}", "--store", tmp_path / "s")
    done = subprocess.run(
        command("run", *asked),
        capture_output=True,
        text=True,
        env=environment(**homes),
        timeout=300,
    )
    assert done.returncode == 3, done.stderr
    missing, line = problems(done.stderr)
    assert str(tmp_path / "none") in missing
    assert line.startswith(f"error: backbone '{USUAL}': its weights are not on this machine, and ")
    for part in ("Connection refused", "hf download timm/vit_base_patch16_clip_224.openai"):
        assert part in line
    assert line.endswith("or use --backbone tiny to try the tool")
    assert done.stdout == f"backbone {USUAL}, device cpu, precision fp32\n"


def test_a_dry_run_asks_nobody_for_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewshot_bench.backbones import weights

    monkeypatch.setattr(weights, "_failure", lambda source: pytest.fail("a request was made"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    shown = dry(tmp_path, "-d", f"folder:{image_folder(tmp_path / 'pets')}")
    assert shown.code == 0, shown.err
    assert f"the weights of {USUAL} are not on this machine: to be fetched" in shown.out


def test_nothing_is_counted_where_data_is_missing(tmp_path: Path) -> None:
    for words in (("--dry-run",), ()):
        shown = fsbench(
            "run", *FEW, "-d", f"folder:{tmp_path / 'none'}", "--store", tmp_path, *words
        )
        assert shown.code == 3
        assert "0 cells" not in shown.out
        assert "0 B" not in shown.out


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from fewshot_bench.cli.main import main\n"
        "for name in ('run', 'reproduce', 'demo'):\n"
        "    sys.argv = ['fsbench', name, '--help']\n"
        "    try:\n        main()\n"
        "    except SystemExit:\n        print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = [line for line in done.stdout.splitlines() if line in ("True", "False")]
    assert told == ["False"] * 3


@pytest.mark.parametrize("name", ["ViT-B/16", "ViT-B-16"])
def test_one_backbone_has_one_name(name: str) -> None:
    asked = {"methods": ("zero-shot",), "datasets": ("digits",), "shots": (1,), "seeds": (1,)}
    cells, named = (expand(Request(**asked, backbone=one)).cells for one in (name, USUAL))  # type: ignore[arg-type]
    assert {cell.backbone for cell in cells} == {USUAL}
    assert [cell.key() for cell in cells] == [cell.key() for cell in named]


def test_other_spellings_of_a_backbone(tmp_path: Path) -> None:
    assert first_line(dry(tmp_path, "-d", "digits", "--backbone", "RN50")).startswith(
        "backbone RN50/openai, device"
    )
    for name, close in (("rn50", "RN50"), ("VIT-B/16", "ViT-B-16"), ("tiney", "tiny")):
        done = dry(tmp_path, "-d", "digits", "--backbone", name)
        assert (done.code, f"did you mean '{close}'?" in done.err) == (2, True), done
