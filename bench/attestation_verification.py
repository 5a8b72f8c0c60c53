#!/usr/bin/env python3
"""CPU time of appraising attestation evidence, by what the verifier already knows.

One core, development evidence (the formats and algorithms of the real ones), revocation included:

  cold        nothing cached: vendor chains, both manifests, every response and the report
  cold_without_revocation
              the same without any OCSP response, which is how other verifiers are measured
  new_device  vendor chains, manifests and responders known; this GPU's two certificates, its
              response and its report are new
  known       a fresh report of a GPU seen before: one signature

`p384_verify_ms` is one ECDSA P-384 verification on the same machine in the same minute, the unit
that most of this time consists of; `verifications` says how many of them a call needs.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from otr_devtee import Attester, DevelopmentPki
from otr_devtee.ocsp_issuing import respond
from otr_devtee.pki import BACKDATE, make_gpu
from otr_protocol import binding
from otr_protocol.attestation import certificates, collateral, evidence, ocsp, revocation
from otr_protocol.attestation.amd import amd_certificate, snp_chain, snp_crl
from otr_protocol.attestation.appraise import appraise
from otr_protocol.attestation.evidence import EvidenceBundle
from otr_protocol.attestation.nvidia import rim, spdm_report
from otr_protocol.attestation.nvidia.gpu_appraisal import appraise_gpu

NOW = 1_800_000_000
COLD_CALLS = 100
NEW_DEVICES = 200
KNOWN_CALLS = 1_000
BOUND = {
    name: bytes([number]) * 32
    for number, name in enumerate(
        ("challenge", "operator_id", "session_key", "tls_spki_sha256", "model_id")
    )
}
CACHES = [
    function
    for module in (
        certificates,
        collateral,
        ocsp,
        revocation,
        rim,
        amd_certificate,
        snp_chain,
        snp_crl,
    )
    for function in vars(module).values()
    if hasattr(function, "cache_clear")
]


def forget() -> None:
    for function in CACHES:
        function.cache_clear()


def cpu_ms(
    calls: Iterable[Callable[[], object]], *, before: Callable[[], None] | None = None
) -> list[float]:
    """CPU time of each call, sorted; garbage is collected between calls and not within."""
    times = []
    gc.disable()
    for call in calls:
        if before is not None:
            before()
        start = time.process_time_ns()
        call()
        times.append((time.process_time_ns() - start) / 1e6)
    gc.enable()
    return sorted(times)


def line(name: str, times: list[float], verifications: int, unit_ms: float) -> None:
    median = statistics.median(times)
    print(
        json.dumps(
            {
                "name": name,
                "calls": len(times),
                "verifications": verifications,
                "p384_verify_ms": round(unit_ms, 3),
                "cpu_p50_ms": round(median, 3),
                "cpu_p99_ms": round(times[int(len(times) * 0.99)], 3),
                "per_core_per_s": round(1000 / median),
            }
        ),
        flush=True,
    )


def main() -> int:
    print("making a development PKI with 200 GPUs ...", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        small = DevelopmentPki.create(Path(scratch) / "devtee", now_s=NOW - 3600)
    start = datetime.fromtimestamp(NOW - 3600, UTC) - BACKDATE
    pki = dataclasses.replace(
        small, gpus=tuple(make_gpu(small.device_ica, start) for _ in range(NEW_DEVICES))
    )
    policy, roots = pki.policy(), [pki.trust_roots()]
    known = small.collateral(NOW - 60)
    fleet = dataclasses.replace(
        known,
        ocsp_responses=tuple(
            sorted(
                {
                    *known.ocsp_responses,
                    *(
                        respond(
                            gpu.brom.certificate,
                            pki.device_ica.certificate,
                            pki.responders["device-ica"],
                            NOW - 60,
                        )
                        for gpu in pki.gpus
                    ),
                }
            )
        ),
    )
    nonce = binding.gpu_nonce(binding.anchor(**BOUND))

    def bundle(owner: DevelopmentPki) -> EvidenceBundle:
        return evidence.decode(Attester(owner).collect(**BOUND))

    def gpu(of: EvidenceBundle, collateral_bundle: collateral.CollateralBundle) -> object:
        appraisal = appraise_gpu(
            of.devices[0],
            nonce=nonce,
            collateral=collateral_bundle,
            policy=policy,
            roots=roots,
            now_s=NOW,
            component="gpu-0",
        )
        assert not appraisal.findings or not collateral_bundle.ocsp_responses
        return appraisal

    def whole(of: EvidenceBundle) -> object:
        verdict = appraise(of, known, policy, roots, NOW)
        assert not verdict.findings
        return verdict

    fresh = [bundle(small) for _ in range(50)]
    report = spdm_report.parse(fresh[0].devices[0].report)
    key = certificates.parse(fresh[0].devices[0].certificates[0]).key
    unit = statistics.median(cpu_ms([partial(report.require_signature, key)] * 300))

    print("cold ...", file=sys.stderr)
    cold = cpu_ms([partial(gpu, fresh[0], known)] * COLD_CALLS, before=forget)
    line("attestation_gpu_cold", cold, 22, unit)
    silent = dataclasses.replace(known, ocsp_responses=())
    cold = cpu_ms([partial(gpu, fresh[0], silent)] * COLD_CALLS, before=forget)
    line("attestation_gpu_cold_without_revocation", cold, 10, unit)
    print("new devices ...", file=sys.stderr)
    fleets = [bundle(dataclasses.replace(pki, gpus=(each, *pki.gpus[1:]))) for each in pki.gpus]
    forget()
    gpu(fresh[0], fleet)
    new = cpu_ms([partial(gpu, each, fleet) for each in fleets[1:]])
    line("attestation_gpu_new_device", new, 4, unit)
    print("known devices ...", file=sys.stderr)
    gpu(fresh[0], known)
    calls = [partial(gpu, each, known) for each in fresh]
    line("attestation_gpu_known", cpu_ms(calls * (KNOWN_CALLS // len(calls))), 1, unit)
    print("CPU and GPU together ...", file=sys.stderr)
    composite_cold = cpu_ms([partial(whole, fresh[0])] * COLD_CALLS, before=forget)
    line("attestation_composite_cold", composite_cold, 23, unit)
    whole(fresh[0])
    calls = [partial(whole, each) for each in fresh]
    line("attestation_composite_known", cpu_ms(calls * (KNOWN_CALLS // len(calls))), 2, unit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
