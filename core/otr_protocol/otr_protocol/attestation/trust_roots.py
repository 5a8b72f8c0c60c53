"""The roots that evidence may chain to: the vendors', and a development TEE's.

Whether evidence is simulated follows from the set of roots it chained to and from nothing else:
`VENDOR` is the only set that is not simulated, and it is fixed here. A development set can be
added by whoever runs the verifier, but it cannot be declared real, and evidence cannot say about
itself that it is.

Sources: NVIDIA/nvtrust `verifier_device_root.pem` and `verifier_RIM_root.pem`; AMD's key
distribution service, `/vcek/v1/{Milan,Genoa,Turin}/cert_chain`, SHA-256 of the ARK's DER;
Intel's `Intel_SGX_Provisioning_Certification_RootCA.cer` (SHA-256 44a0196b...fab674d3).
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from otr_protocol import dcbor
from otr_protocol.attestation import certificates
from otr_protocol.attestation.certificates import RootUntrustedError
from otr_protocol.fields import (
    as_byte_strings,
    as_bytes,
    as_text,
    check_ascending,
    check_digest,
    check_name,
)

DOMAIN: Final = "otr-trust-roots-v2"
MAX_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class TrustRootSet:
    """Roots that stand or fall together.

    `device_root` and `rim_root` are the DER certificates of the GPU vendor, `snp_arks` the SHA-256
    of each AMD root's DER, `intel_root` the DER of Intel's root, empty where a set has none.
    Manifests are accepted only under the set of the device they describe.
    """

    name: str
    device_root: bytes
    rim_root: bytes
    snp_arks: frozenset[bytes]
    intel_root: bytes = b""

    @property
    def simulated(self) -> bool:
        """True of every set but the vendors', whatever it is called."""
        return _roots(self) != _roots(VENDOR)

    def encode(self) -> bytes:
        """The set's one encoding, for a file: `decode` reads it back."""
        return dcbor.encode(
            (
                DOMAIN,
                self.name,
                self.device_root,
                self.rim_root,
                sorted(self.snp_arks),
                self.intel_root,
            )
        )


def _roots(of: TrustRootSet) -> tuple[bytes, bytes, frozenset[bytes], bytes]:
    return of.device_root, of.rim_root, of.snp_arks, of.intel_root


def decode(data: bytes) -> TrustRootSet:
    """Read a set of roots of at most 64 KiB.

    Raises one of the refusals of `dcbor` and `fields`, or CertificateMalformedError.
    """
    name, device_root, rim_root, arks, intel_root = dcbor.open_record(
        data,
        DOMAIN,
        *(str, bytes, bytes, tuple, bytes),
        max_bytes=MAX_BYTES,
        max_depth=2,
        max_items=64,
    )
    digests = as_byte_strings(arks, "snp_arks")
    for digest in digests:
        check_digest(digest, "snp_arks")
    check_ascending(digests, "snp_arks")
    check_name(as_text(name, "name"), "name")
    return TrustRootSet(
        name=as_text(name, "name"),
        device_root=certificates.parse(as_bytes(device_root, "device_root")).der,
        rim_root=certificates.parse(as_bytes(rim_root, "rim_root")).der,
        snp_arks=frozenset(digests),
        intel_root=as_bytes(intel_root, "intel_root"),
    )


def set_of_device(roots: Iterable[TrustRootSet], root: bytes) -> TrustRootSet:
    """The set whose GPU root is `root` (DER); RootUntrustedError if none has it."""
    for candidate in roots:
        if candidate.device_root == root:
            return candidate
    raise RootUntrustedError("the GPU's chain ends at a root that is not pinned")


def set_of_intel(roots: Iterable[TrustRootSet], root: bytes) -> TrustRootSet:
    """The set whose Intel root is `root` (DER); RootUntrustedError if none has it."""
    for candidate in roots:
        if root and candidate.intel_root == root:
            return candidate
    raise RootUntrustedError("the quote's chain ends at a root that is not pinned")


def set_of_ark(roots: Iterable[TrustRootSet], ark_digest: bytes) -> TrustRootSet:
    """The set that pins an AMD root by SHA-256; RootUntrustedError if none has it."""
    for candidate in roots:
        if ark_digest in candidate.snp_arks:
            return candidate
    raise RootUntrustedError("the CPU's chain ends at a root that is not pinned")


