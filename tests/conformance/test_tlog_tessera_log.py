"""A whole tiled log of another implementation, byte for byte (transparency-dev/tessera)."""

from __future__ import annotations

from pathlib import Path

from otr_protocol.tlog import bundle, tiles, tree
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog.checkpoint import Checkpoint
from otr_protocol.tlog.edge import Edge
from otr_protocol.tlog.note import SignerKey, VerifierKey

ORIGIN = "example.com/log/testdata"
VKEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
WORDS = (
    b"one two three four five six seven eit nain ten ileven twelf threeten fourten fivten".split()
)


def test_appending_the_fifteen_entries_gives_the_same_tiles_bundles_and_checkpoints(
    vectors: Path,
) -> None:
    testdata = vectors / "tlog/tessera-log/testdata"
    signer = SignerKey.parse((testdata / "TEST_SIGNING_KEY.txt").read_text().strip())
    assert str(signer.verifier) == VKEY
    log = testdata / "log"
    edge, entries, same_files = Edge(), b"", 0
    for size in range(16):
        if size:
            word = WORDS[size - 1]
            edge, written = edge.append([tree.leaf_hash(word)])
            entries += bundle.encode_bundle([word])
            for each in written:
                assert (log / each.tile.path).read_bytes() == each.data
            path = tiles.entry_bundle(0, size).path
            assert (log / path).read_bytes() == entries
            same_files += len(written) + 1
        signed = checkpoints.sign_checkpoint(Checkpoint(ORIGIN, size, edge.root()), signer)
        assert (log / f"checkpoint.{size}").read_bytes() == signed.encode()
        same_files += 1
    assert same_files == 15 + 15 + 16


def test_the_published_files_verify_from_checkpoint_to_entry(vectors: Path) -> None:
    log = vectors / "tlog/tessera-log/testdata/log"
    key = VerifierKey.parse(VKEY)

    def read_tile(tile: tiles.HashTile) -> bytes:
        return (log / tile.path).read_bytes()

    for size in range(1, 16):
        opened = checkpoints.open_checkpoint(
            (log / f"checkpoint.{size}").read_bytes(), [key], unknown_lines="refuse"
        )
        assert (opened.checkpoint.origin, opened.checkpoint.tree_size) == (ORIGIN, size)
        assert tiles.tree_root(read_tile, size) == opened.checkpoint.root_hash
        entries = bundle.verify_bundle(
            (log / tiles.entry_bundle(0, size).path).read_bytes(),
            read_tile(tiles.hash_tile(0, 0, size)),
            size,
        )
        assert list(entries) == WORDS[:size]
        assert Edge.load(read_tile, size).root() == opened.checkpoint.root_hash
