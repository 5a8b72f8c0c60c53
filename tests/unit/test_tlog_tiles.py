"""Tiles: names, partial widths, and proofs out of a handful of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otr_protocol.tlog import bundle, consistency, inclusion, tiles, tree
from otr_protocol.tlog.edge import Edge
from otr_protocol.tlog.subtrees import reader_over
from otr_protocol.tlog.tiles import EntryBundle, HashTile
from support.log_of import SmallLog

SIZE = 70_000


@pytest.fixture(scope="module")
def leaves() -> list[bytes]:
    return [tree.leaf_hash(b"%d" % number) for number in range(SIZE)]


@pytest.fixture(scope="module")
def log(leaves: list[bytes]) -> SmallLog:
    """The specification's example of 70,000 leaves, appended in batches of uneven sizes."""
    draw, built, at = random.Random(1), SmallLog(), 0
    while at < SIZE:
        size = draw.randrange(1, 600)
        built.append_hashes(leaves[at : at + size])
        at += size
    return built


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (HashTile(0, 0), "tile/0/000"),
        (HashTile(0, 1_234_067), "tile/0/x001/x234/067"),
        (HashTile(1, 0, 17), "tile/1/000.p/17"),
        (HashTile(7, 1_000, 255), "tile/7/x001/000.p/255"),
        (EntryBundle(0, 1), "tile/entries/000.p/1"),
        (EntryBundle(999), "tile/entries/999"),
    ],
)
def test_a_tile_has_one_path(tile: HashTile | EntryBundle, path: str) -> None:
    assert tile.path == path
    assert tiles.parse_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/",
        "tile/8/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/000/",
        "tile/0/000\n",
        "/tile/0/000",
        "tile/data/000",
        "tile/0/٠٠٠",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
    ],
)
def test_any_other_path_is_refused(path: str) -> None:
    with pytest.raises(tiles.TileMalformedError):
        tiles.parse_path(path)


@given(st.integers(0, 7), st.integers(0, tiles.MAX_INDEX), st.integers(1, 256))
def test_every_path_leads_back_to_its_tile(level: int, index: int, width: int) -> None:
    assert tiles.parse_path(HashTile(level, index, width).path) == HashTile(level, index, width)
    assert tiles.parse_path(EntryBundle(index, width).path) == EntryBundle(index, width)


def test_partial_tiles_are_those_of_the_specifications_examples() -> None:
    assert tiles.partial_tiles(70_000) == (
        HashTile(0, 273, 112),
        HashTile(1, 1, 17),
        HashTile(2, 0, 1),
    )
    assert tiles.partial_tiles(256) == (HashTile(1, 0, 1),)
    assert tiles.partial_tiles(0) == ()
    assert tiles.hash_tile(0, 273, 70_000).width == 112
    assert tiles.hash_tile(1, 0, 70_000).width == 256
    assert tiles.entry_bundle(0, 3) == EntryBundle(0, 3)
    with pytest.raises(tiles.TileMalformedError):
        tiles.hash_tile(0, 274, 70_000)
    with pytest.raises(tiles.TileMalformedError):
        tiles.entry_bundle(0, 0)


def test_the_tiles_hold_the_tree(log: SmallLog, leaves: list[bytes]) -> None:
    assert log.edge.root() == tree.root(leaves) == tiles.tree_root(log.read_tile, SIZE)
    assert Edge.load(log.read_tile, SIZE) == log.edge
    assert b"".join(leaves[:256]) == log.read_tile(HashTile(0, 0))
    assert log.read_tile(HashTile(1, 0))[:32] == tree.root(leaves[:256])


def test_proofs_from_tiles_are_those_from_the_whole_tree_in_few_reads(
    log: SmallLog, leaves: list[bytes]
) -> None:
    read_hash = reader_over(leaves)
    draw = random.Random(2)
    for _ in range(150):
        index, old = draw.randrange(SIZE), draw.randrange(1, SIZE + 1)
        log.reads = 0
        proof = tiles.prove_inclusion(log.read_tile, index, SIZE)
        assert log.reads == len(tiles.inclusion_tiles(index, SIZE)) <= 2 * 3
        assert proof == inclusion.prove_with(read_hash, index, SIZE)
        log.reads = 0
        proof = tiles.prove_consistency(log.read_tile, old, SIZE)
        assert log.reads == len(tiles.consistency_tiles(old, SIZE)) <= 2 * 3
        assert proof == consistency.prove_with(read_hash, old, SIZE)


