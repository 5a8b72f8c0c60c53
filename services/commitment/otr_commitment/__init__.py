"""The commitment service: an append-only Merkle log and the blobs it refers to (spec/log.md)."""
