"""--offline: local resources work; anything remote is reported and not requested."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewshot_bench.store.store import Store
from tests.helpers import PATIENCE, command, environment
from tests.preparing import Shop, images, open_shop, tar

PLUGIN = '''
import dataclasses, socket
from typing import ClassVar
from fewshot_bench import hookimpl

@dataclasses.dataclass(frozen=True)
class Calling:
    """Tries to reach another machine."""

    name: ClassVar[str] = "calling"

    def fit(self, task, backbone, ctx):
        socket.create_connection(("127.0.0.1", 9), timeout=1)

@hookimpl
def register_methods(register):
    register("calling", "fsbench_calling:Calling")
'''
BLOCKED = """
import socket, sys, urllib.request
from fewshot_bench.utils import offline
offline.enforce()
offline.enforce()
one, other = socket.socketpair()
one.sendall(b"x")
assert other.recv(1) == b"x"
assert socket.gethostname()
tries = [
    lambda: socket.socket(),
    lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    lambda: socket.create_connection(("localhost", 9)),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.gethostbyname("example.org"),
    lambda: urllib.request.urlopen("http://127.0.0.1:9/"),
]
for each in tries:
    try:
        each()
    except OSError as error:
        reason = getattr(error, "reason", error)
        assert isinstance(reason, offline.OfflineError), reason
        assert "--offline" in reason.strerror
    else:
        sys.exit("was allowed")
assert not {"torch"} & set(sys.modules)
"""


CHILDREN = """
import ctypes, socket, subprocess, sys, threading
waiting = threading.Event()
errors = []
def late():
    waiting.wait()
    errors.append(ctypes.CDLL(None, use_errno=True).socket(2, 1, 0))
    errors.append(ctypes.get_errno())
thread = threading.Thread(target=late)
thread.start()
from fewshot_bench.utils import offline
offline.enforce()
waiting.set()
thread.join()
assert errors == [-1, 101], errors
child = "import socket; socket.socketpair(); socket.socket(socket.AF_INET{})"
for family in ("", "6"):
    words = [sys.executable, "-I", "-c", child.format(family)]
    done = subprocess.run(words, env={}, capture_output=True, text=True)
    assert done.stderr.endswith("OSError: [Errno 101] Network is unreachable\\n"), done.stderr
"""


def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a subprocess."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=environment(**variables),
    )


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with open_shop(tmp_path, monkeypatch) as opened:
        yield opened


def test_internet_sockets_are_refused_and_others_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64") or sys.platform != "linux",
    reason="only Linux refuses sockets to child processes",
)
def test_child_processes_and_compiled_code_have_no_internet_sockets() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_engines_that_talk_over_the_network_are_refused(tmp_path: Path, engine: str) -> None:
    words = ("run", "-m", "zero-shot", "-d", "digits", "--shots", 1, "--dry-run")
    done = run(*words, "--engine", engine, "--store", tmp_path / "store", FSBENCH_OFFLINE="1")
    assert done.returncode == 2
    assert f"--engine {engine} talks over the network, which --offline forbids" in done.stderr


@pytest.mark.slow
def test_a_run_works_and_a_method_that_connects_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "plugin" / "fsbench_calling-1.0.dist-info"
    info.mkdir(parents=True)
    (info.parent / "fsbench_calling.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fsbench_calling\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fewshot_bench]\ncalling = fsbench_calling\n")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(info.parent), *sys.path]))
    where = ("--store", tmp_path / "store", "--shots", 1, "--seeds", 1, "--limit", 20)
    what = ("--method", "calling,zero-shot", "--dataset", "digits", "--jobs", 1)
    done = run("--offline", "run", *what, *where)
    assert done.returncode == 1, done.stderr
    records = {r.spec.method: r for r in Store(tmp_path / "store").records()}
    assert records["zero-shot"].status == "done"
    error = records["calling"].error
    assert error is not None
    assert error["type"] == "OfflineError"
    assert "--offline (or FSBENCH_OFFLINE) allows no connection" in error["message"]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_nothing_is_fetched(shop: Shop, how: str) -> None:
    shop.sell([shop.archive(tar(images()))])
    if how == "option":
        done = run("--offline", "data", "prepare", "wares")
    else:
        done = run("data", "prepare", "wares", FSBENCH_OFFLINE="1")
    assert done.returncode == 3
    told = done.stdout + done.stderr
    assert "wares.tar.gz is not here, and --offline allows no download" in told
    assert "Traceback" not in told
    assert shop.site.requests == []
    assert run("data", "prepare", "wares", FSBENCH_OFFLINE="0").returncode == 0
    assert shop.site.requests


@pytest.mark.slow
def test_weights_that_are_not_here(tmp_path: Path) -> None:
    options = ("--method", "zero-shot", "--dataset", "digits", "--store", tmp_path / "store")
    homes = {"HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = run("--offline", "run", *options, "--backbone", "ViT-B-32/laion2b_s34b_b79k", **homes)
    assert done.returncode == 3, done.stderr
    assert "--offline allows no download: run once without it" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_value_that_is_neither_yes_nor_no() -> None:
    done = run("list", "methods", FSBENCH_OFFLINE="perhaps")
    assert done.returncode == 2
    assert done.stderr == "error: FSBENCH_OFFLINE=perhaps: expected 1 to open no connection, or 0\n"
