"""Evidence of every NVIDIA GPU of this machine, through NVML.

What NVML's calls do that one would not expect:

- Confidential computing is a mode of the whole machine, and of a GPU only its report speaks. In
  protected-PCIe mode `ccFeature` may be 0 although the GPUs do attest; only the newer "settings"
  call says so, and that one returns its error code where all others raise it.
- Reports and chains come in buffers of fixed size with a length beside them. Some drivers count a
  byte of padding into it: a report ends where its own fields say it does.
- Initialisation is counted, so ours is taken back and disturbs nobody else in this process. The
  calls may hang with the GPU. They run in a thread that is waited for, one collection at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import pynvml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from otr_protocol.attestation.evidence import MAX_GPUS
from otr_protocol.attestation.nvidia.spdm_report import NONCE_BYTES, SIGNATURE_BYTES
from otr_protocol.binding import GpuEvidence
from otr_protocol.errors import MalformedError, Refusal, RejectedError, UnavailableError

TIMEOUT_SECONDS: Final = 45.0
"""For all GPUs together. A report takes about a second; a challenge lives for a minute."""

_PEM_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
# Offsets in a report (otr_protocol.attestation.nvidia.spdm_report).
_NONCE_AT: Final = 4
_RECORD_LENGTH_AT: Final = 42
_BEFORE_RECORD: Final = 45
_BETWEEN_RECORD_AND_OPAQUE: Final = 32


class GpuDriverMissingError(UnavailableError):
    """There is no NVIDIA driver here."""

    reason = "GPU_DRIVER_MISSING"


class GpuCountError(UnavailableError):
    """No GPU is in sight, or more than an evidence bundle holds."""

    reason = "GPU_COUNT"


class GpuNotConfidentialError(UnavailableError):
    """The GPUs or their driver are not in confidential-computing mode."""

    reason = "GPU_NOT_CONFIDENTIAL"


class GpuEnvironmentError(RejectedError):
    """The driver says that its confidential computing is simulated."""

    reason = "GPU_ENVIRONMENT_SIMULATED"


class GpuDevToolsError(RejectedError):
    """The GPUs let debuggers and profilers in: they would attest, and keep no secret."""

    reason = "GPU_DEVTOOLS_MODE"


class GpuSwitchesError(UnavailableError):
    """The GPUs are joined by switches whose evidence cannot be collected."""

    reason = "GPU_SWITCHES_UNREACHABLE"


class GpuNotReadyError(UnavailableError):
    """The GPUs do not accept work yet: nobody set their ready state."""

    reason = "GPU_NOT_READY"


class GpuAttestationFailedError(UnavailableError):
    """A call to the driver failed."""

    reason = "GPU_ATTESTATION_FAILED"


class GpuTimeoutError(UnavailableError):
    """The driver did not answer in time."""

    reason = "GPU_TIMEOUT"


class GpuEvidenceMalformedError(MalformedError):
    """The driver returned something else than a report over our nonce with its certificates."""

    reason = "GPU_EVIDENCE_MALFORMED"


# NVML is one library per process, and a hung call cannot be ended: nobody else tries meanwhile.
_one_at_a_time = threading.Lock()


class GpuAttester:
    """Collects from all GPUs that the driver sees; the environment cannot hide one.

    `require_ready` refuses GPUs that do not accept work: whoever sets their ready state collects
    evidence first, and turns it off for that.
    """

    def __init__(
        self, *, timeout_seconds: float = TIMEOUT_SECONDS, require_ready: bool = True
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._require_ready = require_ready

    def collect(self, nonce: bytes) -> tuple[GpuEvidence, ...]:
        """Reports over `nonce` (32 bytes), ascending. Raises the refusals of this module."""
        if len(nonce) != NONCE_BYTES:
            raise GpuEvidenceMalformedError(f"a nonce has {NONCE_BYTES} bytes", field="nonce")
        deadline = time.monotonic() + self._timeout_seconds
        if not _one_at_a_time.acquire(timeout=self._timeout_seconds):
            raise GpuTimeoutError("an earlier call to the NVIDIA driver has not returned")
        collection = _Collection(lambda: _collect(nonce, require_ready=self._require_ready))
        collection.start()
        return collection.result(max(0.0, deadline - time.monotonic()))


class _Collection(threading.Thread):
    """One collection; releases `_one_at_a_time` when the driver lets go of it."""

    def __init__(self, collect: Callable[[], tuple[GpuEvidence, ...]]) -> None:
        super().__init__(name="otr-gpu-evidence", daemon=True)
        self._collect = collect
        self._collected: tuple[GpuEvidence, ...] = ()
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._collected = self._collect()
        except BaseException as error:
            self._failure = error  # raised where somebody waits for it
        finally:
            _one_at_a_time.release()

    def result(self, timeout_seconds: float) -> tuple[GpuEvidence, ...]:
        self.join(timeout_seconds)
        if self.is_alive():
            raise GpuTimeoutError("the NVIDIA driver does not answer")
        if self._failure is not None:
            raise self._failure
        return self._collected


def _collect(nonce: bytes, *, require_ready: bool) -> tuple[GpuEvidence, ...]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise _refusal(error, "starting NVML") from error
    try:
        _require_confidential(require_ready=require_ready)
        count = _call("counting GPUs", pynvml.nvmlDeviceGetCount)
        if not 1 <= count <= MAX_GPUS:
            raise GpuCountError(f"the driver sees {count} GPUs; 1 to {MAX_GPUS} can be attested")
        found = [_evidence_of(index, nonce) for index in range(count)]
    finally:
        # It only takes back our own count; a driver that has gone away has nothing to take back.
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
    return tuple(sorted(found, key=lambda gpu: gpu.report))


def _require_confidential(*, require_ready: bool) -> None:
    environment, feature, devtools, multi_gpu = _mode()
    protected_pcie = multi_gpu == pynvml.NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE
    if feature != pynvml.NVML_CC_SYSTEM_FEATURE_ENABLED and not protected_pcie:
        raise GpuNotConfidentialError("confidential computing is off on this machine's GPUs")
    if environment != pynvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD:
        raise GpuEnvironmentError("the GPUs' confidential computing is simulated or unavailable")
    if devtools != pynvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF:
        raise GpuDevToolsError("the GPUs are in devtools mode, which lets debuggers in")
    if protected_pcie:
        raise GpuSwitchesError(
            "the GPUs are joined over protected PCIe, and NVML gives no evidence of the switches"
        )
    if require_ready:
        ready = _call(
            "asking whether GPUs are ready", pynvml.nvmlSystemGetConfComputeGpusReadyState
        )
        if ready != pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE:
            raise GpuNotReadyError(
                "the GPUs' ready state is not set (nvidia-smi conf-compute -srs 1)"
            )


def _mode() -> tuple[int, int, int, int]:
    """Environment, feature, devtools mode and multi-GPU mode of the machine."""
    settings = pynvml.c_nvmlSystemConfComputeSettings_v1_t()
    settings.version = pynvml.nvmlSystemConfComputeSettings_v1
    try:
        code = pynvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings))
    except pynvml.NVMLError as error:
        code = error.value  # an older driver has no such function
    if code == pynvml.NVML_SUCCESS:
        return (
            settings.environment,
            settings.ccFeature,
            settings.devToolsMode,
            settings.multiGpuMode,
        )
    if code not in (
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    ):
        raise _refusal(pynvml.NVMLError(code), "asking for the confidential mode")
    state = _call("asking for the confidential mode", pynvml.nvmlSystemGetConfComputeState)
    return (
        state.environment,
        state.ccFeature,
        state.devToolsMode,
        pynvml.NVML_CC_SYSTEM_MULTIGPU_NONE,
    )


def _evidence_of(index: int, nonce: bytes) -> GpuEvidence:
    device = _call(f"finding GPU {index}", pynvml.nvmlDeviceGetHandleByIndex, index)
    chain = _call(
        f"the certificates of GPU {index}", pynvml.nvmlDeviceGetConfComputeGpuCertificate, device
    )
    answer = _call(
        f"the report of GPU {index}",
        pynvml.nvmlDeviceGetConfComputeGpuAttestationReport,
        device,
        nonce,
    )
    report = _message(
        _slice(answer.attestationReport, answer.attestationReportSize, f"report of GPU {index}")
    )
    if report[_NONCE_AT : _NONCE_AT + NONCE_BYTES] != nonce:
        raise GpuEvidenceMalformedError(f"the report of GPU {index} is over another nonce")
    pem = _slice(
        chain.attestationCertChain, chain.attestationCertChainSize, f"certificates of GPU {index}"
    )
    return GpuEvidence(report=report, certificates=_der_chain(pem, index))


def _slice(buffer: Any, length: int, what: str) -> bytes:
    """The part of a fixed-size buffer that was filled."""
    data = bytes(buffer)
    if not 1 <= length <= len(data):
        raise GpuEvidenceMalformedError(f"the {what} cannot have {length} bytes")
    return data[:length]


def _message(data: bytes) -> bytes:
    """The report without padding, by its own lengths; other bytes behind it are refused."""
    record = int.from_bytes(data[_RECORD_LENGTH_AT:_BEFORE_RECORD], "little")
    opaque_length_at = _BEFORE_RECORD + record + _BETWEEN_RECORD_AND_OPAQUE
    opaque = int.from_bytes(data[opaque_length_at : opaque_length_at + 2], "little")
    end = opaque_length_at + 2 + opaque + SIGNATURE_BYTES
    if end > len(data) or any(data[end:]):
        raise GpuEvidenceMalformedError("a GPU's report does not end where its lengths say")
    return data[:end]


def _der_chain(pem: bytes, index: int) -> tuple[bytes, ...]:
    try:
        certificates = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))
    except ValueError as error:
        raise GpuEvidenceMalformedError(
            f"the certificates of GPU {index} cannot be read"
        ) from error
    if len(certificates) != pem.count(_PEM_BEGIN):
        raise GpuEvidenceMalformedError(f"the certificates of GPU {index} are mixed with others")
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _call(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise _refusal(error, what) from error


def _refusal(error: Any, what: str) -> Refusal:
    code = error.value
    if code in (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
        return GpuDriverMissingError(f"no NVIDIA driver on this machine (NVML: {error})")
    if code in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
        return GpuNotConfidentialError(
            f"this machine's GPUs or driver do no confidential computing (NVML: {error})"
        )
    return GpuAttestationFailedError(f"{what} failed (NVML: {error})")
