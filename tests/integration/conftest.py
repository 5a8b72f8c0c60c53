"""What several files of integration tests start from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from support.attestation_service import Deployment, deployment
from support.vendor_server import VendorServer, vendor_server


@pytest_asyncio.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployment(tmp_path, with_log=False) as running:
        yield running


@pytest.fixture
def vendors() -> Iterator[VendorServer]:
    with vendor_server() as server:
        yield server
