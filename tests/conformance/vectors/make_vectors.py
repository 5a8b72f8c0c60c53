"""Write the vectors beside this file: `cd tests && python -m conformance.vectors.make_vectors`.

Every key and salt is fixed, so the output is a function of the rules. A vector file that changes is
a change of the protocol: it needs a reason, and everybody else's implementation changes with it.
Byte strings are lower-case hex; integers are numbers; what is not hex is text.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from conformance.vectors.sampling_vectors import sampling_vectors
from otr_protocol import binding
from otr_protocol.binding import GpuEvidence
from otr_protocol.digest import H
from otr_protocol.identity import Delegation, sign_delegation
from otr_protocol.manifest import Formats, ModelManifest, ModelShape, scalar_names
from otr_protocol.output import Finish
from otr_protocol.payment import (
    Close,
    Voucher,
    countersign_voucher,
    sign_close,
    sign_voucher,
)
from otr_protocol.request import generation_input, seeded, sub_salt
from otr_protocol.request_blob import RequestBlob
from otr_protocol.statement import Profile, open_statement, payload_hash
from otr_protocol.tlog import tree
from otr_protocol.trace import (
    OUT_TAG,
    LeafPrefixes,
    SegmentRoots,
    TraceLayout,
    TracePreimage,
    empty_trace,
    id_root,
    kv_leaf,
    kv_tag,
    op_tag,
    page_count,
    page_rows,
    res_tag,
    residual_leaf,
    tile_tag,
    trace_positions,
)
from otr_protocol.trust import dump_roots
from otr_protocol.verify_answer import verify_answer
from support.answers import (
    ARBITER,
    ARBITER_RECIPIENT,
    CLIENT_RECIPIENT,
    CONTENT_KEY,
    END_MS,
    LOG_TIME_MS,
    MODEL_ID,
    NOW_MS,
    OPERATOR,
    PAYER,
    SALT,
    SESSION,
    World,
    blob_of,
    request_of,
    sealed_request,
    stored_bytes,
)

HERE = Path(__file__).resolve().parent
ORIGIN = "log.example/otr"


def trace_vectors() -> dict[str, Any]:
    """A tiny model's trace: 3 layers in segments of 2, 2 kv heads of 4, hidden 6, 70 positions."""
    layout = TraceLayout(layers=3, kv_heads=2, segment_layers=2)
    hidden, head_dim, prompt, output = 6, 4, 67, 4
    positions = trace_positions(prompt, output)
    sub = sub_salt(SALT, "trace")
    out_ids = [100 + index for index in range(output)]
    out_root = id_root(sub_salt(SALT, "output"), OUT_TAG, out_ids)
    segments: list[SegmentRoots] = []
    leaves: list[dict[str, Any]] = []
    for segment in range(layout.segment_count):
        res_prefixes = LeafPrefixes(sub, res_tag(segment))
        res = [
            res_prefixes.leaf_hash(position, residual_leaf(_residual(segment, position), hidden))
            for position in range(positions)
        ]
        kv_prefixes = LeafPrefixes(sub, kv_tag(segment))
        kv = []
        for layer in layout.segment(segment):
            for head in range(layout.kv_heads):
                for part in (0, 1):
                    for page in range(page_count(positions)):
                        rows = page_rows(positions, page)
                        content = kv_leaf(*_page(layer, head, part, rows, head_dim), head_dim)
                        index = layout.kv_leaf_index(layer, head, part, page, positions)
                        kv.append(kv_prefixes.leaf_hash(index, content))
                        if len(leaves) < 4 or len(rows) < 64:
                            leaves.append(
                                {
                                    "tag": kv_tag(segment),
                                    "index": index,
                                    "layer": layer,
                                    "kv_head": head,
                                    "part": "KV"[part],
                                    "page": page,
                                    "content": content.hex(),
                                    "leaf_hash": kv[-1].hex(),
                                }
                            )
        segments.append(SegmentRoots(tree.root(res), tree.root(kv)))
    trace = TracePreimage(sub, positions, tuple(segments), out_root)
    return {
        "about": "spec/trace.md: prefixes, leaves, segment roots and trace roots",
        "salt": SALT.hex(),
        "sub_trace": sub.hex(),
        "prefixes": [
            {"tag": tag, "index": index, "prefix": LeafPrefixes(sub, tag)(index).hex()}
            for tag in (res_tag(0), kv_tag(11), op_tag(1, 17), tile_tag(1, 17, 3))
            for index in (0, 23, 24, 255, 256, 65_535, 65_536, 2**32)
        ],
        "model": {
            "layers": 3,
            "kv_heads": 2,
            "segment_layers": 2,
            "hidden": hidden,
            "head_dim": head_dim,
        },
        "residual_rule": "int32 little-endian: (segment*1000 + position*10 + i) * (-1)^i",
        "kv_leaves": leaves,
        "prompt_count": prompt,
        "output_ids": out_ids,
        "positions": positions,
        "segments": [{"res": each.res.hex(), "kv": each.kv.hex()} for each in segments],
        "out_root": out_root.hex(),
        "trace_root": trace.trace_root().hex(),
        "empty": {
            "segments": 2,
            "trace_root": empty_trace(sub, 2).trace_root().hex(),
        },
    }


