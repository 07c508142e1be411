"""A results repository, played through: its workflows' own steps on a local bare repository."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewshot_bench.api.metrics import rounded
from fewshot_bench.store.answer_files import NONE
from fewshot_bench.store.store import Store
from tests.support.answers import answers_of
from tests.support.bundles import change_record, members_of, with_metric, write
from tests.support.helpers import environment, fsbench

NAME = "lab-results"
METHODS = ("zero-shot", "gda")
RUN = (
    *("run", "-m", ",".join(METHODS), "-d", "shapes", "--shots", 4, "--seeds", 1),
    *("--backbone", "tiny", "--device", "cpu", "--jobs", 1),
)


@dataclass(frozen=True)
class Repository:
    """A bare repository, and the environment of a runner's steps."""

    bare: Path
    scratch: Path
    env: dict[str, str]

    def git(self, folder: Path, *arguments: object) -> str:
        """The output of a git command in a folder."""
        who = ("-c", "user.name=lab", "-c", "user.email=lab@lab.example")
        return subprocess.run(
            ["git", *who, *map(str, arguments)],
            cwd=folder,
            env=self.env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    def steps(self, workflow: str, job: str, clone: Path) -> tuple[int, str]:
        """Run the steps of a job of main's workflow as a runner does; code, output and summary."""
        path = f"main:.github/workflows/{workflow}"
        text = yaml.safe_load(self.git(self.bare, "show", path))
        assert text["jobs"][job]["defaults"] == {"run": {"shell": "bash"}}
        summary = clone.with_suffix(".summary")
        said = ""
        for step in text["jobs"][job]["steps"]:
            if "run" in step:
                done = subprocess.run(
                    ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
                    cwd=clone,
                    env=self.env | {"GITHUB_STEP_SUMMARY": str(summary)},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                said += done.stdout + done.stderr
                if done.returncode:
                    return done.returncode, said
        return 0, said + (summary.read_text("utf-8") if summary.exists() else "")

    def clone(self, name: str) -> Path:
        """A clone of main."""
        self.git(self.scratch, "clone", "-q", "-b", "main", self.bare, name)
        return self.scratch / name

    def propose(self, name: str, change: Any, *taken: int) -> tuple[int, str]:
        """A pull request: change a clone, check the merge, and push it for these exit codes."""
        clone = self.clone(name)
        self.git(clone, "switch", "-q", "-c", name)
        change(clone)
        self.git(clone, "add", "-A")
        self.git(clone, "commit", "-q", "-m", name)
        self.git(clone, "switch", "-q", "main")
        self.git(clone, "merge", "-q", "--no-ff", "-m", f"merge {name}", name)
        code, said = self.steps("verify.yml", "bundles", clone)
        if code in taken:
            self.git(clone, "push", "-q", "origin", "main")
        return code, said


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The repository that `fsbench new results` makes, pushed."""
    scratch = tmp_path_factory.mktemp("results")
    tools = scratch / "bin"
    tools.mkdir()
    for tool, code in (("uv", "exit 0"), ("fsbench", f'"{sys.executable}" -m fewshot_bench "$@"')):
        (tools / tool).write_text(f"#!/bin/sh\n{code}\n")
        (tools / tool).chmod(0o755)
    env = environment(
        PATH=f"{tools}:{environment()['PATH']}", GIT_CONFIG_GLOBAL="/dev/null", HOME=str(scratch)
    )
    made = Repository(scratch / "bare.git", scratch, env)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scratch)
        assert fsbench("new", "results", NAME).code == 0
    made.git(scratch, "init", "-q", "--bare", "-b", "main", made.bare)
    first = scratch / NAME
    made.git(first, "init", "-q", "-b", "main")
    made.git(first, "add", "-A")
    made.git(first, "commit", "-q", "-m", "first")
    made.git(first, "push", "-q", made.bare, "main")
    return made


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles: of a, of b who ran the same, of c with another cell, and of d without logits."""
    folder = tmp_path_factory.mktemp("bundles")
    done = fsbench(*RUN, "--store", folder / "a")
    assert done.code == 0, done.err
    store = Store(folder / "a")
    for lab in "bcd":
        for record in store.records():
            stored = store.answers(record.spec.key())
            flip = lab == "c" and record.spec.method == "gda"
            answers = answers_of(
                -stored.answers.logits if flip else stored.answers.logits, stored.answers.labels
            )
            Store(folder / lab).write(
                dataclasses.replace(
                    record,
                    metrics=rounded(answers),
                    timings={**record.timings, "wall_seconds": 9.0},
                ),
                answers,
                stored.ids,
                NONE if lab == "d" else "",
            )
    made = {}
    for lab in "abcd":
        made[lab] = folder / f"{lab}.zip"
        sent = fsbench("submit", folder / lab, "-O", made[lab], "--submitter", f"Lab {lab}")
        assert sent.code == 0, sent.err
    return made


def add(bundle: Path, name: str = "", submitter: str = "") -> Any:
    """A change that adds a bundle under its name, or under another one."""
    content = bundle.read_bytes()
    own = f"{submitter or bundle.stem}-{hashlib.sha256(content).hexdigest()[:12]}.zip"
    return lambda clone: (clone / "bundles" / (name or own)).write_bytes(content)


def rows_of(page: Path) -> dict[tuple[str, str], tuple[str, str]]:
    """By source and method the level of a row of a site, and with whom it disagrees."""
    text = page.read_text("utf-8")
    (found,) = re.findall(r'<script type="application/json" id="data">(.*)</script>', text)
    data = json.loads(found)
    rows = {}
    for board in data["boards"]:
        for row in board["rows"]:
            line = dict(zip(data["fields"], row, strict=True))
            method = line["method"].partition(" (")[0]
            rows[data["sources"][line["source"]], method] = (
                board["axes"]["level"],
                line["disagrees"],
            )
    return rows


def test_its_workflows_hold_no_secret(repository: Repository) -> None:
    for path in (repository.scratch / NAME / ".github" / "workflows").iterdir():
        text = path.read_text("utf-8")
        assert "secrets" not in text
        assert "pull_request_target" not in text
        assert text.count("persist-credentials: false") == text.count("actions/checkout@")


def test_labs_submit_repeat_and_disagree(repository: Repository, bundles: dict[str, Path]) -> None:
    code, said = repository.propose("a", add(bundles["a"]), 0)
    assert code == 0, said
    assert "2 cells of Lab a: 2 verified" in said

    code, said = repository.propose("b", add(bundles["b"]), 0)
    assert code == 0, said
    assert "2 cells of Lab b: 2 re-run" in said
    assert "2 cells as Lab a has them" in said

    code, said = repository.propose("c", add(bundles["c"]), 0)
    assert code == 0, said
    assert "2 cells of Lab c: 1 re-run, 1 verified" in said
    assert said.count("**disagreement**") == 4  # Two labs, in the log and in the summary.

    code, said = repository.propose("d", add(bundles["d"]), 0, 1)
    assert code == 1
    assert "2 cells of Lab d: 2 submitted" in said
    assert "its logits were not kept" in said

    clone = repository.clone("site")
    code, said = repository.steps("site.yml", "build", clone)
    assert code == 0, said
    assert not repository.git(clone, "status", "--porcelain")
    rows = rows_of(clone / "site" / "results.html")
    assert {key: level for key, (level, _) in rows.items()} == {
        ("Lab a", "gda"): "re-run",
        ("Lab a", "zero-shot"): "re-run",
        ("Lab b", "gda"): "re-run",
        ("Lab b", "zero-shot"): "re-run",
        ("Lab c", "gda"): "verified",
        ("Lab c", "zero-shot"): "re-run",
        ("Lab d", "gda"): "submitted",
        ("Lab d", "zero-shot"): "submitted",
    }
    assert {key: others for key, (_, others) in rows.items() if others} == {
        ("Lab a", "gda"): "Lab c",
        ("Lab b", "gda"): "Lab c",
        ("Lab c", "gda"): "Lab a, Lab b, Lab d",
        ("Lab d", "gda"): "Lab c",
    }


def test_what_is_no_good_bundle_fails_the_check(
    repository: Repository, bundles: dict[str, Path], tmp_path: Path
) -> None:
    changed = change_record(members_of(bundles["a"]), with_metric("top1", 99.0))
    wrong = write(tmp_path / "wrong.zip", changed)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(bundles["a"].read_bytes()[:-9])
    code, said = repository.propose("wrong", add(wrong))
    assert code == 1
    assert "**unverified**" in said
    code, said = repository.propose("cut", add(cut))
    assert code == 2
    assert ": refused" in said


def _touch_workflow(clone: Path) -> None:
    path = clone / ".github" / "workflows" / "verify.yml"
    path.write_text(path.read_text("utf-8") + "# more\n", "utf-8")


def _link(clone: Path) -> None:
    (clone / "bundles" / "a-000000000000.zip").symlink_to("../README.md")


def _replace(clone: Path) -> None:
    path = clone / "bundles" / "README.md"
    path.write_text("other", "utf-8")


def _hide(clone: Path) -> None:
    (clone / "bundles" / "x").mkdir()
    (clone / "bundles" / "x" / "a-000000000000.zip").write_bytes(b"PK\x03\x04")


@pytest.mark.parametrize("change", [_touch_workflow, _link, _replace, _hide])
def test_a_pull_request_adds_bundles_alone(repository: Repository, change: Any) -> None:
    code, said = repository.propose(change.__name__, change)
    assert code == 1
    assert "::error::only new files bundles/SUBMITTER-DIGEST.zip are taken" in said


@pytest.mark.parametrize("name", ["a.zip", "a b-000000000000.zip", "a-000000000000.zip"])
def test_a_bundle_has_the_name_of_its_digest(
    repository: Repository, bundles: dict[str, Path], name: str
) -> None:
    branch = re.sub(r"\W", "-", f"name-{name}")
    code, said = repository.propose(branch, add(bundles["a"], name))
    assert code == 1
    assert "::error::" in said
