#!/usr/bin/env python3
"""Verifications per CPU second of one core, on real evidence, beside the peers that are there.

    gpu_verify_warm   a report of a GPU seen before: one signature, every other check
    gpu_verify_cold   nothing cached: chain, both manifests and report, as NVIDIA's verifier counts
    gpu_verify_cold_with_revocation
                      the same with seven OCSP answers, each by a delegated responder
    tdx_verify        a quote of a machine seen before; _new_machine: chain, enclave and TCB anew
    snp_verify        a report of a chip seen before; _cold: its chain and vendor keys anew
    p384_verify       one bare ECDSA P-384 verification: the unit of the NVIDIA and AMD figures

Peers: NVIDIA's verifier in its own environment (`make peers`), its OCSP requests answered without
cost; bare dcap-qvl with its collateral parsed beforehand; for SNP the bare signature, which is the
limit. Peers remember nothing between calls: like for like are gpu_verify_cold and
tdx_verify_new_machine, while gpu_verify_warm and tdx_verify say what remembering a machine is
worth. Rounds alternate between all of them, so that a busy machine slows all alike; the figure is
the median. Needs OTR_VECTORS (../shared/vectors), and tests/ on the path, as `make
bench-attestation` has it.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import dcap_qvl

from otr_protocol.attestation import certificates, ocsp, revocation
from otr_protocol.attestation.amd import amd_certificate, snp_chain, snp_crl, snp_report
from otr_protocol.attestation.amd.snp_appraisal import appraise_snp
from otr_protocol.attestation.collateral import CollateralBundle, collect
from otr_protocol.attestation.evidence import INTEL_TDX, SEV_SNP, CpuEvidence
from otr_protocol.attestation.intel import pck_chain, tdx_collateral, tdx_quote, tdx_verify
from otr_protocol.attestation.intel.tdx_appraisal import appraise_tdx
from otr_protocol.attestation.nvidia import device_chain, rim, spdm_report
from otr_protocol.attestation.nvidia.device_appraisal import appraise_device
from otr_protocol.attestation.nvidia.gpu_appraisal import GPU_RULES
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.attestation.verdict import worst
from support import attestation_vectors as real
from support import peer_verifiers as peers

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 15
GPU_AT = real.at("2026-02-01")
TDX_AT = real.at("2025-07-01T12:00:00")
SNP_AT = real.at("2026-11-22")
SHARED = (certificates, ocsp, revocation)
NVIDIA = (*SHARED, device_chain, rim)
INTEL = (pck_chain, tdx_quote, tdx_verify)
AMD = (amd_certificate, snp_chain, snp_crl)


@dataclass(frozen=True)
class Mode:
    """One thing to measure: how often in a round, and what is forgotten before each call."""

    call: Callable[[], object]
    calls: int
    forgets: tuple[ModuleType, ...] = ()

    def cpu_ms(self) -> float:
        """CPU time of one call, the mean of a round; forgetting does not count."""
        spent = 0
        for _ in range(self.calls):
            for module in self.forgets:
                for function in vars(module).values():
                    if hasattr(function, "cache_clear"):
                        function.cache_clear()
            start = time.process_time_ns()
            self.call()
            spent += time.process_time_ns() - start
        return spent / self.calls / 1e6


def gpu_modes(vectors: Path) -> dict[str, Mode]:
    found = real.h100_550(vectors)

    def appraise(collateral: CollateralBundle, mode: RevocationMode) -> None:
        appraisal = appraise_device(
            found.evidence,
            GPU_RULES,
            nonce=found.nonce,
            collateral=collateral,
            policy=Policy(revocation=mode),
            roots=[VENDOR],
            now_s=GPU_AT,
            component="gpu-0",
        )
        assert worst(*(finding.status for finding in appraisal.findings)).trusted

    alone = partial(appraise, collect(rims=found.rims), RevocationMode.NONE)
    whole = partial(appraise, found.collateral(), RevocationMode.AS_ISSUED)
    report = spdm_report.parse(found.evidence.report)
    key = certificates.parse(found.evidence.certificates[0]).key
    return {
        "gpu_verify_warm": Mode(alone, 40),
        "gpu_verify_cold": Mode(alone, 8, NVIDIA),
        "gpu_verify_cold_with_revocation": Mode(whole, 4, NVIDIA),
        "p384_verify": Mode(partial(report.require_signature, key), 40),
    }


def tdx_modes(vectors: Path) -> dict[str, Mode]:
    directory = vectors / "intel" / "tdx_v4_dstack"
    data = (directory / "quote.bin").read_bytes()
    record = tdx_collateral.from_json((directory / "collateral.json").read_bytes()).encode()
    report = tdx_quote.parse(data).report
    assert isinstance(report, tdx_quote.TdReport)
    bundle, native = collect(rims={}, intel=[record]), tdx_collateral.read(record).native
    policy = Policy(cpu_measurements=(report.mrtd,))

    def ours() -> None:
        appraisal = appraise_tdx(
            CpuEvidence(INTEL_TDX, data, ()),
            report_data=report.report_data,
            collateral=bundle,
            policy=policy,
            roots=[VENDOR],
            now_s=TDX_AT,
        )
        assert not appraisal.findings

    def theirs() -> None:
        dcap_qvl.verify_with_root_ca(data, native, VENDOR.intel_root, TDX_AT)

    return {
        "tdx_verify": Mode(ours, 100),
        "tdx_verify_new_machine": Mode(ours, 30, INTEL),
        "dcap_qvl": Mode(theirs, 30),
    }


def snp_modes(vectors: Path) -> dict[str, Mode]:
    directory = vectors / "amd"
    report = real.read(directory / "milan_dstack_2026" / "report.bin")
    (vcek,) = real.certificates((directory / "milan_dstack_2026" / "vcek.pem").read_bytes())
    ask, ark = real.certificates((directory / "milan_v2" / "ask_ark.pem").read_bytes())
    parsed = snp_report.parse(report)
    collateral = collect(rims={}, snp_issuers=[(ask, ark)])
    policy = Policy(cpu_measurements=(parsed.measurement,))

    def appraise() -> None:
        appraisal = appraise_snp(
            CpuEvidence(SEV_SNP, report, (vcek,)),
            report_data=parsed.report_data,
            collateral=collateral,
            policy=policy,
            roots=[VENDOR],
            now_s=SNP_AT,
        )
        assert not appraisal.findings

    return {"snp_verify": Mode(appraise, 60), "snp_verify_cold": Mode(appraise, 10, AMD)}


def nvidia_ms(vectors: Path) -> float | None:
    """Median CPU time of NVIDIA's verifier on the same evidence; None where it is not installed."""
    if not (REPOSITORY / ".venv-nvidia-verifier").is_dir():
        return None
    found = real.h100_550(vectors)
    rims = {name.split("_")[2]: document.decode() for name, document in found.rims.items()}
    case = {
        "report": found.evidence.report.hex(),
        "chain": [der.hex() for der in found.evidence.certificates],
        "driver_rim": rims["DRIVER"],
        "vbios_rim": rims["VBIOS"],
        "nonce": found.nonce.hex(),
        "at": GPU_AT,
    }
    answers = peers.ask("nvidia-verifier", "nvidia_verifier.py", [case] * 12)
    assert all(answer.accepted for answer in answers)
    return statistics.median(answer.cpu_ms for answer in answers[2:])  # it warms up too


