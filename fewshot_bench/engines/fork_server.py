"""Fork server: forks an engine's processes from one process that has imported their libraries.

`start` returns a process that runs a program (a module with `main`), forked from the server of this
program and environment if that is safe, else started afresh. The server (`main`) never loads
plug-ins, so that a fork differs from a fresh process only in its imports.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fewshot_bench.api import plugin_host
from fewshot_bench.backbones import embedded
from fewshot_bench.engines.messages import Closed, receive, send

MODULE = "fewshot_bench.engines.fork_server"
WORKER = "fewshot_bench.engines.worker"
LABELS = "fewshot_bench.engines.label_process"
# The formats that Pillow registers for the first image that it opens.
_DECODERS = ("PIL.JpegImagePlugin", "PIL.PngImagePlugin")
# Modules that a program imports when it starts to work, besides its own.
IMPORTED = {
    WORKER: (
        *("fewshot_bench.runner.run", "fewshot_bench.backbones.open_clip"),
        *("fewshot_bench.training", "psutil", *_DECODERS),
    ),
    LABELS: ("tomllib", "fractions", *_DECODERS),
}
# Set this variable to 0 to disable forking.
VARIABLE = "FSBENCH_FORK_SERVER"
# Prefixes of variables that may change while a server lives, since programs read them at start, and
# variables that open_clip, torch and scikit-learn set by themselves in an engine that imports them.
# A change of another one may affect an imported library and needs a new server.
FREE = (
    *("FSBENCH_", "PYTEST_", "TOKENIZERS_PARALLELISM", "TORCHINDUCTOR_CACHE_DIR"),
    *("KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"),
)
# Seconds that a server that has forked before may take to fork a process.
WAIT_SECONDS = 10.0
# Seconds between the server's checks that its engine is still its parent.
LOOK_SECONDS = 5.0
# Exit code of a process whose server has ended: it was killed with the server.
KILLED = -9


class Forked:
    """A process forked by a server, with the part of `subprocess.Popen` that engines use."""

    def __init__(
        self, server: _Server, stdin: IO[str], stdout: IO[str] | None, status: int
    ) -> None:
        """status: a descriptor from which the process id and the exit code are read."""
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._server = server
        self._status = status
        self._forked: int | None = None
        self._text = b""
        self._lock = threading.Lock()
        os.set_blocking(status, False)
        weakref.finalize(self, os.close, status)

    @property
    def begun(self) -> bool:
        """False until the process is forked, such as while its server still imports."""
        self.poll()
        return self._forked is not None or self.returncode is not None

    @property
    def pid(self) -> int:
        """The process id; the server's as long as the process is not forked."""
        end = time.monotonic() + WAIT_SECONDS
        while self.poll() is None and self._forked is None and self._server.ready:
            if time.monotonic() > end or not self._readable(WAIT_SECONDS):
                break
        return self._server.process.pid if self._forked is None else self._forked

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs or is not forked yet."""
        with self._lock:
            if self.returncode is None:
                with suppress(BlockingIOError):
                    while part := os.read(self._status, 4096):
                        self._text += part
                    # End of file: the server has ended, so no further status will come.
                    self._text += f"\nended {KILLED}\n".encode()
                for line in self._text.decode().splitlines():
                    kind, _, number = line.partition(" ")
                    if kind == "forked" and number:
                        self._forked = int(number)
                        self._server.ready = True
                    elif kind == "ended" and self.returncode is None:
                        self.returncode = int(number)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code; subprocess.TimeoutExpired after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise subprocess.TimeoutExpired(MODULE, timeout or 0.0)
            self._readable(left)
        return code

    def _readable(self, seconds: float | None) -> bool:
        """Wait until the status descriptor is readable; False after `seconds`."""
        watched = select.poll()
        watched.register(self._status, select.POLLIN)
        return bool(watched.poll(None if seconds is None else 1000 * seconds))

    def kill(self) -> None:
        """Kill the process, or its server if it is not forked yet."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class _Server:
    """Engine-side handle of a server, which ends with this process or with the handle."""

    def __init__(
        self, program: str, environment: Mapping[str, str], path: Sequence[str] | None
    ) -> None:
        self.libraries = _libraries(environment)
        # True once it has forked a process: its imports are done, further forks are immediate.
        self.ready = False
        self._engine = os.getpid()
        self._lock = threading.Lock()
        self._channel, other = socket.socketpair()
        with other:
            self.process = subprocess.Popen(
                [
                    *_python(MODULE, path),
                    *(program, str(os.getpid()), str(other.fileno())),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        self.close = weakref.finalize(self, _end, os.getpid(), self._channel, self.process)

    @property
    def is_mine(self) -> bool:
        """True if it lives, and was started by this process."""
        return self._engine == os.getpid() and self.process.poll() is None

    def serves(self, environment: Mapping[str, str]) -> bool:
        """True if processes with this environment may be forked from this server."""
        return self.is_mine and self.libraries == _libraries(environment)

    def fork(
        self,
        program: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        output: int | None,
        errors: int,
        descriptors: Sequence[int],
        path: Sequence[str] | None,
    ) -> Forked:
        """Fork a new process that runs a module's `main`; OSError if the server has ended."""
        request: dict[str, Any] = {"program": program, "arguments": arguments, "path": path}
        request |= {"environment": dict(environment), "folder": os.getcwd()}
        pairs = [os.pipe()[::-1], os.pipe(), os.pipe()]
        (ours, theirs) = zip(*pairs, strict=True)
        try:
            standard = [theirs[0], theirs[1] if output is None else output, errors]
            with self._lock:
                socket.send_fds(self._channel, [b"."], [*standard, theirs[2], *descriptors])
                send(self._channel, request)
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        stdin = os.fdopen(ours[0], "w", encoding="utf-8", errors="replace")
        stdout = os.fdopen(ours[1], encoding="utf-8", errors="replace")
        if output is not None:
            stdout.close()
        return Forked(self, stdin, None if stdout.closed else stdout, ours[2])


def _libraries(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries may have read when they were imported."""
    changing = ("PYTHONPATH",)
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(FREE) and name not in changing
    }


def _end(engine: int, channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
    channel.close()
    # A fork of the engine inherits this finalizer and must not kill the server.
    if os.getpid() == engine:
        process.kill()
        process.wait()


_lock = threading.Lock()
_current: dict[str, _Server] = {}


def start(
    program: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    errors: int,
    descriptors: Sequence[int],
    *,
    output: int | None = None,
    fork: bool = True,
    path: Sequence[str] | None = None,
) -> subprocess.Popen[str] | Forked:
    """Start a process that runs a program, with text pipes for standard input and output.

    program: `WORKER` or `LABELS`. arguments: of its `main`, without the last two, which are its
    parent and its inherited descriptors. output: a descriptor that replaces the output pipe.
    fork: False if a fork is unsafe: an accelerator's driver does not survive it. path: its
    `sys.path`, set once Python has started; by default that of its environment.
    """
    if fork and sys.platform == "linux" and environment.get(VARIABLE) != "0":
        # If the working directory or the server has just disappeared, start a fresh process.
        with suppress(OSError):
            server = _server(program, environment, path)
            return server.fork(program, arguments, environment, output, errors, descriptors, path)
    numbers = ",".join(map(str, descriptors))
    return subprocess.Popen(
        [*_python(program, path), *arguments, str(os.getpid()), numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if output is None else output,
        stderr=errors,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=dict(environment),
        pass_fds=descriptors,
        start_new_session=True,
    )


def start_plugin(environment: Mapping[str, str]) -> plugin_host.Process:
    """Start the process of a plug-in, which imports much of what workers do.

    It is forked from the workers' server if this process has one, else started afresh.
    """
    server = _current.get(WORKER)
    if server is not None and server.is_mine and environment.get(VARIABLE) != "0":
        with suppress(OSError):
            return server.fork(plugin_host.MODULE, [], environment, None, 2, [], None)
    return plugin_host.start_afresh(environment)


def _python(module: str, path: Sequence[str] | None) -> list[str]:
    """The start of a command that runs `main` of a module under a `sys.path`."""
    if path is None:
        return [sys.executable, "-P", "-m", module]
    code = f"import sys; sys.path[:] = {[*path]!r}; from {module} import main; main()"
    return [sys.executable, "-P", "-c", code]


def _server(program: str, environment: Mapping[str, str], path: Sequence[str] | None) -> _Server:
    """The server for an environment; a replaced server lives as long as its `Forked` handles."""
    with _lock:
        server = _current.get(program)
        if server is None or not server.serves(environment):
            server = _current[program] = _Server(program, environment, path)
        return server


def _import(program: str) -> None:
    # Objects of imports stay: to look for garbage among them takes a fifth of the time.
    gc.disable()
    for name in (program, *IMPORTED[program]):
        # The forked process repeats a failed import, and its engine reports the error.
        with suppress(Exception):
            importlib.import_module(name)
    if program == WORKER:
        with suppress(Exception):
            # Imported late, since it imports torch.
            from fewshot_bench.backbones.open_clip import import_library

            import_library()
    if program == WORKER and os.environ.get("OMP_NUM_THREADS") == "1":
        # A process that has computed in several threads must not fork; the toy uses one thread.
        with suppress(Exception):
            embedded.prepare()
    # All objects so far stay alive: exempt them from garbage collection in every fork.
    gc.freeze()
    gc.enable()


def _serve(channel: socket.socket, engine: int) -> list[str] | None:
    """Fork on request until the engine ends (None); in a child, return module and arguments."""
    this = os.getpid()
    running: dict[int, int] = {}
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while os.getppid() == engine:
        ready, _, _ = select.select([channel.fileno(), reading], [], [], LOOK_SECONDS)
        with suppress(BlockingIOError):
            os.read(reading, 4096)
        _report(running)
        if channel.fileno() not in ready:
            continue
        try:
            request, descriptors = _received(channel)
        except (Closed, OSError):
            break
        *standard, status = descriptors[:4]
        try:
            pid = os.fork()
        except OSError as error:
            # A limit on processes or memory must not end the other processes with this server.
            pid = _refused(standard[2], status, error)
        if not pid:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            channel.close()
            for descriptor in (reading, writing, *running.values()):
                os.close(descriptor)
            _become(request, standard, status)
            numbers = ",".join(map(str, descriptors[4:]))
            return [request["program"], *request["arguments"], str(this), numbers]
        if pid > 0:
            running[pid] = status
        else:
            os.close(status)
        for descriptor in (*standard, *descriptors[4:]):
            os.close(descriptor)
    return None


def _refused(errors: int, status: int, error: OSError) -> int:
    """Report a process that cannot be forked as one that has ended with code 1; returns -1."""
    with suppress(OSError):
        os.write(errors, f"cannot fork a process: {error.strerror}\n".encode())
        os.write(status, b"ended 1\n")
    return -1


def _received(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive a request of `_Server.fork`: its message and descriptors."""
    mark, descriptors, _, _ = socket.recv_fds(channel, 1, 250)
    if not mark:
        raise Closed
    return receive(channel)[0], list(descriptors)


def _report(running: dict[int, int]) -> None:
    """Report the exit code of each process that has ended."""
    while running:
        pid, code = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        status = running.pop(pid)
        with suppress(OSError):
            os.write(status, f"ended {os.waitstatus_to_exitcode(code)}\n".encode())
        os.close(status)


def _become(request: Mapping[str, Any], standard: Sequence[int], status: int) -> None:
    """Set up this child like a fresh process: session, folder, variables, standard streams."""
    os.setsid()
    os.write(status, f"forked {os.getpid()}\n".encode())
    os.close(status)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    before = _python_path()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    found = [*_python_path(), *(part for part in sys.path if part not in before)]
    sys.path[:] = found if request["path"] is None else request["path"]
    importlib.invalidate_caches()


def _python_path() -> list[str]:
    """The entries that PYTHONPATH adds to sys.path when Python starts."""
    parts = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return [str(Path(part).absolute()) for part in parts]


def main() -> None:
    """Arguments: the program, the engine's process id, and the descriptor of the channel to it."""
    program, engine, number = sys.argv[1:]
    os.set_inheritable(int(number), False)
    _import(program)
    arguments = _serve(socket.socket(fileno=int(number)), int(engine))
    if arguments is not None:
        forked, *sys.argv[1:] = arguments
        importlib.import_module(forked).main()


if __name__ == "__main__":
    main()