def _residual(segment: int, position: int) -> bytes:
    values = [(segment * 1000 + position * 10 + i) * (-1) ** i for i in range(6)]
    return struct.pack("<6i", *values)


def _page(layer: int, head: int, part: int, rows: range, head_dim: int) -> tuple[bytes, bytes]:
    values = [
        (layer * 31 + head * 17 + part * 7 + row * 3 + i) % 255 - 127
        for row in rows
        for i in range(head_dim)
    ]
    scales = [16_384 + layer + head + part + row for row in rows]
    return struct.pack(f"<{len(values)}b", *values), struct.pack(f"<{len(scales)}I", *scales)


def request_vectors() -> dict[str, Any]:
    """Inputs, outputs and blobs."""
    greedy = blob_of()
    sampled = blob_of(
        generation_input(
            [5, 4, 3, 2**32 - 1],
            max_tokens=20,
            sampling=seeded(94_548, top_k=40, p16=62_259),
            seed=H(b"seed"),
            stop_ids=[2, 0, 2],
            stop_strings=["\n\n", "Ende.", "é"],
            declared_value=5_000_000,
        ),
        finish=Finish.LENGTH,
    )
    nothing = blob_of(output_count=0, finish=Finish.ABORTED)
    return {
        "about": "spec/statement.md: sub salts, input and output digests, request blobs",
        "salt": SALT.hex(),
        "subs": {name: sub_salt(SALT, name).hex() for name in ("input", "output", "trace")},
        "cases": [_blob_case(blob) for blob in (greedy, sampled, nothing)],
    }


def _blob_case(blob: RequestBlob) -> dict[str, Any]:
    request = blob.request
    return {
        "prompt_ids": list(request.prompt_ids),
        "sampling": list(request.sampling.record()),
        "seed": request.seed.hex(),
        "max_tokens": request.max_tokens,
        "stop_ids": list(request.stop_ids),
        "stop_strings": [each.hex() for each in request.stop_strings],
        "declared_value": request.declared_value,
        "recipients": [each.hex() for each in request.recipients],
        "output_ids": list(blob.output_ids),
        "finish": int(blob.finish),
        "prompt_root": request.prompt_root(blob.salt).hex(),
        "input_digest": blob.input_digest().hex(),
        "out_root": blob.output_opening().out_root.hex(),
        "output_digest": blob.output_opening().digest().hex(),
        "trace_root": blob.trace.trace_root().hex(),
        "blob": blob.encode().hex(),
        "blob_digest": H(blob.encode()).hex(),
    }


def sealed_vectors() -> dict[str, Any]:
    """A sealed blob, with the private keys of its recipients."""
    blob = blob_of(sealed_request())
    sealed = stored_bytes(blob)
    return {
        "about": "spec/log.md: sealed blobs",
        "content_key": CONTENT_KEY.hex(),
        "recipients": sorted(
            (
                {"public": each.public.hex(), "private": each.private.hex()}
                for each in (CLIENT_RECIPIENT, ARBITER_RECIPIENT)
            ),
            key=lambda each: each["public"],
        ),
        "blob": blob.encode().hex(),
        "sealed": sealed.hex(),
        "blob_digest": H(sealed).hex(),
    }


