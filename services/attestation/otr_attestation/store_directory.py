"""Collateral that an operator puts into a directory: for air-gapped deployments and old manifests.

    rim/<id>.xml
    ocsp/*.der, ocsp/*.b64        of any name: an answer says what it is about
    snp/issuers-<product>.pem     with -vlek after the product for VLEKs
    snp/crl-<product>.der         likewise
    snp/vcek-<product>-<chip id>-<TCB>.der
    tdx/<FMSPC>-<ca>.json         sgx/<FMSPC>-<ca>.json

Files are read when they are asked for; a file that is being written should be moved into place.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from pathlib import Path
from typing import Final

from otr_attestation.collateral_items import MAX_CONTENT_BYTES, ocsp_key
from otr_attestation.ports import CollateralUnavailableError
from otr_protocol.attestation.collateral_keys import CollateralKey, CollateralKind
from otr_protocol.attestation.ocsp import MAX_RESPONSE_BYTES, parse
from otr_protocol.errors import Refusal

MAX_ANSWERS: Final = 4096
_PLACES: Final = {
    CollateralKind.RIM: ("rim", "", ".xml"),
    CollateralKind.SNP_ISSUERS: ("snp", "issuers-", ".pem"),
    CollateralKind.SNP_CRL: ("snp", "crl-", ".der"),
    CollateralKind.SNP_VCEK: ("snp", "vcek-", ".der"),
    CollateralKind.TDX: ("tdx", "", ".json"),
    CollateralKind.SGX: ("sgx", "", ".json"),
}


class CollateralDirectory:
    """`ports.Origin` over a directory."""

    name = "directory"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._answers: dict[str, tuple[tuple[int, int], CollateralKey | None]] = {}

    async def fetch(self, key: CollateralKey) -> bytes | None:
        """See `ports.Origin`."""
        return await asyncio.to_thread(self._fetch, key)

    def _fetch(self, key: CollateralKey) -> bytes | None:
        try:
            if key.kind is CollateralKind.OCSP:
                return self._newest_answer(key)
            folder, prefix, suffix = _PLACES[key.kind]
            # A key's parts hold no separators of paths and do not begin with a dot.
            return _read(self._root / folder / f"{prefix}{'-'.join(key.parts)}{suffix}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CollateralUnavailableError(f"the directory cannot be read: {error}") from error

    def _newest_answer(self, key: CollateralKey) -> bytes | None:
        newest: bytes | None = None
        with os.scandir(self._root / "ocsp") as entries:
            files = [entry for entry in entries if entry.name.endswith((".der", ".b64"))]
        if len(files) > MAX_ANSWERS:
            raise CollateralUnavailableError(f"more than {MAX_ANSWERS} files in ocsp/")
        for entry in files:
            if self._key_of(entry) != key:
                continue
            content = _answer(Path(entry.path))
            if newest is None or parse(content).this_update > parse(newest).this_update:
                newest = content
        return newest

    def _key_of(self, entry: os.DirEntry[str]) -> CollateralKey | None:
        """What a file is about, read again only when the file has changed."""
        status = entry.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._answers.get(entry.name)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            key = ocsp_key(_answer(Path(entry.path)))
        except Refusal:
            key = None
        if len(self._answers) >= 2 * MAX_ANSWERS:
            self._answers.clear()
        self._answers[entry.name] = (stamp, key)
        return key


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_CONTENT_BYTES + 1)
    if len(content) > MAX_CONTENT_BYTES:
        raise CollateralUnavailableError(f"{path.name} is longer than {MAX_CONTENT_BYTES} bytes")
    return content


def _answer(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(2 * MAX_RESPONSE_BYTES)
    if path.suffix == ".b64":
        try:
            content = base64.b64decode(content.strip(), validate=True)
        except binascii.Error:
            content = b""
    return content