def main() -> int:
    vectors = Path(os.environ.get("OTR_VECTORS", REPOSITORY.parent / "shared" / "vectors"))
    if not vectors.is_dir():
        print(f"no vectors at {vectors}; set OTR_VECTORS", file=sys.stderr)
        return 1
    modes = gpu_modes(vectors) | tdx_modes(vectors) | snp_modes(vectors)
    for mode in modes.values():
        mode.call()
    times: dict[str, list[float]] = {name: [] for name in modes}
    theirs: list[float] = []
    gc.disable()
    for number in range(ROUNDS):
        print(f"round {number + 1} of {ROUNDS} ...", file=sys.stderr)
        for name, mode in modes.items():
            times[name].append(mode.cpu_ms())
        if number % 5 == 0 and (spent := nvidia_ms(vectors)) is not None:
            theirs.append(spent)
        gc.collect()
    medians = {name: statistics.median(of) for name, of in times.items()}
    compared = {
        "gpu_verify": ("nv-local-gpu-verifier", statistics.median(theirs) if theirs else None),
        "tdx_verify": ("dcap-qvl", medians["dcap_qvl"]),
        "snp_verify": ("bare P-384", medians["p384_verify"]),
    }
    for name, spent in medians.items():
        known = (peer for start, peer in compared.items() if name.startswith(start))
        peer, peer_ms = next(known, ("", None))
        line: dict[str, object] = {
            "name": f"{name}_per_s",
            "value": round(1000 / spent, 1),
            "unit": "1/s of one core",
            "cpu_p50_ms": round(spent, 3),
        }
        if peer_ms is not None:
            line |= {"peer": peer, "peer_value": round(1000 / peer_ms, 1)}
            line["ratio"] = round(peer_ms / spent, 3)
        print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
