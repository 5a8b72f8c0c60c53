"""Real evidence and mutants of it: NVIDIA's verifier and signxml, against ours.

Whatever we accept they accept. What they accept and we refuse is a class on the reviewed list
below, each with the reason for being stricter. A sample runs by default, all of it as a slow test.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from otr_protocol.attestation.collateral import collect
from otr_protocol.attestation.nvidia import xml_signature
from otr_protocol.attestation.nvidia.device_appraisal import appraise_device
from otr_protocol.attestation.nvidia.gpu_appraisal import GPU_RULES
from otr_protocol.attestation.policy import Policy, RevocationMode
from otr_protocol.attestation.trust_roots import VENDOR
from otr_protocol.attestation.verdict import worst
from otr_protocol.binding import GpuEvidence
from otr_protocol.errors import Refusal
from support import attestation_vectors as real
from support import peer_verifiers as peers

NOW = real.at("2026-02-01")
POLICY = Policy(revocation=RevocationMode.NONE)
ALL, SAMPLE = 560, 48

# Mutants that a peer takes and we refuse. Reviewed: in each the signed content still says the same,
# so nothing false was believed, but one statement had two forms, or a part that nobody looked at.
STRICTER_THAN_NVIDIA = {
    "root exchanged": "NVIDIA drops the root that was sent; we want to be sent the pinned one",
    "character reference": "one spelling of every value",
    "document type": "a DTD can define what the parser then believes",
    "processing instruction": "what a canonical form drops is a place to hide things",
}
STRICTER_THAN_SIGNXML = {
    "character reference": "as above",
    "declaration": "it can announce another encoding to the parser than to the checks before it",
    "document type": "as above",
    "processing instruction": "as above",
    "driver manifest letter": "signxml saw the first certificate only; we check the others too",
}


@dataclass(frozen=True)
class Case:
    """One mutant: what was done to it, and the four inputs of an appraisal."""

    kind: str
    evidence: GpuEvidence
    driver_rim: str
    vbios_rim: str
    nonce: bytes
    now_s: int = NOW


def genuine(vectors: Path) -> Case:
    found = real.h100_550(vectors)
    rims = {name.split("_")[2]: document.decode() for name, document in found.rims.items()}
    return Case("genuine", found.evidence, rims["DRIVER"], rims["VBIOS"], found.nonce)


def ours(case: Case) -> bool:
    collateral = collect(
        rims={
            "NV_GPU_DRIVER_GH100_550.90.07": case.driver_rim.encode(),
            "NV_GPU_VBIOS_1010_0200_882_96009F0001": case.vbios_rim.encode(),
        }
    )
    appraisal = appraise_device(
        case.evidence,
        GPU_RULES,
        nonce=case.nonce,
        collateral=collateral,
        policy=POLICY,
        roots=[VENDOR],
        now_s=case.now_s,
        component="gpu-0",
    )
    return worst(*(finding.status for finding in appraisal.findings)).trusted


def as_json(case: Case) -> dict[str, Any]:
    return {
        "report": case.evidence.report.hex(),
        "chain": [der.hex() for der in case.evidence.certificates],
        "driver_rim": case.driver_rim,
        "vbios_rim": case.vbios_rim,
        "nonce": case.nonce.hex(),
        "at": case.now_s,
    }


def flip(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    changed[source.randrange(len(data))] ^= 1 << source.randrange(8)
    return bytes(changed)


def exchange(text: str, source: random.Random) -> str:
    """Another letter or digit somewhere in the text."""
    places = [match.start() for match in re.finditer(r"[A-Za-z0-9]", text)]
    at = source.choice(places)
    return text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :]


def with_report(case: Case, report: bytes) -> Case:
    return replace(case, evidence=replace(case.evidence, report=report))


def with_chain(case: Case, *chain: bytes) -> Case:
    return replace(case, evidence=replace(case.evidence, certificates=chain))


def in_manifest(change: Callable[[str], str]) -> Callable[[Case, random.Random], Case]:
    return lambda case, _: replace(case, driver_rim=change(case.driver_rim))


def flipped_certificate(case: Case, source: random.Random) -> Case:
    chain = list(case.evidence.certificates)
    at = source.randrange(len(chain) - 1)
    chain[at] = flip(chain[at], source)
    return with_chain(case, *chain)


def shuffled(case: Case, source: random.Random) -> Case:
    chain = list(case.evidence.certificates)
    first, second = source.sample(range(len(chain)), 2)
    chain[first], chain[second] = chain[second], chain[first]
    return with_chain(case, *chain)


MUTATIONS: dict[str, Callable[[Case, random.Random], Case]] = {
    "report bit": lambda case, source: with_report(case, flip(case.evidence.report, source)),
    "report cut": lambda case, source: with_report(
        case, case.evidence.report[: -source.randrange(1, 200)]
    ),
    "report lengthened": lambda case, source: with_report(
        case, case.evidence.report + bytes(source.randrange(1, 9))
    ),
    "certificate bit": flipped_certificate,
    "chain out of order": shuffled,
    "chain cut": lambda case, source: with_chain(
        case, *case.evidence.certificates[: source.randrange(1, 5)]
    ),
    "root exchanged": lambda case, source: with_chain(
        case, *case.evidence.certificates[:-1], case.evidence.certificates[-2]
    ),
    "another nonce": lambda case, source: replace(case, nonce=source.randbytes(32)),
    "driver manifest letter": lambda case, source: replace(
        case, driver_rim=exchange(case.driver_rim, source)
    ),
    "VBIOS manifest letter": lambda case, source: replace(
        case, vbios_rim=exchange(case.vbios_rim, source)
    ),
    "manifests exchanged": lambda case, _: replace(
        case, driver_rim=case.vbios_rim, vbios_rim=case.driver_rim
    ),
    "one manifest twice": lambda case, _: replace(case, vbios_rim=case.driver_rim),
    "time": lambda case, source: replace(
        case, now_s=source.randrange(real.at("2024-01-01"), real.at("2027-01-01"))
    ),
    "space in base64": in_manifest(
        lambda text: re.sub(r"(SignatureValue>[^<]{20})", r"\1 ", text, count=1)
    ),
    "comment": in_manifest(lambda text: text.replace("<Payload", "<!-- --><Payload", 1)),
    "document type": in_manifest(lambda text: "<!DOCTYPE SoftwareIdentity>" + text),
    "processing instruction": in_manifest(lambda text: text + "<?otr ?>"),
    "declaration": in_manifest(lambda text: '<?xml version="1.0" encoding="UTF-8"?>' + text),
    "character reference": in_manifest(lambda text: text.replace('"5703"', '"&#53;703"', 1)),
    "space in a tag": in_manifest(lambda text: text.replace("<Payload", "<Payload ", 1)),
    "signature removed": in_manifest(
        lambda text: re.sub(r"<(ds:)?Signature .*</(ds:)?Signature>", "", text, flags=re.DOTALL)
    ),
    "second signature": in_manifest(
        lambda text: re.sub(
            r"(<(ds:)?Signature .*</(ds:)?Signature>)", r"\1\1", text, flags=re.DOTALL
        )
    ),
    "resource added": in_manifest(
        lambda text: re.sub(r"(<Resource[^>]*/>)", r"\1\1", text, count=1)
    ),
}


def mutants(of: Case, count: int) -> Iterator[Case]:
    source = random.Random(20260201)
    kinds = sorted(MUTATIONS)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        yield replace(MUTATIONS[kind](of, source), kind=kind)


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(ALL, marks=pytest.mark.slow)])
def test_nvidias_verifier_accepts_all_that_we_accept(vectors: Path, count: int) -> None:
    peers.interpreter("nvidia-verifier")
    cases = [genuine(vectors), *mutants(genuine(vectors), count)]
    opinions = peers.ask("nvidia-verifier", "nvidia_verifier.py", [as_json(case) for case in cases])
    assert ours(cases[0])
    assert opinions[0].accepted, opinions[0].why
    stricter: set[str] = set()
    for case, opinion in zip(cases, opinions, strict=True):
        accepted = ours(case)
        assert opinion.accepted or not accepted, (case.kind, opinion.why)
        if opinion.accepted and not accepted:
            stricter.add(case.kind)
    assert stricter <= STRICTER_THAN_NVIDIA.keys(), stricter


@pytest.mark.parametrize("count", [SAMPLE, pytest.param(ALL, marks=pytest.mark.slow)])
def test_signxml_accepts_every_signature_that_we_accept(vectors: Path, count: int) -> None:
    peers.interpreter("signxml")
    cases = [genuine(vectors), *mutants(genuine(vectors), count)]
    documents = sorted({case.driver_rim: case.kind for case in cases}.items())
    opinions = peers.ask(
        "signxml",
        "signxml_verifier.py",
        [{"document": document, "at": NOW} for document, _ in documents],
    )
    stricter: set[str] = set()
    agreed = 0
    for (document, kind), opinion in zip(documents, opinions, strict=True):
        try:
            xml_signature.verify(document.encode())
            accepted = True
        except Refusal:
            accepted = False
        assert opinion.accepted or not accepted, (kind, opinion.why)
        agreed += accepted is opinion.accepted
        if opinion.accepted and not accepted:
            stricter.add(kind)
    assert agreed >= 2
    assert stricter <= STRICTER_THAN_SIGNXML.keys(), stricter