VENDOR: Final = TrustRootSet(
    name="vendor",
    # CN=NVIDIA Device Identity CA, 2021-11-05 to 9999-12-31
    device_root=base64.b64decode(
        "MIICCzCCAZCgAwIBAgIQLTZwscoQBBHB/sDoKgZbVDAKBggqhkjOPQQDAzA1MSIwIAYDVQQDDBlOVklESUEg"
        "RGV2aWNlIElkZW50aXR5IENBMQ8wDQYDVQQKDAZOVklESUEwIBcNMjExMTA1MDAwMDAwWhgPOTk5OTEyMzEy"
        "MzU5NTlaMDUxIjAgBgNVBAMMGU5WSURJQSBEZXZpY2UgSWRlbnRpdHkgQ0ExDzANBgNVBAoMBk5WSURJQTB2"
        "MBAGByqGSM49AgEGBSuBBAAiA2IABA5MFKM7+KViZljbQSlgfky/RRnEQScW9NDZF8SXgAW96r6u/Ve8Zggt"
        "cYpPi2BS4VFu6KfEIrhN6FcHG7WP05W+oM+hxj7nyA1r1jkB2Ry70YfThX3Ba1zOryOP+MJ9vaNjMGEwDwYD"
        "VR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYwHQYDVR0OBBYEFFeF/4PyY8xlfWi3Olv0jUrL+0lfMB8G"
        "A1UdIwQYMBaAFFeF/4PyY8xlfWi3Olv0jUrL+0lfMAoGCCqGSM49BAMDA2kAMGYCMQCPeFM3TASsKQVaT+8S"
        "0sO9u97PVGCpE9d/I42IT7k3UUOLSR/qvJynVOD1vQKVXf0CMQC+EY55WYoDBvs2wPAH1Gw4LbcwUN8QCff8"
        "bFmV4ZxjCRr4WXTLFHBKjbfneGSBWwA="
    ),
    # CN=NVIDIA CoRIM signing Root CA, 2023-03-16 to 2053-03-08
    rim_root=base64.b64decode(
        "MIICKTCCAbCgAwIBAgIQRdrjoA5QN73fh1N17LXicDAKBggqhkjOPQQDAzBFMQswCQYDVQQGEwJVUzEPMA0G"
        "A1UECgwGTlZJRElBMSUwIwYDVQQDDBxOVklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMCAXDTIzMDMxNjE1"
        "MzczNFoYDzIwNTMwMzA4MTUzNzM0WjBFMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGTlZJRElBMSUwIwYDVQQD"
        "DBxOVklESUEgQ29SSU0gc2lnbmluZyBSb290IENBMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEuECyi9vNM+Iw"
        "2lfUzyBldHAwaC1HF7TCgp12QcEyUTm3Tagxwr48d55+K2VIlWYIDk7NlAIQdcV/Ff7euGLI+Qauj93HsSI4"
        "WX298PpW54RTgz9tC+Q684caR/BXWEeZo2MwYTAdBgNVHQ4EFgQUpaXrOPK4ZDAk08DBskn594zeZjAwHwYD"
        "VR0jBBgwFoAUpaXrOPK4ZDAk08DBskn594zeZjAwDwYDVR0TAQH/BAUwAwEB/zAOBgNVHQ8BAf8EBAMCAQYw"
        "CgYIKoZIzj0EAwMDZwAwZAIwHGDyscDP6ihHqRvZlI3eqZ4YkvjE1duaN84tAHRVgxVMvNrp5Tnom3idHYGW"
        "/dskAjATvjIx6VzHm/4e2GiZAyZEIUBDOKPzp5ei/A0iUZpdvngenDwV8Qa/wGdiTmJ7Bp4="
    ),
    snp_arks=frozenset(
        (
            # ARK-Milan, 2020-10-22 to 2045-10-22
            bytes.fromhex("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
            # ARK-Genoa, 2022-01-26 to 2047-01-26
            bytes.fromhex("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
            # ARK-Turin, 2023-05-15 to 2048-05-15
            bytes.fromhex("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
        )
    ),
    # CN=Intel SGX Root CA, 2018-05-21 to 2049-12-31
    intel_root=base64.b64decode(
        "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50"
        "ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFy"
        "YTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEa"
        "MBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQH"
        "DAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcD"
        "QgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxFP2sJ"
        "BK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFo"
        "dHRwczovL2NlcnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRl"
        "cjAdBgNVHQ4EFgQUImUM1lqdNInzg7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYB"
        "Af8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9CiSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0l"
        "rHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
    ),
)
