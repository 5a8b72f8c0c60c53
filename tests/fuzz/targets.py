"""What is fuzzed: every reader of strangers' bytes in attestation, and genuine bytes to start from.

A target takes bytes and may raise a `Refusal` and nothing else. Seeds are made here, by the
development TEE, so that a checkout without anybody's vectors can fuzz too; with OTR_VECTORS the
real evidence is added.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from otr_protocol.attestation import (
    certificates,
    collateral,
    compact_jws,
    evidence,
    ocsp,
    policy,
    policy_expression,
    strict_json,
    trust_roots,
)
from otr_protocol.attestation.amd import amd_certificate, snp_crl, snp_report
from otr_protocol.attestation.intel import event_log, pck_chain, tdx_collateral, tdx_quote
from otr_protocol.attestation.nvidia import opaque, rim, spdm_report
from support import devtee_world as world


@dataclass(frozen=True)
class Target:
    """One reader, and inputs that it accepts."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    max_bytes: int = 16_384


def _vectors(*patterns: str) -> list[bytes]:
    root = Path(os.environ.get("OTR_VECTORS", ""))
    if not os.environ.get("OTR_VECTORS") or not root.is_dir():
        return []
    return [path.read_bytes() for pattern in patterns for path in sorted(root.glob(pattern))]


def _manifest_seeds() -> list[bytes]:
    return [world.pki().driver_rim, *_vectors("nvidia/ls10/*.xml")]


def _expression(data: bytes) -> object:
    return policy_expression.compile_expression(data.decode("utf-8", "replace"))


def _rim(data: bytes) -> object:
    return rim.verify(data, world.pki().rim_root.der)


TARGETS: dict[str, Target] = {
    "spdm_report": Target(
        spdm_report.parse,
        lambda: [world.bundle().devices[0].report, *_vectors("nvidia/h100-550.90.07/report.bin")],
    ),
    "opaque": Target(opaque.parse, lambda: [world.bundle().devices[0].report[-600:-96]], 4_096),
    "certificate": Target(certificates.parse, lambda: list(world.pki().device_chain(0)), 4_096),
    "rim": Target(_rim, _manifest_seeds, 65_536),
    "ocsp": Target(ocsp.parse, lambda: list(world.collateral().ocsp_responses[:2]), 8_192),
    "snp_report": Target(
        snp_report.parse, lambda: [world.bundle().cpu.report, *_vectors("amd/*/report.bin")], 2_048
    ),
    "amd_certificate": Target(
        amd_certificate.parse, lambda: [world.pki().ask.der, world.pki().vcek], 4_096
    ),
    "snp_crl": Target(snp_crl.parse, lambda: list(world.collateral().crls), 8_192),
    "tdx_quote": Target(
        tdx_quote.parse, lambda: _vectors("intel/*/quote.bin") or [bytes(5_006)], 8_192
    ),
    "pck_chain": Target(pck_chain.parse, lambda: [b"-----BEGIN CERTIFICATE-----\n"], 8_192),
    "tdx_collateral": Target(
        tdx_collateral.from_json, lambda: _vectors("intel/*/collateral.json") or [b"{}"], 32_768
    ),
    "event_log": Target(event_log.parse, lambda: [b"\x00" * 64], 8_192),
    "evidence": Target(evidence.decode, lambda: [world.bundle().encode()], 65_536),
    "collateral": Target(collateral.decode, lambda: [world.collateral().encode()], 262_144),
    "policy": Target(policy.decode, lambda: [world.pki().policy().encode()], 8_192),
    "policy_expression": Target(_expression, lambda: [b'cpu.measres == "success"'], 4_096),
    "trust_roots": Target(trust_roots.decode, lambda: [world.pki().trust_roots().encode()]),
    "jwks": Target(compact_jws.Jwks.parse, lambda: [b'{"keys": []}']),
    "json": Target(
        lambda data: strict_json.parse_object(data, max_bytes=65_536), lambda: [b'{"a": [1, "b"]}']
    ),
}
