"""A process whose disk fails to sync: the kernel answers EIO, by a seccomp filter on this process.

Linux on x86-64 and AArch64; the filter holds for the calling thread, for those it starts and for
ever, so it belongs into a process of its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final

# (AUDIT_ARCH, fsync, fdatasync) by machine.
MACHINES: Final = {"x86_64": (0xC000003E, 74, 75), "aarch64": (0xC00000B7, 82, 83)}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | errno.EIO


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def fail_every_sync() -> None:
    """From now on fsync and fdatasync fail with EIO. Raises OSError where that is not possible."""
    if platform.machine() not in MACHINES:
        raise OSError(errno.ENOSYS, f"no filter for {platform.machine()}")
    architecture, fsync, fdatasync = MACHINES[platform.machine()]
    code = b"".join(
        struct.pack("=HBBI", *instruction)
        for instruction in (
            (LOAD_WORD, 0, 0, 4),  # the architecture
            (JUMP_IF_EQUAL, 0, 3, architecture),
            (LOAD_WORD, 0, 0, 0),  # the call's number
            (JUMP_IF_EQUAL, 2, 0, fsync),
            (JUMP_IF_EQUAL, 1, 0, fdatasync),
            (RETURN, 0, 0, ALLOW),
            (RETURN, 0, 0, FAIL),
        )
    )
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
