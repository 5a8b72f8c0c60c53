"""NVIDIA's verifier as a program: evidence in, one JSON line in, its answer out.

Run by the interpreter of .venv-nvidia-verifier (`make peers`), never imported by the product. Two
things are taken from it: the clock, because real evidence is from the past, and the OCSP request,
because there is no network; revocation is answered "good". Everything else is its own code, called
in the order of its own `attest`.

    {"report": hex, "chain": [hex DER, ...], "driver_rim": text, "vbios_rim": text, "nonce": hex,
     "at": seconds}  ->  {"accepted": bool, "why": text, "cpu_ms": number}
"""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime

from OpenSSL import crypto
from verifier.attestation import AttestationReport
from verifier.cc_admin_utils import CcAdminUtils
from verifier.config import BaseSettings, HopperSettings
from verifier.rim import RIM
from verifier.utils import format_vbios_version
from verifier.verifier import Verifier

NOW = [datetime(2026, 2, 1, tzinfo=UTC)]
_plain_init = crypto.X509StoreContext.__init__


def _init_at_the_stated_time(
    context: crypto.X509StoreContext, store: crypto.X509Store, *arguments: object, **names: object
) -> None:
    store.set_time(NOW[0].replace(tzinfo=None))
    _plain_init(context, store, *arguments, **names)


crypto.X509StoreContext.__init__ = _init_at_the_stated_time
CcAdminUtils.ocsp_certificate_chain_validation = staticmethod(
    lambda chain, settings, mode: (True, "", "good", None)
)


def verify(case: dict[str, object]) -> None:
    """Raise for whatever NVIDIA's verifier refuses."""
    settings = HopperSettings()
    BaseSettings.reset()
    report = AttestationReport(bytes.fromhex(case["report"]), settings)
    chain = [
        crypto.load_certificate(crypto.FILETYPE_ASN1, bytes.fromhex(der)) for der in case["chain"]
    ]
    with open(BaseSettings.DEVICE_ROOT_CERT, "rb") as file:
        # As its NVML handler does: the root that came with the chain is replaced by its own.
        chain[-1] = crypto.load_certificate(crypto.FILETYPE_PEM, file.read())
    opaque = report.get_response_message().get_opaque_data()
    driver = opaque.get_data("OPAQUE_FIELD_ID_DRIVER_VERSION").decode().rstrip("\0")
    vbios = format_vbios_version(opaque.get_data("OPAQUE_FIELD_ID_VBIOS_VERSION"))
    fwid = opaque.get_data("OPAQUE_FIELD_ID_FWID").hex()
    good, _, _ = CcAdminUtils.verify_gpu_certificate_chain(list(chain), settings, fwid)
    if not good:
        raise ValueError("device chain")
    CcAdminUtils.verify_attestation_report(
        attestation_report_obj=report,
        gpu_leaf_certificate=chain[0],
        nonce=bytes.fromhex(case["nonce"]),
        driver_version=driver,
        vbios_version=vbios,
        settings=settings,
    )
    manifests = []
    for name, version in (("driver", driver), ("vbios", vbios.lower())):
        manifest = RIM(rim_name=name, settings=settings, content=case[f"{name}_rim"])
        good, _ = manifest.verify(version=version, settings=settings)
        if not good:
            raise ValueError(f"{name} manifest")
        if version.lower() != manifest.get_colloquial_version():
            raise ValueError(f"{name} manifest of another version")
        manifests.append(manifest)
    if not Verifier(report, *manifests, settings=settings).verify(settings):
        raise ValueError("measurements")


def main() -> None:
    logging.disable(logging.CRITICAL)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        case = json.loads(line)
        NOW[0] = datetime.fromtimestamp(case["at"], UTC)
        started = time.process_time()
        try:
            verify(case)
            accepted, why = True, ""
        except BaseException as error:  # it raises what it likes; all of it means no
            accepted, why = False, f"{type(error).__name__}: {error}"[:200]
        spent = (time.process_time() - started) * 1000
        answers.write(json.dumps({"accepted": accepted, "why": why, "cpu_ms": spent}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
