"""The committed vectors: our rules reproduce them, and so does plain code that shares nothing.

The second half recomputes each digest with another CBOR encoder, `hashlib` and the recursive tree
definition, straight from the formulas of the specification.
"""

from __future__ import annotations

import json
import struct
from hashlib import sha256, sha384
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from conformance.vectors import make_vectors
from otr_protocol.trust import load_roots
from otr_protocol.verify_answer import verify_answer
from support.rfc9162 import mth

VECTORS = Path(make_vectors.__file__).parent
BUILT = make_vectors.build()


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text("utf-8"))
    return document


def record_hash(*values: Any) -> bytes:
    return sha256(cbor2.dumps(list(values))).digest()


def unhex(value: str) -> bytes:
    return bytes.fromhex(value)


def leaf_hash(sub: bytes, tag: str, index: int, content: bytes) -> bytes:
    data = record_hash("otr-leaf-v1", sub, tag, index) + content
    return sha256(b"\x00" + data).digest()


def id_root(sub: bytes, tag: str, ids: list[int]) -> bytes:
    return mth([leaf_hash(sub, tag, i, each.to_bytes(4, "big")) for i, each in enumerate(ids)])


@pytest.mark.parametrize("name", BUILT)
def test_our_rules_reproduce_the_committed_vectors(name: str) -> None:
    committed = (VECTORS / f"{name}.json").read_text("utf-8")
    assert make_vectors.text_of(BUILT[name]) == committed


def test_every_committed_file_is_one_that_is_reproduced() -> None:
    assert {path.stem for path in VECTORS.glob("*.json")} == BUILT.keys()


def test_sub_salts_and_digests_follow_from_the_formulas() -> None:
    vectors = load("requests")
    salt = unhex(vectors["salt"])
    subs = {x: record_hash("otr-salt-v1", salt, x) for x in ("input", "output", "trace")}
    assert {name: sub.hex() for name, sub in subs.items()} == vectors["subs"]
    for case in vectors["cases"]:
        prompt_root = id_root(subs["input"], "prompt", case["prompt_ids"])
        assert prompt_root.hex() == case["prompt_root"]
        assert (
            record_hash(
                "otr-input-v1",
                subs["input"],
                prompt_root,
                case["sampling"],
                unhex(case["seed"]),
                case["max_tokens"],
                case["stop_ids"],
                [unhex(each) for each in case["stop_strings"]],
                case["declared_value"],
                [unhex(each) for each in case["recipients"]],
            ).hex()
            == case["input_digest"]
        )
        out_root = id_root(subs["output"], "out", case["output_ids"])
        assert out_root.hex() == case["out_root"]
        output = record_hash("otr-output-v1", subs["output"], out_root, case["finish"])
        assert output.hex() == case["output_digest"]


def test_a_blob_holds_everything_that_its_digests_are_made_of() -> None:
    for case in load("requests")["cases"]:
        blob = cbor2.loads(unhex(case["blob"]))
        assert blob[0] == "otr-blob-v1"
        prompt, output = (
            list(struct.unpack(f">{len(ids) // 4}I", ids)) for ids in (blob[2], blob[10])
        )
        assert (prompt, output) == (case["prompt_ids"], case["output_ids"])
        assert blob[3:7] == [
            case["sampling"],
            unhex(case["seed"]),
            case["max_tokens"],
            case["stop_ids"],
        ]
        assert blob[11] == case["finish"]
        assert sha256(cbor2.dumps(blob[12])).hexdigest() == case["trace_root"]
        assert sha256(unhex(case["blob"])).hexdigest() == case["blob_digest"]


