"""A whole small log in memory, with the real code: entries, edge, tiles, checkpoints, receipts."""

from __future__ import annotations

from dataclasses import dataclass, field

from otr_protocol.tlog import checkpoint as checkpoints
from otr_protocol.tlog import tiles
from otr_protocol.tlog.checkpoint import Checkpoint
from otr_protocol.tlog.edge import Edge
from otr_protocol.tlog.entry import Entry
from otr_protocol.tlog.note import COSIGNATURE_V1, SignerKey
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.tlog.tiles import HashTile

LOG_KEY = SignerKey("log.example/otr", b"\x01" * 32)
WITNESS_KEY = SignerKey("witness.example/w1", b"\x02" * 32, COSIGNATURE_V1)
OTHER_KEY = SignerKey("other.example/log", b"\x03" * 32)


@dataclass
class SmallLog:
    """Appends entries and hands out receipts; tiles live in a dict."""

    edge: Edge = field(default_factory=Edge)
    entries: list[Entry] = field(default_factory=list)
    stored: dict[tuple[int, int], bytes] = field(default_factory=dict)
    reads: int = 0

    def append(self, *entries: Entry) -> None:
        """Append in one batch."""
        self.append_hashes([entry.leaf_hash() for entry in entries])
        self.entries += entries

    def append_hashes(self, leaf_hashes: list[bytes]) -> None:
        """Append leaves of which only the hashes are known."""
        self.edge, written = self.edge.append(leaf_hashes)
        self.stored.update(((each.tile.level, each.tile.index), each.data) for each in written)

    def read_tile(self, tile: HashTile) -> bytes:
        """The widest version of the tile that was ever written: tiles only grow."""
        self.reads += 1
        return self.stored[tile.level, tile.index]

    def checkpoint(self) -> Checkpoint:
        """The newest tree head."""
        return Checkpoint(LOG_KEY.name, self.edge.tree_size, self.edge.root())

    def receipt(self, leaf_index: int, *, witness_time: int | None = None) -> Receipt:
        """A receipt against the newest checkpoint, cosigned when a time is given."""
        head = self.checkpoint()
        note = checkpoints.sign_checkpoint(head, LOG_KEY)
        if witness_time is not None:
            line = checkpoints.cosign(
                head, WITNESS_KEY.verifier, WITNESS_KEY.sign, timestamp=witness_time
            )
            note += str(line)
        proof = tiles.prove_inclusion(self.read_tile, leaf_index, head.tree_size)
        entry = self.entries[leaf_index]
        return Receipt(entry.submitter, entry.log_time_ms, leaf_index, proof, note)
