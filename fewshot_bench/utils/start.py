"""`start`: new Python processes, forked from a server that has imported libraries, or afresh.

The servers are those of `multiprocessing`. A new process runs `main(arguments, channels)` of a
module, never the script or the notebook of the user: it needs no `if __name__ == "__main__":`.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.forkserver import ForkServer, read_signed

from fewshot_bench.utils.messages import Channel
from fewshot_bench.utils.no_terminal import refuse_questions
from fewshot_bench.utils.processes import die_with

# Set this variable to 0 to start all processes afresh.
VARIABLE = "FSBENCH_FORK_SERVER"
# Prefixes of variables that may change while a server lives, since programs read them at start, and
# variables that open_clip, torch and scikit-learn set by themselves in an engine that imports them.
# A change of another one may affect an imported library and needs a new server.
FREE = (
    *("FSBENCH_", "PYTEST_", "TOKENIZERS_PARALLELISM", "TORCHINDUCTOR_CACHE_DIR"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "PYTHONPATH"),
)
# The exit code of a process whose server has ended: it was killed with the server.
KILLED = -9
_FRESH = "import sys; {path}from fewshot_bench.utils.start import run_fresh; run_fresh()"


@dataclass(frozen=True)
class Program:
    """The program of a forked process, and its place; the server hands on its descriptors.

    They are: errors, output, and one for each channel.
    """

    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    # Where the script of the user lies: no module there is taken for an installed one.
    script_folder: str

    def _bootstrap(self, parent_sentinel: int) -> int:
        """Called by `multiprocessing` in the new process: set it up like a fresh one, and run."""
        os.close(parent_sentinel)
        # The server ends with the engine, although its forks live, and they end with it.
        os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
        die_with(os.getppid())
        os.setsid()
        errors, output, *channels = list(forkserver.get_inherited_fds() or ())
        for number, descriptor in ((1, output), (2, errors)):
            os.dup2(descriptor, number)
            os.close(descriptor)
        before = _list_python_path()
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        others = [part for part in sys.path if part not in (*before, self.script_folder)]
        sys.path[:] = [*_list_python_path(), *others]
        importlib.invalidate_caches()
        atexit.unregister(os._exit)
        try:
            _run(self.module, self.arguments, channels)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            # As `multiprocessing` ends its own processes.
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        return 0


class Forked:
    """A process forked by a server, with the part of `subprocess.Popen` that engines use."""

    def __init__(self, server: _Server, status: int) -> None:
        """status: a descriptor from which the process id and the exit code are read."""
        self.returncode: int | None = None
        self._server, self._status = server, status
        self._id: int | None = None
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, status)

    @property
    def has_begun(self) -> bool:
        """False until the process is forked, such as while its server still imports."""
        self.poll()
        return self._id is not None or self.returncode is not None

    @property
    def pid(self) -> int:
        """The process id; the server's as long as the process is not forked."""
        self.poll()
        return self._server.pid if self._id is None else self._id

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs or is not forked yet."""
        with self._lock:
            while self.returncode is None and connection.wait([self._status], 0):
                try:
                    number = read_signed(self._status)
                except EOFError:
                    self.returncode = KILLED
                    break
                if self._id is None:
                    self._id = number
                else:
                    self.returncode = number
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; subprocess.TimeoutExpired after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
            connection.wait([self._status], left)
        return code

    def kill(self) -> None:
        """Kill the process, or its server if it is not forked yet."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


Process = subprocess.Popen[bytes] | Forked


class _Server(ForkServer):
    """A server with the modules `preload`, for processes of one environment."""

    def __init__(self, preload: str, environment: Mapping[str, str]) -> None:
        super().__init__()
        self.set_forkserver_preload([preload])
        self.libraries = _select_library_variables(environment)
        self._engine = os.getpid()

    def __del__(self) -> None:
        """Let the server end, which waits for the end of this descriptor."""
        descriptor = self._forkserver_alive_fd  # type: ignore[attr-defined]
        if descriptor is not None and self._engine == os.getpid():
            os.close(descriptor)

    @property
    def pid(self) -> int:
        """The process id."""
        return int(self._forkserver_pid)  # type: ignore[attr-defined]

    def serves(self, environment: Mapping[str, str]) -> bool:
        """True if processes with this environment may be forked from this server."""
        own = self._engine == os.getpid()
        return own and self.libraries == _select_library_variables(environment)

    def fork(self, program: Program, descriptors: Sequence[int]) -> Forked:
        """Fork a process, as soon as the libraries are imported."""
        with _as_environment({**program.environment, "PYTHONSAFEPATH": "1"}):
            status, writing = self.connect_to_new_process([*descriptors])
        with open(writing, "wb") as stream:
            # Where `multiprocessing` hands over its directory, arguments and main module: nothing.
            pickle.dump({}, stream)
            pickle.dump(program, stream)
        return Forked(self, status)


