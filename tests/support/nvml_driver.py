"""An NVIDIA driver's management library in Python: C functions that NVML's own binding calls.

The binding (`pynvml`) stays the real one, with its structures and its error handling; what is
replaced is the shared library behind it. Structures are written by the offsets of NVIDIA's header,
not through the binding's own classes, so that a wrong layout shows.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pynvml
import pytest

SUCCESS: Final = 0
REPORT_ROOM: Final = 8192
CHAIN_ROOM: Final = 5120


@dataclass
class Gpu:
    """One GPU: its report over a nonce, and its certificates as PEM."""

    report: Callable[[bytes], bytes]
    chain: bytes


@dataclass
class Driver:
    """What the library answers; change fields to change the machine."""

    gpus: list[Gpu] = field(default_factory=list)
    environment: int = 2
    feature: int = 1
    devtools: int = 0
    multi_gpu: int = 0
    ready: int = 1
    codes: dict[str, int] = field(default_factory=dict)
    """Functions that fail, with the code they return."""
    missing: frozenset[str] = frozenset()
    """Functions that this version does not have."""
    hang: threading.Event | None = None
    """If given, reports wait until it is set."""
    report_size: int | None = None
    """If given, the size stated beside every report, whatever its real one."""
    initialised: int = 0
    calls: list[str] = field(default_factory=list)

    def library(self) -> Any:
        """An object with C functions, as `ctypes.CDLL` gives one."""
        library = type("Library", (), {})()
        for name, (function, arguments) in self._functions().items():
            if name not in self.missing:
                setattr(library, name, self._exported(name, function, arguments))
        return library

    def _exported(self, name: str, function: Callable[..., int], arguments: list[Any]) -> Any:
        def answer(*given: Any) -> int:
            self.calls.append(name)
            return self.codes.get(name) or function(*given)

        return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(answer)

    def _functions(self) -> dict[str, tuple[Callable[..., int], list[Any]]]:
        pointer, number = ctypes.c_void_p, ctypes.c_uint
        return {
            "nvmlInitWithFlags": (self._init, [number]),
            "nvmlShutdown": (self._shutdown, []),
            "nvmlDeviceGetCount_v2": (lambda at: _put(at, 0, len(self.gpus)), [pointer]),
            "nvmlDeviceGetHandleByIndex_v2": (self._handle, [number, pointer]),
            "nvmlSystemGetConfComputeState": (self._state, [pointer]),
            "nvmlSystemGetConfComputeSettings": (self._settings, [pointer]),
            "nvmlSystemGetConfComputeGpusReadyState": (
                lambda at: _put(at, 0, self.ready),
                [pointer],
            ),
            "nvmlDeviceGetConfComputeGpuCertificate": (self._certificate, [pointer, pointer]),
            "nvmlDeviceGetConfComputeGpuAttestationReport": (self._report, [pointer, pointer]),
        }

    def _init(self, flags: int) -> int:
        self.initialised += 1
        return SUCCESS

    def _shutdown(self) -> int:
        self.initialised -= 1
        return SUCCESS

    def _handle(self, index: int, at: int) -> int:
        ctypes.c_void_p.from_address(at).value = index + 1
        return SUCCESS

    def _state(self, at: int) -> int:
        for offset, value in ((0, self.environment), (4, self.feature), (8, self.devtools)):
            _put(at, offset, value)
        return SUCCESS

    def _settings(self, at: int) -> int:
        if ctypes.c_uint.from_address(at).value != 0x1000014:
            return int(pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH)
        values = (self.environment, self.feature, self.devtools, self.multi_gpu)
        for number, value in enumerate(values, start=1):
            _put(at, 4 * number, value)
        return SUCCESS

    def _certificate(self, device: int, at: int) -> int:
        chain = self.gpus[device - 1].chain
        _put(at, 4, len(chain))
        ctypes.memset(at + 4104, 0xA5, CHAIN_ROOM)  # what lies behind the chain is not the caller's
        ctypes.memmove(at + 4104, chain[:CHAIN_ROOM], min(len(chain), CHAIN_ROOM))
        return SUCCESS

    def _report(self, device: int, at: int) -> int:
        if self.hang is not None:
            self.hang.wait()
        report = self.gpus[device - 1].report(ctypes.string_at(at + 12, 32))
        _put(at, 0, 0)
        _put(at, 4, len(report) if self.report_size is None else self.report_size)
        ctypes.memset(at + 44, 0xA5, REPORT_ROOM)
        ctypes.memmove(at + 44, report, len(report))
        return SUCCESS


@contextmanager
def loaded(driver: Driver) -> Iterator[Driver]:
    """The library in place of the one that is missing on a machine without a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pynvml, "nvmlLib", driver.library())
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        yield driver


def _put(at: int, offset: int, value: int) -> int:
    ctypes.c_uint.from_address(at + offset).value = value
    return SUCCESS
