"""What vendors publish, and how each is asked for it: the only way out of a deployment.

    NVIDIA RIM service    GET  <url>/<id>     JSON: id, base64 of the manifest, its SHA-256
    NVIDIA OCSP           POST <url>          RFC 6960, CertID with SHA-384
    AMD KDS               GET  <url>/{vcek,vlek}/v1/<product>/{cert_chain,crl}, /<chip id>?blSPL=...
    Intel PCS or PCCS     GET  <url>/{tdx,sgx}/certification/v4/{tcb,qe/identity}, .../pckcrl

Nothing that comes back is believed here. `collateral_items.check` looks at it before it is kept,
and whoever appraises verifies it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from otr_attestation.intel_answers import IntelAnswers, read_crl, read_record
from otr_attestation.peer_http import Answer, Http
from otr_attestation.ports import CollateralUnavailableError
from otr_attestation.settings import VendorSettings
from otr_protocol.attestation.collateral_keys import CollateralKey, CollateralKind
from otr_protocol.attestation.strict_json import parse_object
from otr_protocol.digest import H
from otr_protocol.errors import Refusal

_OCSP_HEADERS: Final = {
    "Content-Type": "application/ocsp-request",
    "Accept": "application/ocsp-response",
}
# In the order in which a key's TCB names them.
_SPL: Final = ("blSPL", "teeSPL", "snpSPL", "ucodeSPL", "fmcSPL")


class Vendors:
    """`ports.Origin` over HTTP."""

    name = "vendors"

    def __init__(self, settings: VendorSettings) -> None:
        """Raises OSError for a `ca_file` that cannot be read."""
        self._settings = settings
        amd = urlsplit(settings.amd_kds_url).hostname
        self._http = Http(
            settings, paces={} if amd is None else {amd: settings.amd_interval_seconds}
        )
        self._asked: dict[
            CollateralKind, tuple[str, Callable[[CollateralKey], Awaitable[bytes | None]]]
        ] = {
            CollateralKind.RIM: (settings.nvidia_rim_url, self._rim),
            CollateralKind.OCSP: (settings.nvidia_ocsp_url, self._ocsp),
            CollateralKind.SNP_ISSUERS: (settings.amd_kds_url, self._amd),
            CollateralKind.SNP_CRL: (settings.amd_kds_url, self._amd),
            CollateralKind.SNP_VCEK: (settings.amd_kds_url, self._vcek),
            CollateralKind.TDX: (settings.intel_pcs_url, self._intel),
            CollateralKind.SGX: (settings.intel_pcs_url, self._intel),
        }

    async def fetch(self, key: CollateralKey) -> bytes | None:
        """See `ports.Origin`."""
        url, ask = self._asked[key.kind]
        return await ask(key) if url else None

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def _rim(self, key: CollateralKey) -> bytes | None:
        answer = await self._http.get(f"{self._settings.nvidia_rim_url.rstrip('/')}/{key.name}")
        if answer is None:
            return None
        try:
            document = parse_object(answer.body, max_bytes=self._settings.max_response_bytes)
            content = base64.b64decode(str(document.get("rim")), validate=True)
        except (Refusal, binascii.Error, ValueError) as error:
            raise CollateralUnavailableError("the manifest cannot be read", field="key") from error
        if document.get("id") != key.name or document.get("sha256") != H(content).hex():
            raise CollateralUnavailableError("the manifest is not the one asked for", field="key")
        return content

    async def _ocsp(self, key: CollateralKey) -> bytes | None:
        name, issuer_key, serial = key.parts
        request = (
            ocsp.OCSPRequestBuilder()
            .add_certificate_by_hash(
                bytes.fromhex(name), bytes.fromhex(issuer_key), int(serial, 16), hashes.SHA384()
            )
            .build()
            .public_bytes(Encoding.DER)
        )
        answer = await self._http.post(self._settings.nvidia_ocsp_url, request, _OCSP_HEADERS)
        return _body(answer)

    async def _amd(self, key: CollateralKey) -> bytes | None:
        product, kind = key.parts[0], "vlek" if len(key.parts) > 1 else "vcek"
        what = "crl" if key.kind is CollateralKind.SNP_CRL else "cert_chain"
        return _body(await self._http.get(f"{self._kds()}/{kind}/v1/{product}/{what}"))

    async def _vcek(self, key: CollateralKey) -> bytes | None:
        product, chip_id, tcb = key.parts
        versions = "&".join(
            f"{name}={int(value):02d}" for name, value in zip(_SPL, tcb.split("."), strict=False)
        )
        return _body(await self._http.get(f"{self._kds()}/vcek/v1/{product}/{chip_id}?{versions}"))

    def _kds(self) -> str:
        return self._settings.amd_kds_url.rstrip("/")

    async def _intel(self, key: CollateralKey) -> bytes | None:
        base = self._settings.intel_pcs_url.rstrip("/")
        fmspc, authority = key.parts
        tee = f"{base}/{key.kind.value}/certification/v4"
        sgx = f"{base}/sgx/certification/v4"
        tcb_info = await self._http.get(f"{tee}/tcb?fmspc={fmspc}")
        if tcb_info is None:
            return None
        return read_record(
            IntelAnswers(
                tcb_info=tcb_info,
                qe_identity=_present(await self._http.get(f"{tee}/qe/identity")),
                pck_crl=_present(await self._http.get(f"{sgx}/pckcrl?ca={authority}&encoding=der")),
                root_crl=read_crl(
                    _present(
                        await self._http.get(
                            self._settings.intel_root_crl_url or f"{sgx}/rootcacrl"
                        )
                    ).body
                ),
            )
        )


def _body(answer: Answer | None) -> bytes | None:
    return None if answer is None else answer.body


def _present(answer: Answer | None) -> Answer:
    if answer is None:
        raise CollateralUnavailableError("a part of Intel's collateral is absent", field="key")
    return answer