_lock = threading.Lock()
_servers: dict[str, _Server] = {}


def start(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    channels: Sequence[Channel],
    *,
    errors: int,
    output: int | None = None,
    preload: str | None = None,
    path: Sequence[str] | None = None,
) -> Process:
    """Start a process with a session of its own that runs `main` of a module.

    channels: the ends that it gets, which are closed here. errors, output: descriptors of what it
    prints, the same by default. preload: a module with imports that may be forked; None starts it
    afresh, as for an accelerator, whose driver survives no fork. path: the `sys.path` of a fresh
    process.
    """
    output = errors if output is None else output
    numbers = [channel.fileno() for channel in channels]
    try:
        if preload is not None and sys.platform == "linux" and environment.get(VARIABLE) != "0":
            # If the working directory or the server has just disappeared, start a fresh process.
            with suppress(OSError), _lock:
                script = os.path.abspath(sys.path[0])
                program = Program(module, tuple(arguments), dict(environment), os.getcwd(), script)
                server = _servers.get(preload)
                if server is None or not server.serves(environment):
                    server = _servers[preload] = _Server(preload, environment)
                return server.fork(program, [errors, output, *numbers])
        code = _FRESH.format(path="" if path is None else f"sys.path[:] = {[*path]!r}; ")
        about = [str(os.getpid()), module, ",".join(map(str, numbers))]
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, *about, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=dict(environment),
            pass_fds=numbers,
            start_new_session=True,
        )
    finally:
        for channel in channels:
            channel.close()


def find_preload() -> str | None:
    """The imports of a running server, for a process that needs some of them; None without one."""
    own = (name for name, server in _servers.items() if server._engine == os.getpid())
    return next(own, None)


def run_fresh() -> None:
    """The main function of a fresh process."""
    _, parent, module, numbers, *arguments = sys.argv
    die_with(int(parent))
    _run(module, arguments, [int(number) for number in numbers.split(",")])


def _run(module: str, arguments: Sequence[str], descriptors: Sequence[int]) -> None:
    sys.argv[:] = [module, *arguments]
    refuse_questions()
    channels = [Channel(descriptor) for descriptor in descriptors]
    importlib.import_module(module).main(list(arguments), channels)


@contextmanager
def _as_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Start processes inside with these variables: a server takes over those of this process."""
    before = dict(os.environ)
    _change_environment(before, environment)
    try:
        yield
    finally:
        _change_environment(environment, before)


def _change_environment(now: Mapping[str, str], then: Mapping[str, str]) -> None:
    for name in now.keys() - then.keys():
        os.environ.pop(name, None)
    os.environ.update({name: then[name] for name in then if now.get(name) != then[name]})


def _select_library_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries may have read when they were imported."""
    return {name: value for name, value in environment.items() if not name.startswith(FREE)}


def _list_python_path() -> list[str]:
    """The entries that PYTHONPATH adds to sys.path when Python starts."""
    parts = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return [os.path.abspath(part) for part in parts]


# The environment that the command was started with: processes with labels get no later one.
_remembered: Mapping[str, str] | None = None


@contextmanager
def remember_environment() -> Iterator[None]:
    """Keep a copy of the environment inside; an inner call keeps the outer copy."""
    global _remembered
    before = _remembered
    if before is None:
        _remembered = dict(os.environ)
    try:
        yield
    finally:
        _remembered = before


def environment_at_start() -> dict[str, str]:
    """The kept environment; the present one if none is kept."""
    return dict(os.environ if _remembered is None else _remembered)
