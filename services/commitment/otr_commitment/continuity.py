"""May this log go on? What is checked before a process appends (spec/log.md, "Continuity").

A log that goes on from a wrong state signs two histories, and nothing can undo that. So before the
first append of a process

1. the stored checkpoint must be signed by this log's key and be the stored head,
2. the stored tiles must lead to its root, and its last entries to their leaves,
3. the guard must have marked this very tree, or one that it extends: the commit of a process that
   died after writing it and before publishing it.

Otherwise the service starts, says why, is NOT_SERVING and refuses to append. It still serves the
signed tree to readers if 1 and 2 hold, which is what people need to find out what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from otr_commitment.ports import DamagedError, Guard, Head, Mark, Reader
from otr_commitment.tree import Tree
from otr_protocol.errors import Refusal, RejectedError
from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import tiles
from otr_protocol.tlog.edge import Edge
from otr_protocol.tlog.note import VerifierKey
from otr_protocol.tlog.tiles import TILE_WIDTH, HashTile
from otr_protocol.tlog.tree import leaf_hash, perfect_root

_BUNDLE_BYTES: Final = 8 << 20


class TreeMismatchError(RejectedError):
    """What is stored does not lead to the checkpoint that was signed over it."""

    reason = "LOG_TREE_MISMATCH"


class RolledBackError(RejectedError):
    """The data are older than what this log has already published."""

    reason = "LOG_ROLLED_BACK"


class ForkedError(RejectedError):
    """The data continue in another way than what this log has already published."""

    reason = "LOG_FORKED"


class GuardMissingError(RejectedError):
    """There are data, and no guard to say that they are the newest."""

    reason = "LOG_GUARD_MISSING"


def check_stored(reader: Reader, head: Head, log_key: VerifierKey) -> Edge:
    """Rules 1 and 2: the edge to append to, if the stored tree is the one that was signed.

    Looks at the tiles that the root depends on directly and at the last entries; `check_tiles`
    looks at the rest. Raises TreeMismatchError.
    """
    try:
        signed = checkpoints.open_checkpoint(head.note, [log_key]).checkpoint
        edge = Edge.load(reader.read_tile, head.tree_size)
        last = head.tree_size % TILE_WIDTH or min(head.tree_size, TILE_WIDTH)
        first = head.tree_size - last
        entries = reader.entries(first, last, max_bytes=_BUNDLE_BYTES) if last else []
        hashes = Tree(reader).leaf_hashes(first, last, head.tree_size)
    except Refusal as error:
        raise TreeMismatchError(f"the stored log cannot be read: {error.message}") from error
    if (signed.tree_size, signed.root_hash) != (head.tree_size, head.root_hash):
        raise TreeMismatchError("the stored checkpoint is not of the stored tree")
    if edge.root() != head.root_hash:
        raise TreeMismatchError("the stored tiles do not lead to the signed root")
    if [leaf_hash(entry.data) for entry in entries] != hashes:
        raise TreeMismatchError("the last entries are not the leaves of the signed tree")
    return edge


def check_tiles(
    reader: Reader, tree_size: int, *, stopping: Callable[[], bool] = lambda: False
) -> None:
    """Rule 2 for every full tile: its root must be the hash that the tile above it holds.

    About 0.15 ms per 256 leaves; ends early when `stopping` says so. Raises TreeMismatchError.
    """
    for level in range(tiles.MAX_LEVEL + 1):
        for index in range(tree_size >> tiles.TILE_HEIGHT * (level + 1)):
            if stopping():
                return
            above = tiles.hash_tile(level + 1, index // TILE_WIDTH, tree_size)
            try:
                below = tiles.check_tile(
                    HashTile(level, index), reader.read_tile(HashTile(level, index))
                )
                expected = tiles.split_hashes(tiles.check_tile(above, reader.read_tile(above)))[
                    index % TILE_WIDTH
                ]
            except (DamagedError, tiles.TileMalformedError) as error:
                raise TreeMismatchError(f"a tile cannot be read: {error.message}") from error
            if perfect_root(below) != expected:
                raise TreeMismatchError(f"{HashTile(level, index).path} is damaged")


def check_guard(reader: Reader, head: Head, guard: Guard, *, adopt: bool = False) -> None:
    """Rule 3; moves the guard up to a commit that was never published.

    With `adopt` a missing guard is made from the data: for an operator who has lost it and has
    compared the checkpoint with what others hold. Raises RolledBackError, ForkedError,
    GuardMissingError, GuardConflictError, or what reading the guard raises.
    """
    now = Mark(head.tree_size, head.root_hash)
    mark = guard.load()
    if mark is None:
        if head.tree_size and not adopt:
            raise GuardMissingError(
                f"the log has {head.tree_size} entries and no guard: bring it back, or compare the "
                "checkpoint with what others hold and start once with adopt_guard"
            )
    elif mark.tree_size > head.tree_size:
        raise RolledBackError(
            f"the data end at {head.tree_size}, but {mark.tree_size} entries were published"
        )
    elif Tree(reader).root(mark.tree_size, now) != mark.root_hash:
        raise ForkedError(f"another tree of {mark.tree_size} entries was published")
    if mark != now:
        guard.swap(mark, now)
