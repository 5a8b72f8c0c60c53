"""Intel's answers, put together to one record (PCS API version 4).

TCB info and QE identity come as `{"tcbInfo": {...}, "signature": "<hex>"}`, and the signature is
over the exact text of the inner object, so that it is cut out of the answer and never written anew.
Chains come in headers, percent-encoded PEM. A CRL is DER from Intel, hex from a PCCS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import unquote

from otr_attestation.ports import CollateralUnavailableError
from otr_protocol.attestation.intel.tdx_collateral import TdxCollateral
from otr_protocol.errors import Refusal


class HttpAnswer(Protocol):
    """Body and headers; header names in lower case."""

    @property
    def body(self) -> bytes:
        """The body as it came."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers."""
        ...


@dataclass(frozen=True, slots=True)
class IntelAnswers:
    """Everything a record is made of; `root_crl` is DER."""

    tcb_info: HttpAnswer
    qe_identity: HttpAnswer
    pck_crl: HttpAnswer
    root_crl: bytes


def read_record(answers: IntelAnswers) -> bytes:
    """The record in its one encoding; CollateralUnavailableError for answers of another form."""
    try:
        tcb_info, tcb_info_signature = _signed(answers.tcb_info.body, "tcbInfo")
        qe_identity, qe_identity_signature = _signed(answers.qe_identity.body, "enclaveIdentity")
        return TdxCollateral(
            pck_crl_issuer_chain=_chain(answers.pck_crl, "sgx-pck-crl-issuer-chain"),
            root_ca_crl=answers.root_crl,
            pck_crl=read_crl(answers.pck_crl.body),
            tcb_info_issuer_chain=_chain(
                answers.tcb_info, "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"
            ),
            tcb_info=tcb_info,
            tcb_info_signature=tcb_info_signature,
            qe_identity_issuer_chain=_chain(
                answers.qe_identity, "sgx-enclave-identity-issuer-chain"
            ),
            qe_identity=qe_identity,
            qe_identity_signature=qe_identity_signature,
        ).encode()
    except (Refusal, ValueError, TypeError, RecursionError) as error:
        raise CollateralUnavailableError(
            f"Intel's answer cannot be read: {error}", field="key"
        ) from error


def read_crl(body: bytes) -> bytes:
    """The DER of a list that came as DER or as hex; CollateralUnavailableError otherwise."""
    if body[:1] == b"\x30":
        return body
    try:
        return bytes.fromhex(body.strip().strip(b'"').decode("ascii"))
    except ValueError as error:
        raise CollateralUnavailableError("a revocation list cannot be read", field="key") from error


def _signed(body: bytes, name: str) -> tuple[bytes, bytes]:
    """The exact text of the signed object, and the signature over it."""
    text = body.decode("utf-8")
    opening = text.find(f'"{name}"')
    start = text.find("{", opening + len(name))
    # Only space and one colon between the name and its object; the name is the first of the two.
    between = text[opening + len(name) + 2 : start].strip()
    if opening < 0 or start < 0 or text[:opening].strip() != "{" or between != ":":
        raise ValueError(f"no {name} at its place")
    _, end = json.JSONDecoder().raw_decode(text, start)
    rest = json.loads("{" + text[end:].lstrip().removeprefix(","))
    if set(rest) != {"signature"}:
        raise ValueError(f"{name} does not come with its signature alone")
    return text[start:end].encode("utf-8"), bytes.fromhex(rest["signature"])


def _chain(answer: HttpAnswer, *names: str) -> bytes:
    for name in names:
        value = answer.headers.get(name)
        if value is not None:
            pem = unquote(value, errors="strict")
            return (pem if pem.endswith("\n") else pem + "\n").encode("ascii")
    raise ValueError(f"no header {names[0]}")
