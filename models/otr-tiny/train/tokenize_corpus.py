"""Train the byte-level BPE tokenizer and pack the corpus into uint16 arrays.
usage: tokenize_corpus.py corpus.jsonl OUTDIR VOCAB
"""

import sys, json, hashlib, os, numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers, processors

src, out, V = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.makedirs(out, exist_ok=True)
seen, docs, by = set(), [], {}
for line in open(src):
    d = json.loads(line)
    if d["doc"] in ("changelog.html", "news.html") or "release-" in d["doc"]:
        continue  # change logs: not prose
    ps = []
    for p in d["text"].split("\n"):  # global paragraph de-duplication
        h = hashlib.sha1(p.encode()).digest()
        if len(p) > 40 and h in seen:
            continue
        seen.add(h)
        ps.append(p)
    t = "\n".join(ps)
    if len(t) > 200:
        docs.append((d["src"], d["doc"], t))
        by[d["src"]] = by.get(d["src"], 0) + len(t)
print("chars kept", by, sum(by.values()))
# held-out: every document whose sha256(src/doc) starts with a byte < 5 (~2 %)
held = lambda s, d, i: hashlib.sha256(f"{s}/{d}/{i}".encode()).digest()[0] < 5
tr = [x for i, x in enumerate(docs) if not held(x[0], x[1], i)]
va = [x for i, x in enumerate(docs) if held(x[0], x[1], i)]
tok = Tokenizer(models.BPE(unk_token=None))
tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
tok.decoder = decoders.ByteLevel()
tok.train_from_iterator(
    (t for _, _, t in tr),
    trainers.BpeTrainer(
        vocab_size=V,
        special_tokens=["<|bos|>", "<|eos|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    ),
)
tok.save(out + "/tokenizer.json")
rng = np.random.default_rng(0)


def pack(ds):
    o = []
    for _, _, t in ds:
        o += [0] + tok.encode(t).ids + [1]
    return np.array(o, dtype=np.uint16)


tr = [tr[i] for i in rng.permutation(len(tr))]
a, b = pack(tr), pack(va)
a.tofile(out + "/train.bin")
b.tofile(out + "/val.bin")
json.dump([{"src": s, "doc": d, "text": t} for s, d, t in va], open(out + "/val.json", "w"))
print(
    "train tokens",
    len(a),
    "val tokens",
    len(b),
    "val docs",
    len(va),
    "chars/token",
    sum(len(t) for *_, t in va) / len(b),
)
