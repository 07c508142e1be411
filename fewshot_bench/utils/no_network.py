"""A filter of the Linux kernel that refuses sockets to other machines, for child processes too.

`refuse_sockets` is the entry point. It needs no privileges, and no process can remove it.
Source: the kernel's Documentation/userspace-api/seccomp_filter.rst; numbers of its headers.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
import sys

# By machine: its number in linux/audit.h, then the system calls `socket` and `seccomp`.
_MACHINES = {"x86_64": (0xC000003E, 41, 317), "aarch64": (0xC00000B7, 198, 277)}
_IO_URING_SETUP, _X32 = 425, 0x40000000
# Sockets within this machine: to processes, to the kernel, and to its ciphers.
_WITHIN = (socket.AF_UNIX, 16, 38)
_NO_NEW_PRIVILEGES = 38
_SET_FILTER = 1
# For all threads, and without slowing down what else the processes compute.
_FLAGS = 1 | 4
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
# Operations of a filter: load a word of the system call, mask it, compare it, return.
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_NUMBER, _MACHINE, _FAMILY = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse_sockets() -> bool:
    """Refuse internet sockets in this process, its threads and its children, from now on.

    `socket` fails there with ENETUNREACH. Programs for another kind of processor, and io_uring,
    which opens sockets without that call, fail with ENOSYS. False where the kernel has no filters.
    """
    numbers = _MACHINES.get(platform.machine())
    if not sys.platform.startswith("linux") or numbers is None or sys.maxsize < 2**32:
        return False
    library = ctypes.CDLL(None, use_errno=True)
    content = _filter(numbers[0], numbers[1])
    program = _Program(len(content) // 8, content)
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(library.syscall(numbers[2], _SET_FILTER, _FLAGS, ctypes.byref(program)) == 0)


def _filter(machine: int, opens: int) -> bytes:
    """The filter for one kind of machine, whose system call `opens` opens a socket."""
    refused, absent = _ERROR | errno.ENETUNREACH, _ERROR | errno.ENOSYS
    # A comparison is followed by how many operations are skipped if it holds, and if not.
    operations = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, absent),
        (_LOAD, 0, 0, _NUMBER),
        (_AND, 0, 0, ~_X32 & 0xFFFFFFFF),
        (_EQUAL, 0, 1, _IO_URING_SETUP),
        (_RETURN, 0, 0, absent),
        (_EQUAL, 0, len(_WITHIN) + 2, opens),
        (_LOAD, 0, 0, _FAMILY),
        *((_EQUAL, len(_WITHIN) - index, 0, family) for index, family in enumerate(_WITHIN)),
        (_RETURN, 0, 0, refused),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("HBBI", *operation) for operation in operations)
