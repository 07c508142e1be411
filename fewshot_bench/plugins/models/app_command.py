"""`fsbench app`: a page on this machine that classifies images with a kept model."""

from __future__ import annotations

import errno
import ipaddress
import socket

import click

from fewshot_bench.cli.options import SIZE, device_option
from fewshot_bench.cli.output import say, warn
from fewshot_bench.cli.working import working
from fewshot_bench.utils.errors import UsageError, require
from fewshot_bench.utils.offline import OfflineError

PATIENCE = 5
"""Seconds that shutdown waits for pending responses."""


@click.command("app", short_help="Open a page that classifies images with a kept model.")
@click.argument("model", metavar="MODEL")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--max-size",
    type=SIZE,
    default="10MB",
    show_default=True,
    help="The largest file that is taken.",
)
@device_option
def command(model: str, host: str, port: int, max_size: int, device: str) -> None:
    """Serve a page that classifies images with the model in the folder MODEL.

    Its address is the first line that is printed; MODEL may be hub:USER/NAME@REVISION too. Images
    are not stored. The same as an API: curl --data-binary @photo.jpg ADDRESS/predict. Ctrl-C ends
    it.
    """
    if max_size < 1:
        raise UsageError(f"--max-size {max_size}: no file fits; expected a size such as 10MB")
    for package in ("starlette", "uvicorn"):
        require(package, "app", "fsbench app")
    from fewshot_bench.analysis.model import open_model
    from fewshot_bench.plugins.models.app import application

    with _listen(host, port) as listener:
        address, taken = listener.getsockname()[:2]
        loopback = ipaddress.ip_address(address).is_loopback
        names = {"localhost", host} if loopback else {"localhost", host, socket.gethostname()}
        with working("app"):
            opened = open_model(model, device, None, warn)
        app = application(opened, max_size, names, warn)
        shown = host if host not in ("0.0.0.0", "::", "") else "127.0.0.1"
        say(f"http://{f'[{shown}]' if ':' in shown else shown}:{taken}")
        if not loopback:
            warn(f"whoever reaches {address} may ask this model: there is no password")
        _serve(app, listener)


def _serve(app: object, listener: socket.socket) -> None:
    """Serve until Ctrl-C."""
    import uvicorn

    from fewshot_bench.plugins.models.connections import HEAD_SECONDS, Connection

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        http=Connection,
        loop="asyncio",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=HEAD_SECONDS,
        timeout_graceful_shutdown=PATIENCE,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        return


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at this address; UsageError if that fails."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # At once: while nobody listens, another process may bind the same port.
        listener.listen()
        return listener
    except OfflineError:
        raise UsageError(
            "the page needs a socket, and --offline allows none; leave it out: the page itself "
            "loads nothing from elsewhere"
        ) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} of {host} is taken; name another by --port, 0 for a free one"
            ) from None
        raise UsageError(f"cannot listen at {host}, port {port}: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"--host {host!r:.80} is no name of a host: expected 127.0.0.1") from None
