#!/usr/bin/env python3
"""CPU time of appraising a real TDX quote, beside bare dcap-qvl on the same quote.

One core, real evidence and collateral from OTR_VECTORS (intel/tdx_v4_dstack), judged at a time at
which all of it is current:

  known        a quote of a machine seen before: one signature
  new_machine  vendor collateral known; this machine's chain, quoting enclave and TCB level are new
  cold         nothing cached: the collateral record as well
  dcap_qvl     the library alone, its collateral parsed beforehand

The rounds alternate, so that a busy machine slows all of them alike; the figure is the median.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import dcap_qvl

from otr_protocol.attestation.collateral import collect
from otr_protocol.attestation.evidence import INTEL_TDX, CpuEvidence
from otr_protocol.attestation.intel import pck_chain, tdx_collateral, tdx_quote, tdx_verify
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.intel.tdx_quote import TdReport
from otr_protocol.attestation.policy import TDX_TRAITS, Policy
from otr_protocol.attestation.trust_roots import VENDOR

AT = 1_751_371_200  # 2025-07-01T12:00:00Z
ROUNDS = 15
CALLS = {"known": 200, "new_machine": 40, "cold": 40, "dcap_qvl": 40}
VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"


def forget(*modules: ModuleType) -> None:
    for module in modules:
        for function in vars(module).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()


def main() -> int:
    directory = Path(os.environ.get("OTR_VECTORS", VECTORS)) / "intel" / "tdx_v4_dstack"
    if not directory.is_dir():
        print(f"no vectors at {directory}; set OTR_VECTORS", file=sys.stderr)
        return 1
    data = (directory / "quote.bin").read_bytes()
    record = tdx_collateral.from_json((directory / "collateral.json").read_bytes()).encode()
    report = tdx_quote.parse(data).report
    assert isinstance(report, TdReport)
    policy = Policy(cpu_measurements=(report.mrtd,), tdx_traits=TDX_TRAITS)
    bundle, native = collect(rims={}, intel=[record]), tdx_collateral.read(record).native

    def ours() -> None:
        appraisal = appraise_tdx(
            CpuEvidence(INTEL_TDX, data, ()),
            report_data=report.report_data,
            collateral=bundle,
            policy=policy,
            roots=[VENDOR],
            now_s=AT,
        )
        assert not appraisal.findings

    def theirs() -> None:
        dcap_qvl.verify_with_root_ca(data, native, VENDOR.intel_root, AT)

    machine = (pck_chain, tdx_quote, tdx_verify)
    modes: dict[str, tuple[Callable[[], None], tuple[ModuleType, ...]]] = {
        "known": (ours, ()),
        "new_machine": (ours, machine),
        "cold": (ours, (*machine, tdx_collateral)),
        "dcap_qvl": (theirs, ()),
    }
    ours()
    rounds: dict[str, list[float]] = {name: [] for name in modes}
    gc.disable()
    for _ in range(ROUNDS):
        for name, (call, modules) in modes.items():
            rounds[name].append(mean_ms(call, CALLS[name], modules))
        gc.collect()
    for name, times in rounds.items():
        median = statistics.median(times)
        print(
            json.dumps(
                {
                    "name": f"tdx_verify_{name}",
                    "calls": ROUNDS * CALLS[name],
                    "cpu_p50_ms": round(median, 3),
                    "per_core_per_s": round(1000 / median),
                }
            ),
            flush=True,
        )
    return 0


def mean_ms(call: Callable[[], None], count: int, modules: tuple[ModuleType, ...]) -> float:
    """CPU time of one call; forgetting does not count."""
    spent = 0
    for _ in range(count):
        forget(*modules)
        start = time.process_time_ns()
        call()
        spent += time.process_time_ns() - start
    return spent / count / 1e6


if __name__ == "__main__":
    sys.exit(main())
