"""`fsbench --offline`: this process and its child processes open no internet socket."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import Any

from fewshot_bench.utils.errors import UsageError
from fewshot_bench.utils.no_network import refuse_sockets

VARIABLE = "FSBENCH_OFFLINE"
# Variables that make other packages stay off the network.
OTHERS = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_YES, _NO = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")
_INTERNET = (socket.AF_INET, socket.AF_INET6)
_LOOKUPS = (
    *("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"),
    "socket.getnameinfo",
)
_USES = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
_hooked = False


class OfflineError(ConnectionError):
    """Code tried to reach another machine; `strerror` is a one-line message."""

    exit_code = 3

    def __init__(self, what: str = "the network") -> None:
        super().__init__(
            errno.ENETUNREACH,
            f"{what} was asked for, and --offline (or {VARIABLE}) allows no connection: run once "
            "without it, or use what is on this machine",
        )


def is_on() -> bool:
    """True if FSBENCH_OFFLINE is on; UsageError for a value that is neither yes nor no."""
    return is_switched_on(VARIABLE, "open no connection")


def is_switched_on(variable: str, effect: str) -> bool:
    """True if an environment variable says yes; UsageError for neither yes nor no.

    effect: of a yes, for the message.
    """
    value = os.environ.get(variable, "")
    if value.casefold() not in (*_YES, *_NO):
        raise UsageError(f"{variable}={value}: expected 1 to {effect}, or 0")
    return value.casefold() in _YES


def enforce_if_asked() -> None:
    """Call `enforce` if FSBENCH_OFFLINE is on."""
    if is_on():
        enforce()


def enforce() -> None:
    """Make internet sockets and name look-ups raise OfflineError from now on.

    Irreversible in this process; child processes inherit the variables. Pipes and unix sockets
    still work. On Linux, the kernel refuses such sockets to compiled code and child processes, too
    (`no_network`); elsewhere, those opened without Python's socket module are not detected.
    """
    global _hooked
    os.environ.update(dict.fromkeys((VARIABLE, *OTHERS), "1"))
    if not _hooked:
        _hooked = True
        refuse_sockets()
        sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in _LOOKUPS:
        raise OfflineError(f"the address of {arguments[0]!r:.80}")
    if event == "socket.__new__" and arguments[1] in _INTERNET:
        raise OfflineError()
    if event in _USES and arguments[0].family in _INTERNET:
        raise OfflineError(f"a connection with {arguments[-1]!r:.80}")
