"""What a method prints, logs and warns of: shown live by -v, and kept beside its record."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from pathlib import Path

import pytest

from fewshot_bench.api.spec import RunSpec, name_cell
from fewshot_bench.engines.base import Settings, StoreSnapshot
from fewshot_bench.engines.distributed import Job
from fewshot_bench.runner.cell_log import HEAD, TAIL, CellLog, collect
from fewshot_bench.store.clean import Chosen, list_leftovers, remove
from fewshot_bench.store.log_files import LOG, read_log
from fewshot_bench.store.store import Store
from fewshot_bench.store.verify import verify
from tests.support.helpers import PATIENCE, Result, fsbench, start
from tests.support.merging import merge

METHOD = """
import logging, os, warnings
from dataclasses import dataclass
from fewshot_bench.training import LinearClassifier

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chatty:
    name = "chatty"
    how: str = "well"

    def fit(self, task, backbone, ctx):
        print("  cell", ctx.cell)
        print("key", os.environ["CHATTY_API_KEY"])
        log.debug("of no interest")
        log.info("of some interest")
        log.warning("of interest")
        warnings.warn("beware")
        if self.how == "badly":
            raise RuntimeError("no")
        if self.how == "dead":
            print("before the end")
            os._exit(3)
        return LinearClassifier(backbone.class_features(task))
