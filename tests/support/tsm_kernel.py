"""The kernel's side of configfs-tsm on a temporary tree: real files, made and filled as it does.

A request's directory appears with its attributes; writing `inblob` or `privlevel` counts
`generation` up and makes a new report, as the kernel does before a reader can look.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from otr_attester.tsm import TsmDirectory


@dataclass
class Machine:
    """What the TEE behind the directory answers; change fields to change it."""

    provider: str
    report: Callable[[bytes, int], bytes]
    """The report over 64 bytes at a privilege level."""
    auxiliary: bytes | None = None
    privilege_floor: int | None = None
    refuses_requests: int = 0
    """The error number that making a request ends in, if not 0."""
    refuses_reports: list[int] = field(default_factory=list)
    """Error numbers that reading `outblob` ends in, first to last, before it works."""
    strangers_writes: list[bytes] = field(default_factory=list)
    """What somebody else writes to `inblob` after us, first to last; b"" is nothing this time."""
    loses_writes: bool = False
    """Whether the kernel refuses `inblob` at its closing, where nobody hears of it."""


class KernelTree(TsmDirectory):
    """`TsmDirectory` with a kernel behind it."""

    def __init__(self, root: Path, machine: Machine) -> None:
        root.mkdir(parents=True, exist_ok=True)
        super().__init__(root)
        self.machine = machine
        self._levels: dict[str, int] = {}

    def make(self, name: str) -> None:
        if self.machine.refuses_requests:
            raise OSError(self.machine.refuses_requests, os.strerror(self.machine.refuses_requests))
        super().make(name)
        self._levels[name] = 0
        files = {"provider": self.machine.provider.encode() + b"\n", "generation": b"0\n"}
        files |= {"inblob": b"", "outblob": b""}
        if self.machine.auxiliary is not None:
            files["auxblob"] = b""
        if self.machine.privilege_floor is not None:
            files["privlevel"] = b""
            files["privlevel_floor"] = f"{self.machine.privilege_floor}\n".encode()
        for attribute, content in files.items():
            (self.root / name / attribute).write_bytes(content)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / name)  # rmdir of a configfs item takes its attributes along

    def write(self, name: str, attribute: str, data: bytes) -> None:
        if attribute == "privlevel":
            if int(data) < (self.machine.privilege_floor or 0):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            self._levels[name] = int(data)
        super().write(name, attribute, data)
        if attribute != "inblob" or not self.machine.loses_writes:
            self._count(name)
        if attribute == "inblob" and not self.machine.loses_writes:
            self._make_report(name, data)
        strangers = self.machine.strangers_writes
        if attribute == "inblob" and strangers and (theirs := strangers.pop(0)):
            self._count(name)
            self._make_report(name, theirs)

    def read(self, name: str, attribute: str) -> bytes:
        if attribute == "outblob":
            if self.machine.refuses_reports:
                number = self.machine.refuses_reports.pop(0)
                raise OSError(number, os.strerror(number))
            if self.machine.loses_writes:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().read(name, attribute)

    def _count(self, name: str) -> None:
        file = self.root / name / "generation"
        file.write_text(f"{int(file.read_text()) + 1}\n")

    def _make_report(self, name: str, data: bytes) -> None:
        report = self.machine.report(data, self._levels[name])
        (self.root / name / "outblob").write_bytes(report)
        if self.machine.auxiliary is not None:
            (self.root / name / "auxblob").write_bytes(self.machine.auxiliary)


def certificate_table(*entries: tuple[bytes, bytes]) -> bytes:
    """A host's certificate table of (GUID bytes, certificate)."""
    at = 24 * (len(entries) + 1)
    head, body = b"", b""
    for guid, certificate in entries:
        offset = at + len(body)
        head += guid + offset.to_bytes(4, "little") + len(certificate).to_bytes(4, "little")
        body += certificate
    return head + bytes(24) + body
