"""--offline: local resources work; anything remote is reported and not requested."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fewshot_bench.store.store import Store
from tests.support.helpers import PATIENCE, REPOSITORY, environment, fsbench
from tests.support.preparing import Shop, images, open_shop, tar

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


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with open_shop(tmp_path, monkeypatch) as opened:
        yield opened


def run_script(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_internet_sockets_are_refused_and_others_are_not() -> None:
    run_script(BLOCKED)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64") or sys.platform != "linux",
    reason="only Linux refuses sockets to child processes",
)
def test_child_processes_and_compiled_code_have_no_internet_sockets() -> None:
    run_script(CHILDREN)


# Runs commands one after the other, since nothing lifts the ban in a process.
COMMANDS = """
import json, sys
from tests.support.helpers import fsbench
for words in json.loads(sys.argv[1]):
    done = fsbench(*words)
    print(json.dumps([done.code, done.out, done.err]))
"""


def run_offline(commands: Sequence[Sequence[object]], **variables: str) -> list[list[Any]]:
    """The exit code, output and errors of each command, in one process."""
    words = [list(map(str, command)) for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(words)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        env=environment(**variables),
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_engines_and_weights_that_need_the_network_are_refused(tmp_path: Path) -> None:
    words = ("run", "-m", "zero-shot", "-d", "digits", "--store", tmp_path / "store")
    weights = ("--offline", *words, "--backbone", "ViT-B-32/laion2b_s34b_b79k")
    engines = ("slurm", "ray")
    commands = [weights, *((*words, "--dry-run", "--engine", engine) for engine in engines)]
    homes = dict.fromkeys(("HF_HOME", "XDG_CACHE_HOME", "HOME"), str(tmp_path))
    missing, *refused = run_offline(commands, FSBENCH_OFFLINE="1", **homes)
    assert missing[0] == 3, missing
    assert "--offline allows no download: run once without it" in missing[2]
    for engine, (code, _, said) in zip(engines, refused, strict=True):
        assert code == 2
        assert f"--engine {engine} talks over the network, which --offline forbids" in said
    assert "Traceback" not in missing[2]


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
    ((code, _, said),) = run_offline([("--offline", "run", *what, *where)])
    assert code == 1, said
    records = {r.spec.method: r for r in Store(tmp_path / "store").records()}
    assert records["zero-shot"].status == "done"
    error = records["calling"].error
    assert error is not None
    assert error["type"] == "OfflineError"
    assert "--offline (or FSBENCH_OFFLINE) allows no connection" in error["message"]


def test_nothing_is_fetched(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sell([shop.archive(tar(images()))])
    prepare = ("data", "prepare", "wares")
    (by_option,) = run_offline([("--offline", *prepare)])
    (by_variable,) = run_offline([prepare], FSBENCH_OFFLINE="1")
    for code, out, said in (by_option, by_variable):
        assert code == 3
        assert "wares.tar.gz is not here, and --offline allows no download" in out + said
        assert "Traceback" not in out + said
    assert shop.site.requests == []
    monkeypatch.setenv("FSBENCH_OFFLINE", "0")
    assert fsbench(*prepare).code == 0
    assert shop.site.requests


def test_a_value_that_is_neither_yes_nor_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSBENCH_OFFLINE", "perhaps")
    done = fsbench("list", "methods")
    assert done.code == 2
    assert done.err == "error: FSBENCH_OFFLINE=perhaps: expected 1 to open no connection, or 0\n"