"""
SECRET = "0123456789abcdef"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Result]:
    """A run with -v of three cells by two workers, and its store."""
    folder = tmp_path_factory.mktemp("chatty")
    (folder / "chatty.py").write_text(METHOD)
    words = ("-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20, "--jobs", 2, "-v")
    method = f"{folder / 'chatty.py'}:Chatty"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATTY_API_KEY", SECRET)
        store = folder / "store"
        out = fsbench("run", "-m", method, "-o", "how=well,badly,dead", *words, "--store", store)
    return Store(store), out


def file_of(store: Store, how: str) -> Path:
    """The record of the cell that ended so."""
    (record,) = (r for r in store.records() if r.spec.options["how"] == how)
    return store.file(record.spec.key())


def log_of(store: Store, how: str) -> str:
    """The log of the cell that ended so."""
    path = file_of(store, how)
    record = store.get(path.stem)
    assert record is not None
    return read_log(path, record)


def test_each_line_is_shown_live_under_the_name_of_its_cell(ran: tuple[Store, Result]) -> None:
    store, out = ran
    for how in ("badly", "dead"):
        spec = next(r.spec for r in store.records() if r.spec.options["how"] == how)
        name = name_cell(spec)
        assert f"\n{name} |   cell {name}\n" in f"\n{out.err}"
        assert f"\n{name} | INFO chatty: of some interest\n" in out.err
    assert "of no interest" not in out.err
    assert "| before the end\n" in out.err


@pytest.mark.parametrize("how", ["well", "badly", "dead"])
def test_the_log_of_every_end_is_kept_in_its_order(ran: tuple[Store, Result], how: str) -> None:
    lines = log_of(ran[0], how).splitlines()
    assert lines[0].startswith("  cell ")
    assert lines[1:4] == ["key ***", "INFO chatty: of some interest", "WARNING chatty: of interest"]
    assert "UserWarning: beware" in "".join(lines[4:])
    assert (lines[-1] == "before the end") == (how == "dead")


def test_show_prints_it_and_a_failure_mentions_it(ran: tuple[Store, Result]) -> None:
    store, out = ran
    path = file_of(store, "badly")
    assert fsbench("show", path, "--log").out == log_of(store, "badly")
    assert fsbench("show", path.stem[:12], "--log", "--store", store.path).out
    assert f"log: {path.with_suffix('.log')}\n" in out.err
    assert "--log\n" in fsbench("show", path).out


def test_it_is_merged_verified_and_removed_with_its_record(
    ran: tuple[Store, Result], tmp_path: Path
) -> None:
    other = Store(tmp_path / "other")
    assert merge(other, ran[0]).code == 0
    assert log_of(other, "well") == log_of(ran[0], "well")
    assert not verify(other).findings
    file = file_of(other, "well").with_suffix(".log")
    file.write_text("another")
    assert [finding.kind for finding in verify(other).findings] == [LOG]
    assert fsbench("show", file.with_suffix(".json"), "--log").code != 0
    chosen = [Chosen.of(other, record) for record in other.records()]
    assert not any(problem for _, problem in remove(other, chosen))
    assert not [*other.root.rglob("*.log")]
    assert not [*list_leftovers(other)]


def test_where_the_command_runs_it_is_seen_at_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATTY_API_KEY", SECRET)
    (tmp_path / "chatty.py").write_text(METHOD)
    words = ("-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20, "--engine", "here", "-v")
    store = Store(tmp_path / "store")
    out = fsbench("run", "-m", f"{tmp_path / 'chatty.py'}:Chatty", *words, "--store", store.path)
    assert out.code == 0, out.err
    assert f"  cell chatty_digits_1-shot_seed-1\nkey {SECRET}\n" in out.out
    # The handlers of the tests show what is logged.
    assert "of some interest" not in out.err
    assert log_of(store, "well").splitlines()[1:3] == ["key ***", "INFO chatty: of some interest"]


def test_workers_of_a_job_show_lines_in_their_own_output(
    ran: tuple[Store, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, spec = ran[0], RunSpec.from_dict(json.loads(file_of(ran[0], "well").read_text())["spec"])
    monkeypatch.setenv("CHATTY_API_KEY", SECRET)
    settings = Settings(verbose=1, threads=1, force=True)
    job = Job.create(StoreSnapshot.of(store, [spec]), [spec], settings)
    out = fsbench("worker", "--store", store.path, "--job", job.name)
    assert out.code == 0, out.err
    assert out.out.startswith(f"  cell {name_cell(spec)}\n")
    assert "key ***\n" in log_of(store, "well")


def test_a_cell_that_prints_nothing_has_none(tmp_path: Path) -> None:
    store, words = tmp_path / "store", ("-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20)
    fsbench("run", "-m", "zero-shot", *words, "--store", store)
    (record,) = Store(store).records()
    assert LOG not in record.digests
    assert not [*store.rglob("*.log")]
    shown = fsbench("show", record.spec.key(), "--log", "--store", store)
    assert (shown.out, shown.code) == ("", 0)
    assert "printed nothing" in shown.err


def test_of_a_bar_only_what_stays_is_kept() -> None:
    log = CellLog()
    with collect(log):
        for done in range(5):
            print(f"\r{done}/4", end="")
        print("\nend", end="")
    assert log.text == "4/4\nend\n"


def test_of_much_both_ends_are_kept_and_the_rest_is_counted() -> None:
    log = CellLog()
    for number in range(20_000):
        log.add(f"line {number}\n")
    lines = log.text.splitlines()
    (said,) = (line for line in lines if line.startswith("["))
    assert (lines[0], lines[-1]) == ("line 0", "line 19999")
    assert len(log.text) <= HEAD + TAIL + len(said) + 1
    whole = sum(len(f"line {number}\n") for number in range(20_000))
    assert said == f"[{whole - len(log.text) + len(said) + 1:,} characters left out]"
    assert log.copy().text == log.text


def test_the_root_logger_and_the_streams_are_as_before() -> None:
    root, heard = logging.getLogger(), list[str]()

    def hear(lines: str) -> None:
        # As where it is shown by the same process.
        print(lines, end="")
        heard.append(lines)

    before = root.level, [*root.handlers], sys.stdout, sys.stderr
    log = CellLog(hear, verbosity=2)
    with collect(log):
        logging.getLogger("anything").debug("why")
        logging.info("without handlers, this configures the root logger")
        warnings.warn("beware", stacklevel=1)
    assert (root.level, [*root.handlers], sys.stdout, sys.stderr) == before
    assert heard[0] == "DEBUG test_cell_logs: why\n"
    assert "".join(heard) == log.text


NAMED = {
    ("clip-lora", "digits", "", "all", 1): "clip-lora_digits_4-shot_seed-1",
    ("clip-lora", "digits", "letters", "all", 1): "clip-lora_digits_letters_4-shot_seed-1",
    ("clip-lora", "digits", "", "new", 2): "clip-lora_digits_new_4-shot_split-2_seed-1",
}


def test_messages_of_the_libraries_that_decode_images_are_left_out() -> None:
    log = CellLog(verbosity=2)
    with collect(log):
        logging.getLogger("PIL.PngImagePlugin").debug("STREAM b'IHDR' 16 13")
        logging.getLogger("PIL.Image").warning("a large image")
        logging.getLogger("mine").debug("of interest")
    assert len(log.text.splitlines()) == 2
    assert "STREAM" not in log.text


def test_a_cell_has_a_readable_name_of_its_own() -> None:
    for (method, data, target, classes, split), name in NAMED.items():
        spec = RunSpec(method, data, 4, split, 1, target=target, classes=classes)
        assert name_cell(spec) == name
    specs = [
        RunSpec("a", data, 4, 1, 1, overrides=overrides, options=overrides)
        for data in ("x", "folder:/x", "folder:x", "x_y", "x" * 200, "x" * 201)
        for overrides in ({}, {"lr": 1.0}, {"lr": "1/0"}, {"lr": "../1.0"})
    ]
    names = [name_cell(spec) for spec in specs]
    assert len({*names}) == len(names)
    for name in names:
        assert Path(name).name == name
        assert len(name) < 120


STEERING = """
import os
from dataclasses import dataclass
from fewshot_bench.training import LinearClassifier

os.write(2, b"\\x1b]0;imported\\x07\\n")


@dataclass(frozen=True)
class Steering:
    name = "steering"

    def fit(self, task, backbone, ctx):
        os.write(2, b"\\x1b[2J\\xc2\\x9b1mone\\r\\xe2\\x80\\xaetwo\\xff\\nthree")
        os.write(1, b"\\x1b[31mfour\\n")
        os.system("printf '\\\\033[5mfive\\\\n' >&2")
        return LinearClassifier(backbone.class_features(task))
"""


def test_what_is_written_to_a_descriptor_controls_no_terminal(tmp_path: Path) -> None:
    (tmp_path / "steering.py").write_text(STEERING)
    words = ("-d", "digits", "--shots", 1, "--seeds", 1, "--limit", 20, "--jobs", 1)
    method = f"{tmp_path / 'steering.py'}:Steering"
    process = start("run", "-m", method, *words, "--store", tmp_path / "store")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert all(word in err for word in ("imported", "one", "two", "three", "four", "five"))
    assert all(line.isprintable() for line in (out + err).split("\n"))
