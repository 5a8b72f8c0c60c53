"""signxml as a program: a manifest in, one JSON line in, its answer out.

Run by the interpreter of .venv-signxml (`make peers`). The certificate is the first of the
manifest's own, as NVIDIA's chain rule has it; whether that one is trusted is not asked here.

    {"document": text, "at": seconds}  ->  {"accepted": bool, "why": text, "cpu_ms": number}
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime

from cryptography import x509
from lxml import etree
from signxml import DigestAlgorithm, SignatureMethod, XMLVerifier
from signxml.verifier import SignatureConfiguration

CERTIFICATE = "{http://www.w3.org/2000/09/xmldsig#}X509Certificate"


def verify(document: str, at: int) -> None:
    """Raise for whatever signxml refuses at a time (seconds since 1970 UTC)."""
    configuration = SignatureConfiguration(
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        verification_time=datetime.fromtimestamp(at, UTC),
    )
    root = etree.fromstring(document.encode())
    embedded = next(root.iter(CERTIFICATE)).text.split()
    pem = "\n".join(["-----BEGIN CERTIFICATE-----", *embedded, "-----END CERTIFICATE-----", ""])
    certificate = x509.load_pem_x509_certificate(pem.encode())
    XMLVerifier().verify(
        root, x509_cert=certificate, expect_config=configuration, ignore_ambiguous_key_info=True
    )


def main() -> None:
    for line in sys.stdin:
        started = time.process_time()
        try:
            case = json.loads(line)
            verify(case["document"], case["at"])
            accepted, why = True, ""
        except BaseException as error:  # whatever it raises means no
            accepted, why = False, f"{type(error).__name__}: {error}"[:200]
        spent = (time.process_time() - started) * 1000
        sys.stdout.write(json.dumps({"accepted": accepted, "why": why, "cpu_ms": spent}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
