"""A transparency log as arithmetic: tree, proofs, notes, checkpoints, tiles, receipts."""
