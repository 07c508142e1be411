"""What others meet of the project: its metadata, the sdist, the workflows and the forms."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import fewshot_bench
from tests.support.helpers import REPOSITORY

GITHUB = REPOSITORY / ".github"
FORMS = sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml"))
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project() -> Any:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def jobs(name: str) -> Any:
    """The jobs of a workflow."""
    return read_yaml(GITHUB / "workflows" / name)["jobs"]


def test_the_version_is_said_once_and_cited_alike() -> None:
    cited = read_yaml(REPOSITORY / "CITATION.cff")
    assert "version" not in project()
    assert project()["dynamic"] == ["version"]
    assert cited["version"] == fewshot_bench.__version__


def test_addresses_and_authors_are_cited_as_in_the_metadata() -> None:
    cited, urls = read_yaml(REPOSITORY / "CITATION.cff"), project()["urls"]
    assert cited["repository-code"] == urls["Repository"]
    assert cited["url"] == urls["Documentation"]
    assert cited["authors"] == project()["authors"]
    assert cited["license"] == project()["license"]


def test_the_versions_of_python_that_are_claimed_are_tested() -> None:
    prefix = "Programming Language :: Python :: "
    claimed = [one.removeprefix(prefix) for one in project()["classifiers"] if prefix in one]
    assert jobs("ci.yml")["tests"]["strategy"]["matrix"]["python"] == claimed
    assert project()["requires-python"] == f">={claimed[0]}"
    assert f'LOWEST = "{claimed[0]}"' in (REPOSITORY / "noxfile.py").read_text(encoding="utf-8")


def test_workflows_run_sessions_that_exist() -> None:
    tasks = (REPOSITORY / "noxfile.py").read_text(encoding="utf-8")
    sessions = set(re.findall(r"^@nox\.session.*\ndef (\w+)", tasks, re.MULTILINE))
    texts = [*WORKFLOWS, REPOSITORY / ".pre-commit-config.yaml"]
    said = " ".join(path.read_text(encoding="utf-8") for path in texts)
    named = {name for line in re.findall(r"--session ([a-z ]+)", said) for name in line.split()}
    assert named | set(jobs("ci.yml")["check"]["strategy"]["matrix"]["session"]) <= sessions


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_are_pinned_and_may_only_read(path: Path) -> None:
    workflow = read_yaml(path)
    assert workflow["permissions"] == {"contents": "read"}
    asked = {
        name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job
    }
    pages = {"id-token": "write", "pages": "write"}
    assert asked in ({}, {"publish": {"id-token": "write"}}, {"publish": pages})
    used = re.findall(r"uses: ([\w./@-]+)", path.read_text(encoding="utf-8"))
    assert used
    assert [one for one in used if not re.search(r"@v\d+\.\d+\.\d+$|^\./", one)] == []


def test_the_pages_have_what_the_session_makes() -> None:
    tasks = (REPOSITORY / "noxfile.py").read_text(encoding="utf-8")
    (path,) = [
        step["with"]["path"]
        for step in jobs("docs.yml")["build"]["steps"]
        if "upload-pages" in step.get("uses", "")
    ]
    assert f'build_docs(session, "{path.rstrip("/")}")' in tasks


def test_forms_ask_what_their_answer_needs() -> None:
    forms = {path.stem: read_yaml(path) for path in FORMS if path.stem != "config"}
    assert set(forms) == {"bug", "new-method", "question", "wrong-number"}
    for form in forms.values():
        assert {"name", "description", "body"} <= set(form)
        fields = [one for one in form["body"] if one["type"] != "markdown"]
        assert len({one["id"] for one in fields}) == len(fields)
    asked = {one["id"]: one for one in forms["wrong-number"]["body"] if "id" in one}
    assert asked["signature"]["validations"]["required"] is True


def test_the_changelog_says_what_a_version_can_do() -> None:
    lines = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    (start, *older) = [at for at, line in enumerate(lines) if line.startswith("## ")]
    assert lines[start].startswith(f"## {fewshot_bench.__version__}")
    assert len(lines[: older[0] if older else None]) <= 60
