"""transparency-dev/merkle: 98 inclusion vectors, 98 consistency vectors, 9 reference roots."""

from __future__ import annotations

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from otr_protocol.errors import Refusal
from otr_protocol.tlog import consistency, inclusion, tree
from otr_protocol.tlog.subtrees import Subtree, reader_over
from support import rfc9162

MERKLE = Path("tlog/rfc6962-merkle")


def _cases(vectors: Path, kind: str) -> list[tuple[str, dict[str, Any]]]:
    paths = sorted((vectors / MERKLE / "testdata" / kind).rglob("*.json"))
    return [(str(path), json.loads(path.read_text())) for path in paths]


def _bytes(value: str | None) -> bytes:
    return b64decode(value or "")


@pytest.mark.parametrize("kind", ["inclusion", "consistency"])
def test_every_vector_is_answered_as_wanted(vectors: Path, kind: str) -> None:
    cases = _cases(vectors, kind)
    assert len(cases) == 98
    assert sum(case["wantErr"] for _, case in cases) == 92
    wrong = []
    for path, case in cases:
        proof = [_bytes(each) for each in case["proof"] or []]
        try:
            if kind == "inclusion":
                inclusion.verify(
                    case["leafIdx"],
                    case["treeSize"],
                    _bytes(case["leafHash"]),
                    proof,
                    _bytes(case["root"]),
                )
            else:
                consistency.verify(
                    case["size1"],
                    case["size2"],
                    _bytes(case["root1"]),
                    _bytes(case["root2"]),
                    proof,
                )
            refused = False
        except Refusal:
            refused = True
        if refused != case["wantErr"]:
            wrong.append(path)
    assert wrong == []


def test_the_reference_tree_has_its_nine_roots_and_its_inner_hashes(vectors: Path) -> None:
    reference = json.loads((vectors / MERKLE / "reference_tree.json").read_text())
    leaves = [tree.leaf_hash(bytes.fromhex(each)) for each in reference["leaf_inputs_hex"]]
    roots = [bytes.fromhex(each) for each in reference["root_hash_hex_by_size"]]
    assert [tree.root(leaves[:size]) for size in range(9)] == roots
    assert [tree.Frontier().extend(leaves[:size]).root() for size in range(9)] == roots
    assert [rfc9162.mth(leaves[:size]) for size in range(9)] == roots
    read = reader_over(leaves)
    assert read(Subtree(3, 0)) == roots[8]
    assert read(Subtree(2, 0)) == roots[4]
