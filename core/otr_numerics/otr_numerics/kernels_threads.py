# mypy: disallow-untyped-defs=False, check-untyped-defs=False, disallow-untyped-calls=False
# (kernels are typed by numba, from the arrays they are called with)
"""How the threads of one step wait for each other, and how they share rows.

Between two operations every thread has to see what the others wrote. A barrier is one counter that
only grows: arriving adds 1, and the n-th barrier of k threads is open at n * k. Threads spin for a
while, which is right when each has a core, and then yield, which is right when they do not.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from otr_numerics.compiled import kernel

SPINS = 4096

_INT64 = ir.IntType(64)


@intrinsic
def _add(typing_context, address):
    """Add 1 to the int64 at `address`, after everything this thread wrote."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.atomic_rmw("add", pointer, _INT64(1), "acq_rel")

    return types.int64(types.intp), generate


@intrinsic
def _read(typing_context, address):
    """The int64 at `address`, before anything this thread reads from now on."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], _INT64.as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.intp), generate


@intrinsic
def _yield_core(typing_context):
    """POSIX sched_yield."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        function = builder.module.globals.get("sched_yield")
        if function is None:
            function = ir.Function(builder.module, kind, "sched_yield")
        return builder.call(function, [])

    return types.int32(), generate


@kernel
def wait(counter, target):
    """Arrive at the barrier that opens at `target`, and wait until it does."""
    address = counter.ctypes.data
    _add(address)
    spins = 0
    while _read(address) < target:
        spins += 1
        if spins > SPINS:
            _yield_core()


@kernel
def share(count, thread, threads, unit):
    """The part [low, high) of `count` outputs that a thread computes, in multiples of `unit`."""
    units = count // unit
    low = units * thread // threads * unit
    high = count if thread + 1 == threads else units * (thread + 1) // threads * unit
    return low, high
