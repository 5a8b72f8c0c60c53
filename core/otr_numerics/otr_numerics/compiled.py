"""How kernels are compiled, and when a compiled one may be reused.

`kernel` is for functions called by kernels, `entry` for the few called from Python: these are kept
on disk. numba notices when the file of a cached function changes, but not when a kernel that it
calls in another file does; a stale kernel here would be a wrong answer under somebody's signature.
So the stamp of every entry is the digest of all kernel files together.

No fastmath anywhere, and no float: numba turns mixed int64/uint64 arithmetic into float64 silently,
so kernels use int64 (or int32) throughout and widen unsigned arrays when they read them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba.core import caching

Function = TypeVar("Function", bound=Callable[..., Any])

# Read when this module is imported, before anything is compiled.
_SOURCES: Final = sorted(Path(__file__).parent.glob("kernels_*.py"))
STAMP: Final = hashlib.sha256(b"\0".join(path.read_bytes() for path in _SOURCES)).hexdigest()


def _stamped(locator: Any) -> Any:
    """`locator` with the digest of all kernel files as the source stamp."""

    class Stamped(locator):  # type: ignore[misc]
        def get_source_stamp(self) -> str:
            return STAMP

    return Stamped


class _StampedImpl(caching.CompileResultCacheImpl):
    _locator_classes = [  # noqa: RUF012 - numba's own attribute
        _stamped(locator)
        for locator in (
            caching.UserProvidedCacheLocator,
            caching.InTreeCacheLocator,
            caching.UserWideCacheLocator,
        )
    ]


class _StampedCache(caching.FunctionCache):
    _impl_class = _StampedImpl


def kernel(function: Function) -> Function:
    """Compile a function that only kernels call; it becomes part of its callers."""
    return cast(Function, numba.njit(nogil=True, error_model="numpy")(function))


def entry(function: Function) -> Function:
    """Compile a function that Python calls, releasing the GIL, and keep the result on disk."""
    compiled: Any = numba.njit(nogil=True, error_model="numpy")(function)
    make_cache: Any = _StampedCache
    # numba may find no directory to write to (a read-only image): then compile at every start.
    with contextlib.suppress(RuntimeError):
        compiled._cache = make_cache(function)
    return cast(Function, compiled)
