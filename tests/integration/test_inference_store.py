"""The operator's database on a real file system: who may read it, and what a failing disk does."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from otr_inference.delegations import OperatorKeyFile
from otr_inference.store_sqlite import AnswerStore
from otr_server.settings import SecretFileError


@pytest.mark.parametrize("existing", [False, True])
async def test_nobody_else_may_read_content_keys_and_salts(tmp_path: Path, existing: bool) -> None:
    directory = tmp_path / "data" / "inference"
    path = directory / "inference.sqlite"
    mask = os.umask(0o022)
    try:
        if existing:  # from a release that left them readable
            directory.mkdir(parents=True, mode=0o700)
            for name in (path, path.with_name("inference.sqlite-wal")):
                name.touch(0o644)
        store = AnswerStore(path)
        await store.open()
        await store.enqueue(1, b"record")
    finally:
        os.umask(mask)
    modes = {each.name: each.stat().st_mode & 0o777 for each in directory.iterdir()}
    await store.close()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert set(modes) >= {"inference.sqlite", "inference.sqlite-wal", "inference.sqlite-shm"}
    assert set(modes.values()) == {0o600}


def test_an_operator_key_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "operator.key"
    path.write_text("11" * 32)
    path.chmod(0o644)
    with pytest.raises(SecretFileError):
        OperatorKeyFile(path, "log.test/otr")
    path.chmod(0o600)
    OperatorKeyFile(path, "log.test/otr")


NO_FILTER = 77
ON_A_FAILING_DISK = f"""
import asyncio, sys
from pathlib import Path
from otr_inference.ports import StorageBrokenError
from otr_inference.store_sqlite import AnswerStore
from support.failing_sync import fail_every_sync

async def main() -> None:
    store = AnswerStore(Path(sys.argv[1]))
    watching = asyncio.create_task(store.watch())
    try:
        fail_every_sync()
    except OSError:
        sys.exit({NO_FILTER})
    await store.open()  # nothing to write
    for call in (store.admit("client", b"i" * 16, b"f" * 32), store.answer("client", b"i" * 16)):
        try:
            await call
        except StorageBrokenError:
            continue
        sys.exit("the store went on")
    try:
        await asyncio.wait_for(watching, 5)
    except StorageBrokenError:
        print("stopped")

asyncio.run(main())
"""


async def test_a_disk_that_fails_to_sync_ends_the_process_and_is_not_called_full(
    tmp_path: Path,
) -> None:
    path = tmp_path / "inference.sqlite"
    store = AnswerStore(path)
    await store.open()
    await store.close()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", ON_A_FAILING_DISK, str(path)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode == NO_FILTER:
        pytest.skip("this kernel takes no filter of system calls")
    assert process.returncode == 0, errors.decode()
    assert output.decode().splitlines()[-1] == "stopped"
