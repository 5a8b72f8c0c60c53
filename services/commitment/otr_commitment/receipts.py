"""Receipts in their three forms, made from stored entries and a verified proof (spec/log.md)."""

from __future__ import annotations

from dataclasses import dataclass

from otr_commitment.ports import Head, Mark
from otr_commitment.tree import Tree
from otr_protocol.tlog import cose_receipt
from otr_protocol.tlog.entry import Entry
from otr_protocol.tlog.note import SignerKey
from otr_protocol.tlog.proof_bundle import ProofBundle
from otr_protocol.tlog.receipt import Receipt
from otr_protocol.tlog.tree import leaf_hash


@dataclass(frozen=True, slots=True)
class AllForms:
    """The native receipt, the C2SP tlog-proof and the RFC 9942 COSE receipt of one entry."""

    receipt: bytes
    tlog_proof: str
    cose_receipt: bytes


def receipt_for(tree: Tree, head: Head, leaf_index: int, data: bytes) -> Receipt:
    """The receipt of the entry with these bytes, against a published head.

    Raises DamagedError when they are not the leaf that was signed.
    """
    published = Mark(head.tree_size, head.root_hash)
    proof = tree.inclusion_proof(leaf_index, leaf_hash(data), head.tree_size, published)
    entry = Entry.decode(data)
    return Receipt(entry.submitter, entry.log_time_ms, leaf_index, proof, head.note)


def all_forms(receipt: Receipt, head: Head, key: SignerKey) -> AllForms:
    """The same receipt for readers of each kind."""
    cose = cose_receipt.sign_inclusion(
        receipt.leaf_index,
        head.tree_size,
        receipt.inclusion_proof,
        head.root_hash,
        key.verifier,
        key.sign,
    )
    return AllForms(receipt.encode(), ProofBundle.of_receipt(receipt).encode(), cose)