def record_vectors() -> dict[str, Any]:
    """Small signed records, and what evidence commits to."""
    world, blob = World(), blob_of()
    delegation = Delegation(OPERATOR.public, SESSION.public, ORIGIN, END_MS + 86_400_000)
    voucher = Voucher(
        log_origin=ORIGIN,
        payer_id=H(PAYER.public),
        operator_id=H(OPERATOR.public),
        request_id=H(b"test request id")[:16],
        client_nonce=H(b"test nonce")[:16],
        model_id=MODEL_ID,
        profile=Profile.EXACT_INT8,
        input_digest=blob.input_digest(),
        price_in=50_000,
        price_out=200_000,
        max_fee=900,
        not_after=END_MS,
    )
    signed_voucher = sign_voucher(voucher, PAYER.sign, PAYER.public)
    close = Close(SESSION.public, 41, 77_000)
    statement = world.statement(blob, stored_bytes(blob), world.delegation(), b"token")
    bound = {
        "challenge": H(b"test challenge"),
        "operator_id": H(OPERATOR.public),
        "session_key": SESSION.public,
        "tls_spki_sha256": H(b"test spki"),
        "model_id": MODEL_ID,
    }
    anchor = binding.anchor(**bound)
    gpus = [GpuEvidence(b"report b", (b"leaf b", b"root")), GpuEvidence(b"report a", (b"leaf a",))]
    return {
        "about": "spec/statement.md and spec/attestation.md: records, signatures, binding",
        "seeds": {
            key.name: {"seed": key.seed.hex(), "public": key.public.hex()}
            for key in (OPERATOR, SESSION, PAYER, ARBITER)
        },
        "delegation": {
            "payload": delegation.payload().hex(),
            "signed": sign_delegation(delegation, OPERATOR.sign).hex(),
        },
        "voucher": {
            "payload": voucher.payload().hex(),
            "digest": voucher.digest().hex(),
            "signed": signed_voucher.hex(),
            "countersigned": countersign_voucher(
                signed_voucher, ARBITER.sign, ARBITER.public
            ).hex(),
            "fee": {"prompt_count": 12, "output_count": 20, "fee": voucher.fee(12, 20, Finish(2))},
        },
        "allowance": {"signed": world.allowance().hex()},
        "close": {
            "payload": close.payload().hex(),
            "signed": sign_close(close, SESSION.sign).hex(),
        },
        "statement": {
            "payload": statement.payload().hex(),
            "payload_hash": payload_hash(statement).hex(),
        },
        "binding": {
            **{name: value.hex() for name, value in bound.items()},
            "anchor": anchor.hex(),
            "gpu_nonce": binding.gpu_nonce(anchor).hex(),
            "gpus": [
                {"report": gpu.report.hex(), "certificates": [c.hex() for c in gpu.certificates]}
                for gpu in gpus
            ],
            "gpu_digest": binding.gpu_digest(gpus).hex(),
            "gpu_digest_of_none": binding.gpu_digest([]).hex(),
            "report_data": binding.report_data(anchor, binding.gpu_digest(gpus)).hex(),
        },
    }


def manifest_vectors() -> dict[str, Any]:
    """A manifest with the shape of otr-tiny and invented digests."""
    manifest = ModelManifest(
        shape=ModelShape(192, 4, 3, 1, 64, 512, 2048, 512),
        formats=Formats(),
        scalars=tuple(168 if name == "eps_q" else 20 for name in scalar_names(4)),
        tokenizer_digest=H(b"tokenizer.json"),
        token_bytes_digest=H(b"token_bytes.cbor"),
        chat_template_digest=b"",
        bos_ids=(0,),
        eos_ids=(1,),
        special_ids=(0, 1, 2),
        weights_root=H(b"weights"),
        trace_segment_layers=2,
        unit_ms=50,
        licence="Apache-2.0",
    )
    return {
        "about": "spec/model.md: a manifest and its model id",
        "scalar_names": list(scalar_names(4)),
        "manifest": manifest.encode().hex(),
        "model_id": manifest.model_id().hex(),
    }


def answer_vectors() -> dict[str, Any]:
    """Whole answer files with the roots that verify them."""
    cases = []
    for name, blob in (
        ("public", blob_of()),
        ("sealed", blob_of(sealed_request())),
        ("stopped", blob_of(request_of(3), output_count=5, finish=Finish.STOP_ID)),
    ):
        world = World()
        answer = world.answer(blob, witness_time=LOG_TIME_MS // 1000 + 1)
        roots = world.roots(witness_quorum=1)
        verified = verify_answer(answer.encode(), roots, NOW_MS)
        cases.append(
            {
                "name": name,
                "answer": answer.encode().hex(),
                "roots": json.loads(dump_roots(roots)),
                "now_ms": NOW_MS,
                "payload_hash": open_statement(answer.statement).payload_hash.hex(),
                "checks": [check.name for check in verified.checks],
            }
        )
    return {"about": "spec/statement.md: verifying an answer", "cases": cases}


def build() -> dict[str, dict[str, Any]]:
    """Every vector file by name."""
    return {
        "trace": trace_vectors(),
        "requests": request_vectors(),
        "sealed": sealed_vectors(),
        "records": record_vectors(),
        "manifest": manifest_vectors(),
        "answers": answer_vectors(),
        "sampling": sampling_vectors(),
    }


def text_of(document: dict[str, Any]) -> str:
    """The file form."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for file_name, content in build().items():
        (HERE / f"{file_name}.json").write_text(text_of(content), encoding="utf-8")
