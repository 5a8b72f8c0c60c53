"""The operator's database on a real file system: who may read it, and what a failing disk does."""

from __future__ import annotations

import os
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