def test_proofs_in_an_older_tree_come_from_tiles_that_have_grown_since(
    log: SmallLog, leaves: list[bytes]
) -> None:
    for size in (1, 255, 256, 257, 65_535, 65_536, 65_537):
        root = tree.root(leaves[:size])
        for index in {0, size // 2, size - 1}:
            proof = tiles.prove_inclusion(log.read_tile, index, size)
            inclusion.verify(index, size, leaves[index], proof, root)
        proof = tiles.prove_consistency(log.read_tile, size, SIZE)
        consistency.verify(size, SIZE, root, log.edge.root(), proof)


def test_reads_are_logarithmic_in_logs_nobody_could_build() -> None:
    size = 2**63 - 1
    for index in (0, size // 3, size - 1):
        assert len(tiles.inclusion_tiles(index, size)) <= 16
        assert len(tiles.consistency_tiles(index + 1, size)) <= 16


def test_appending_in_any_batches_writes_the_same_tiles(leaves: list[bytes]) -> None:
    one_by_one, at_once = SmallLog(), SmallLog()
    for leaf in leaves[:600]:
        one_by_one.append_hashes([leaf])
    at_once.append_hashes(leaves[:600])
    assert one_by_one.edge == at_once.edge
    assert one_by_one.stored == at_once.stored


def test_only_full_and_newest_partial_tiles_are_written(leaves: list[bytes]) -> None:
    edge, _ = Edge().append(leaves[:250])
    _, written = edge.append(leaves[250:520])
    assert [each.tile for each in written] == [
        HashTile(0, 0),
        HashTile(0, 1),
        HashTile(0, 2, 8),
        HashTile(1, 0, 2),
    ]
    assert all(len(each.data) == 32 * each.tile.width for each in written)
    assert edge.append([]) == (edge, ())


def test_an_edge_that_is_not_that_of_its_size_is_refused(leaves: list[bytes]) -> None:
    edge, _ = Edge().append(leaves[:300])
    for partial in (edge.partial[:1], (edge.partial[0][:-1], edge.partial[1]), edge.partial[::-1]):
        with pytest.raises(tiles.TileMalformedError):
            Edge(edge.frontier, partial)
    with pytest.raises(tree.HashLengthError):
        edge.append([b"short"])


@pytest.mark.parametrize("length", [0, 31, 32 * 2, 32 * 4 - 1, 32 * 257])
def test_tile_data_of_an_impossible_length_are_refused(length: int) -> None:
    with pytest.raises(tiles.TileMalformedError):
        tiles.check_tile(HashTile(0, 0, 3), b"x" * length)


def test_a_changed_tile_gives_a_proof_that_does_not_verify(leaves: list[bytes]) -> None:
    log = SmallLog()
    log.append_hashes(leaves[:300])
    for position in range(44):
        changed = bytearray(log.stored[0, 1])
        changed[position * 32] ^= 1
        tampered = {**log.stored, (0, 1): bytes(changed)}
        proof = tiles.prove_inclusion(lambda t, s=tampered: s[t.level, t.index], 0, 300)  # type: ignore[misc]
        with pytest.raises(inclusion.InclusionRejectedError):
            inclusion.verify(0, 300, leaves[0], proof, log.edge.root())


def test_entry_bundles_concatenate_and_come_apart() -> None:
    entries = [b"", b"one", b"x" * 65_535]
    data = bundle.encode_bundle(entries[:1]) + bundle.encode_bundle(entries[1:])
    assert data == bundle.encode_bundle(entries)
    assert bundle.decode_bundle(data, 3) == tuple(entries)
    hashes = b"".join(map(tree.leaf_hash, entries))
    assert bundle.verify_bundle(data, hashes, 3) == tuple(entries)
    with pytest.raises(bundle.BundleRejectedError):
        bundle.verify_bundle(data, hashes[32:] + hashes[:32], 3)
    with pytest.raises(tiles.TileMalformedError):
        bundle.encode_bundle([b"x" * 65_536])


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (b"", 1),
        (b"\x00", 1),
        (b"\x00\x01", 1),
        (b"\x00\x01a", 2),
        (b"\x00\x01a", 0),
        (b"\x00\x01a", 257),
        (b"\x00\x01ab", 1),
        (b"\xff\xffa", 1),
    ],
)
def test_a_bundle_that_does_not_end_where_it_should_is_refused(data: bytes, width: int) -> None:
    with pytest.raises(tiles.TileMalformedError):
        bundle.decode_bundle(data, width)
