"""Reports of the CPU's TEE through the kernel's configfs-tsm, Linux 6.7 and newer.

Specified in the kernel's Documentation/ABI/testing/configfs-tsm-report. A request is a
directory that is made under `/sys/kernel/config/tsm/report`; the kernel fills it:

    provider          "sev_guest", "tdx_guest", ...
    inblob            write: the 64 bytes that the report will carry
    privlevel         write: the privilege level (VMPL) to report; SEV-SNP only
    privlevel_floor   the least that may be written there
    outblob, auxblob  read: the report, and what the provider hands over with it
    generation        counts the writes

Three things are easy to get wrong. The kernel takes `inblob` when the file is *closed* and throws
away what that returns: only `generation` says that it arrived. Whoever else may write there can
have a report made over other bytes between our write and our read: `generation` says that too.
And the directory's being there says nothing: with no TEE behind it, making a request fails (ENXIO).
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otr_protocol.binding import REPORT_DATA_BYTES
from otr_protocol.errors import UnavailableError

ROOT: Final = Path("/sys/kernel/config/tsm/report")
MAX_ATTRIBUTE_BYTES: Final = 64 * 1024
ATTEMPTS: Final = 5
RETRY_SECONDS: Final = 0.2


class TsmMissingError(UnavailableError):
    """This machine has no configfs-tsm, or no TEE behind it."""

    reason = "TSM_MISSING"


class TsmPermissionError(UnavailableError):
    """This process may not ask the kernel for a report."""

    reason = "TSM_PERMISSION"


class TsmConflictError(UnavailableError):
    """Every report was made while somebody else wrote to the request."""

    reason = "TSM_CONFLICT"


class TsmFailedError(UnavailableError):
    """The kernel, the TEE's firmware or the host did not make a report."""

    reason = "TSM_FAILED"


@dataclass(frozen=True, slots=True)
class TsmReport:
    """What the kernel returned; `auxiliary` is empty where the provider has none."""

    provider: str
    report: bytes
    auxiliary: bytes


class TsmDirectory:
    """The files of requests under one root. Methods raise OSError."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    def make(self, name: str) -> None:
        """Make a request; the kernel fills its directory."""
        (self.root / name).mkdir(mode=0o700)

    def remove(self, name: str) -> None:
        """Drop a request and its report."""
        (self.root / name).rmdir()

    def has(self, name: str, attribute: str) -> bool:
        """Whether this provider has the attribute."""
        return (self.root / name / attribute).exists()

    def read(self, name: str, attribute: str) -> bytes:
        """A whole attribute, from one opening; OSError EFBIG beyond 64 KiB."""
        parts: list[bytes] = []
        room = MAX_ATTRIBUTE_BYTES + 1
        descriptor = os.open(self.root / name / attribute, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(descriptor, room):
                parts.append(part)
                room -= len(part)
                if not room:
                    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), attribute)
        finally:
            os.close(descriptor)
        return b"".join(parts)

    def write(self, name: str, attribute: str, data: bytes) -> None:
        """Write an attribute in one call, as the kernel wants it."""
        descriptor = os.open(self.root / name / attribute, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.EIO, os.strerror(errno.EIO), attribute)
        finally:
            os.close(descriptor)


def request_report(
    directory: TsmDirectory,
    report_data: bytes,
    *,
    privilege_level: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> TsmReport:
    """A report over `report_data` (64 bytes).

    `privilege_level` None takes the least one that this guest may ask for. Raises
    TsmMissingError, TsmPermissionError, TsmConflictError or TsmFailedError.
    """
    assert len(report_data) == REPORT_DATA_BYTES, "configfs-tsm takes exactly 64 bytes"
    if not directory.root.is_dir():
        raise TsmMissingError(
            f"{directory.root} is missing: not a confidential VM, a kernel before 6.7,"
            " or configfs is not mounted"
        )
    name = f"otr-{os.getpid()}-{secrets.token_hex(8)}"
    try:
        directory.make(name)
    except OSError as error:
        raise _refusal(error, "making a request") from error
    try:
        for attempt in range(ATTEMPTS):
            if attempt:
                sleep(RETRY_SECONDS)
            report = _attempt(directory, name, report_data, privilege_level)
            if report is not None:
                return report
    except OSError as error:
        raise _refusal(error, "asking for a report") from error
    finally:
        _drop(directory, name)
    raise TsmConflictError(f"{ATTEMPTS} reports in a row were made while the request changed")


def _attempt(
    directory: TsmDirectory, name: str, report_data: bytes, privilege_level: int | None
) -> TsmReport | None:
    """One report, or None if the request changed under our hands."""
    before = _number(directory, name, "generation")
    writes = 1
    level = _privilege_level(directory, name, privilege_level)
    if level is not None:
        directory.write(name, "privlevel", str(level).encode())
        writes += 1
    directory.write(name, "inblob", report_data)
    try:
        report = directory.read(name, "outblob")
        has_auxiliary = directory.has(name, "auxblob")
        auxiliary = directory.read(name, "auxblob") if has_auxiliary else b""
    except BlockingIOError:  # the kernel saw the change itself, or the firmware is busy
        return None
    provider = directory.read(name, "provider").decode("ascii", "replace").strip()
    if _number(directory, name, "generation") != before + writes:
        return None
    if not report:
        raise TsmFailedError("the kernel returned an empty report")
    return TsmReport(provider, report, auxiliary)


def _privilege_level(directory: TsmDirectory, name: str, wanted: int | None) -> int | None:
    """What to write to `privlevel`; None to leave it alone, at level 0."""
    if wanted is not None:
        return wanted
    # Under a paravisor (SVSM) the guest runs at a level above 0, and level 0 is refused.
    if not directory.has(name, "privlevel_floor"):
        return None
    return _number(directory, name, "privlevel_floor") or None


def _number(directory: TsmDirectory, name: str, attribute: str) -> int:
    text = directory.read(name, attribute).strip()
    if not text.isdigit():
        raise TsmFailedError(f"{attribute} is not a number")
    return int(text)


def _drop(directory: TsmDirectory, name: str) -> None:
    try:
        directory.remove(name)
    except OSError:
        # The report was made or refused already; a request that stays behind costs a few pages.
        return


def _refusal(error: OSError, doing: str) -> UnavailableError:
    what = error.strerror or str(error)
    if error.errno in (errno.ENXIO, errno.ENODEV, errno.ENOTTY):
        return TsmMissingError(f"configfs-tsm has no TEE behind it ({what})")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TsmPermissionError(
            f"{doing} through configfs-tsm is not allowed to this process ({what}):"
            " it takes root and a writable configfs"
        )
    return TsmFailedError(f"{doing} failed: {what}")