def test_trace_prefixes_and_roots_follow_from_the_formulas() -> None:
    vectors = load("trace")
    sub = record_hash("otr-salt-v1", unhex(vectors["salt"]), "trace")
    assert sub.hex() == vectors["sub_trace"]
    for each in vectors["prefixes"]:
        prefix = record_hash("otr-leaf-v1", sub, each["tag"], each["index"])
        assert prefix.hex() == each["prefix"]
    for each in vectors["kv_leaves"]:
        content = unhex(each["content"])
        assert leaf_hash(sub, each["tag"], each["index"], content).hex() == each["leaf_hash"]

    model, positions = vectors["model"], vectors["positions"]
    assert positions == vectors["prompt_count"] + len(vectors["output_ids"]) - 1
    pages = -(-positions // 64)
    segments = []
    for segment, first in enumerate(range(0, model["layers"], model["segment_layers"])):
        residuals = [
            struct.pack("<6i", *((segment * 1000 + p * 10 + i) * (-1) ** i for i in range(6)))
            for p in range(positions)
        ]
        res = mth([leaf_hash(sub, f"res/{segment}", p, x) for p, x in enumerate(residuals)])
        contents = [
            page_content(layer, head, part, range(64 * page, min(positions, 64 * page + 64)))
            for layer in range(first, min(model["layers"], first + model["segment_layers"]))
            for head in range(model["kv_heads"])
            for part in (0, 1)
            for page in range(pages)
        ]
        kv = mth([leaf_hash(sub, f"kv/{segment}", i, x) for i, x in enumerate(contents)])
        segments.append([res, kv])
    assert [{"res": r.hex(), "kv": k.hex()} for r, k in segments] == vectors["segments"]
    sub_output = record_hash("otr-salt-v1", unhex(vectors["salt"]), "output")
    out_root = id_root(sub_output, "out", vectors["output_ids"])
    root = record_hash("otr-trace-v1", sub, positions, segments, out_root)
    assert root.hex() == vectors["trace_root"]

    nothing = sha256(b"").digest()
    empty = record_hash("otr-trace-v1", sub, 0, [[nothing, nothing]] * 2, nothing)
    assert empty.hex() == vectors["empty"]["trace_root"]


def page_content(layer: int, head: int, part: int, rows: range) -> bytes:
    values = bytes(
        ((layer * 31 + head * 17 + part * 7 + row * 3 + i) % 255 - 127) & 0xFF
        for row in rows
        for i in range(4)
    )
    return values + b"".join(
        (16_384 + layer + head + part + row).to_bytes(4, "little") for row in rows
    )


def test_a_sealed_blob_follows_from_the_formulas() -> None:
    vectors = load("sealed")
    content_key, nonce = unhex(vectors["content_key"]), bytes(12)
    domain, boxes, ciphertext = cbor2.loads(unhex(vectors["sealed"]))
    recipients = [unhex(each["public"]) for each in vectors["recipients"]]
    assert domain == "otr-sealed-v1"
    aad = cbor2.dumps(["otr-sealed-v1", recipients])
    plain = ChaCha20Poly1305(content_key).decrypt(nonce, ciphertext, aad)
    assert plain.hex() == vectors["blob"]
    for recipient, (named, ephemeral, box), keys in zip(
        recipients, boxes, vectors["recipients"], strict=True
    ):
        assert named == recipient
        secret = sha256(b"otr-seal-v1" + content_key + recipient).digest()
        derived = X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        assert derived == ephemeral
        private = X25519PrivateKey.from_private_bytes(unhex(keys["private"]))
        shared = private.exchange(X25519PublicKey.from_public_bytes(ephemeral))
        box_key = record_hash("otr-box-v1", shared, ephemeral, recipient)
        assert ChaCha20Poly1305(box_key).decrypt(nonce, box, None) == content_key
    assert sha256(unhex(vectors["sealed"])).hexdigest() == vectors["blob_digest"]


def test_the_binding_follows_from_the_formulas() -> None:
    vectors = load("records")["binding"]
    names = ("challenge", "operator_id", "session_key", "tls_spki_sha256", "model_id")
    record = ["otr-anchor-v1", *(unhex(vectors[name]) for name in names)]
    anchor = sha384(cbor2.dumps(record)).digest()
    assert anchor.hex() == vectors["anchor"]
    assert sha256(anchor + b"otr-gpu-v1").hexdigest() == vectors["gpu_nonce"]
    gpus = sorted(
        [unhex(gpu["report"]), [unhex(c) for c in gpu["certificates"]]] for gpu in vectors["gpus"]
    )
    gpu_digest = record_hash("otr-gpu-evidence-v1", gpus)
    assert gpu_digest.hex() == vectors["gpu_digest"]
    assert record_hash("otr-gpu-evidence-v1", []).hex() == vectors["gpu_digest_of_none"]
    data = sha384(anchor + gpu_digest).digest() + bytes(16)
    assert data.hex() == vectors["report_data"]


@pytest.mark.parametrize(
    ("record", "signer", "domain"),
    [
        ("delegation", "operator", "otr-delegation-v1"),
        ("voucher", "payer", "otr-voucher-v1"),
        ("allowance", "arbiter", "otr-allowance-v1"),
        ("close", "session", "otr-close-v1"),
    ],
)
def test_signed_records_are_plain_cose(record: str, signer: str, domain: str) -> None:
    vectors = load("records")
    protected, unprotected, payload, signature = cbor2.loads(unhex(vectors[record]["signed"]))
    key = unhex(vectors["seeds"][signer]["public"])
    assert cbor2.loads(protected) == {1: -8, 4: sha256(key).digest()}
    assert unprotected == {}
    assert cbor2.loads(payload)[0] == domain
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    if "payload" in vectors[record]:
        assert payload.hex() == vectors[record]["payload"]


def test_a_countersigned_voucher_holds_the_payers_own_bytes() -> None:
    vectors = load("records")["voucher"]
    locked = cbor2.loads(cbor2.loads(unhex(vectors["countersigned"]))[2])
    assert locked == ["otr-voucher-lock-v1", unhex(vectors["signed"])]
    assert sha256(unhex(vectors["payload"])).hexdigest() == vectors["digest"]


def test_identities_are_hashes_of_what_they_identify() -> None:
    statement, manifest = load("records")["statement"], load("manifest")
    assert sha256(unhex(statement["payload"])).hexdigest() == statement["payload_hash"]
    assert sha256(unhex(manifest["manifest"])).hexdigest() == manifest["model_id"]
    record = cbor2.loads(unhex(manifest["manifest"]))
    assert len(record[4]) == len(manifest["scalar_names"])


@pytest.mark.parametrize("case", load("answers")["cases"], ids=lambda case: case["name"])
def test_committed_answers_verify_under_their_roots(case: dict[str, Any]) -> None:
    roots = load_roots(json.dumps(case["roots"]).encode())
    verified = verify_answer(unhex(case["answer"]), roots, case["now_ms"])
    assert [check.name for check in verified.checks] == case["checks"]
    assert verified.signed.payload_hash.hex() == case["payload_hash"]
