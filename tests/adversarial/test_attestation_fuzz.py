"""Mutated evidence, collateral, policies and documents: refusals, untrusted verdicts, no crash."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otr_protocol.attestation import certificates, collateral, evidence, ocsp, policy, trust_roots
from otr_protocol.attestation.amd import amd_certificate, snp_chain, snp_crl, snp_report
from otr_protocol.attestation.nvidia import opaque, rim, spdm_report
from otr_protocol.errors import Refusal
from support import devtee_world as world

FEW = settings(max_examples=150, deadline=None)


@lru_cache(maxsize=1)
def bundle_bytes() -> bytes:
    return world.bundle().encode()


mutation = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "repeat", "zero"]),
    st.integers(0, 1 << 20),
    st.integers(1, 255),
)


def mutate(data: bytes, change: tuple[str, int, int]) -> bytes:
    kind, where, value = change
    at = where % len(data)
    changed = bytearray(data)
    if kind == "flip":
        changed[at] ^= value
    elif kind == "cut":
        del changed[at : at + value]
    elif kind == "insert":
        changed[at:at] = bytes([value]) * (1 + value % 7)
    elif kind == "repeat":
        changed[at:at] = data[at : at + value]
    else:
        changed[at : at + value] = bytes(len(changed[at : at + value]))
    return bytes(changed)


@given(change=mutation)
@FEW
def test_no_mutated_bundle_is_trusted(change: tuple[str, int, int]) -> None:
    data = mutate(bundle_bytes(), change)
    if data == bundle_bytes():
        return
    try:
        bundle = evidence.decode(data)
    except Refusal:
        return
    verdict = world.judge(bundle)
    assert not verdict.status.trusted
    assert verdict.findings


def test_no_flipped_bit_in_a_bundle_is_trusted() -> None:
    """Every 29th byte, all over the bundle: there is no byte that nothing vouches for."""
    for offset in range(0, len(bundle_bytes()), 29):
        data = mutate(bundle_bytes(), ("flip", offset, 1 << offset % 8))
        try:
            bundle = evidence.decode(data)
        except Refusal:
            continue
        assert not world.judge(bundle).status.trusted, offset


@given(change=mutation)
@FEW
def test_mutated_collateral_is_refused_or_judged(change: tuple[str, int, int]) -> None:
    try:
        bundle = collateral.decode(mutate(world.collateral().encode(), change))
    except Refusal:
        return
    world.judge(world.bundle(), collateral_bundle=bundle)


@given(change=mutation)
@FEW
def test_a_mutated_policy_is_refused_or_another_policy(change: tuple[str, int, int]) -> None:
    original = world.pki().policy()
    data = mutate(original.encode(), change)
    try:
        read = policy.decode(data)
    except Refusal:
        return
    assert read.encode() == data
    assert (read == original) is (data == original.encode())


PARSERS: dict[str, tuple[Callable[[bytes], object], Callable[[], bytes]]] = {
    "gpu report": (spdm_report.parse, lambda: world.bundle().devices[0].report),
    "opaque data": (opaque.parse, lambda: world.bundle().devices[0].report[-600:-96]),
    "cpu report": (snp_report.parse, lambda: world.bundle().cpu.report),
    "device certificate": (certificates.parse, lambda: world.pki().device_chain(0)[0]),
    "vendor certificate": (amd_certificate.parse, lambda: world.pki().ask.der),
    "chip certificate": (
        lambda der: snp_chain.verify(
            der, world.pki().ask.der, world.pki().ark.der, world.pki().trust_roots().snp_arks
        ),
        lambda: world.pki().vcek,
    ),
    "ocsp response": (ocsp.parse, lambda: world.collateral().ocsp_responses[0]),
    "revocation list": (snp_crl.parse, lambda: world.collateral().crls[0]),
    "manifest": (
        lambda document: rim.verify(document, world.pki().rim_root.der),
        lambda: world.pki().driver_rim,
    ),
    "trust roots": (trust_roots.decode, lambda: world.pki().trust_roots().encode()),
    "evidence": (evidence.decode, bundle_bytes),
}


@pytest.mark.parametrize("name", sorted(PARSERS))
@given(changes=st.lists(mutation, min_size=1, max_size=3))
@FEW
def test_a_mutated_document_raises_nothing_but_refusals(
    name: str, changes: list[tuple[str, int, int]]
) -> None:
    parse, sample = PARSERS[name]
    data = sample()
    for change in changes:
        if data:
            data = mutate(data, change)
    with contextlib.suppress(Refusal):
        parse(data)


@pytest.mark.parametrize("name", sorted(PARSERS))
@given(data=st.binary(max_size=400))
@FEW
def test_arbitrary_bytes_raise_nothing_but_refusals(name: str, data: bytes) -> None:
    parse, _ = PARSERS[name]
    with contextlib.suppress(Refusal):
        parse(data)


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_every_truncation_is_refused(name: str) -> None:
    parse, sample = PARSERS[name]
    data = sample()
    if name == "opaque data":  # a slice of a report, cut anywhere: only exceptions matter
        return
    for length in range(0, len(data), max(1, len(data) // 97)):
        with pytest.raises(Refusal):
            parse(data[:length])
