"""Train the embedded default model: a 2 M parameter Llama, on CPU, bf16 autocast.
usage: train.py TOKDIR OUTDIR MINUTES [--compile]
Time-bounded: learning rate follows elapsed / MINUTES (warm-up 3 %, flat to 45 %, linear to 0).
"""

import sys, time, json, math, os, numpy as np, torch, torch.nn as nn, torch.nn.functional as F

torch.set_num_threads(2)
torch.manual_seed(1234)
tokdir, out, minutes = sys.argv[1], sys.argv[2], float(sys.argv[3])
os.makedirs(out, exist_ok=True)
C = dict(
    vocab_size=2048,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=64,
    max_position_embeddings=512,
    rope_theta=10000.0,
    rms_norm_eps=1e-5,
)
B, T = 24, 256
D, H, KV, HD, L = C["hidden_size"], 3, 1, 64, C["num_hidden_layers"]


class RMS(nn.Module):
    def __init__(s, d):
        super().__init__()
        s.weight = nn.Parameter(torch.ones(d))

    def forward(s, x):
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + C["rms_norm_eps"]) * s.weight).to(
            x.dtype
        )


lin = lambda i, o: nn.Linear(i, o, bias=False)


class Block(nn.Module):
    def __init__(s):
        super().__init__()
        s.input_layernorm, s.post_attention_layernorm = RMS(D), RMS(D)
        s.self_attn, s.mlp = nn.Module(), nn.Module()
        s.self_attn.q_proj, s.self_attn.k_proj = lin(D, H * HD), lin(D, KV * HD)
        s.self_attn.v_proj, s.self_attn.o_proj = lin(D, KV * HD), lin(H * HD, D)
        s.mlp.gate_proj, s.mlp.up_proj, s.mlp.down_proj = (
            lin(D, C["intermediate_size"]),
            lin(D, C["intermediate_size"]),
            lin(C["intermediate_size"], D),
        )

    def forward(s, x, cos, sin):
        b, t, _ = x.shape
        a = s.self_attn
        h = s.input_layernorm(x)
        q = a.q_proj(h).view(b, t, H, HD).transpose(1, 2)
        k = a.k_proj(h).view(b, t, KV, HD).transpose(1, 2)
        v = a.v_proj(h).view(b, t, KV, HD).transpose(1, 2)
        rot = lambda z: torch.cat(
            (z[..., :32] * cos - z[..., 32:] * sin, z[..., 32:] * cos + z[..., :32] * sin), -1
        )
        q, k = rot(q), rot(k)
        k, v = k.repeat_interleave(H // KV, 1), v.repeat_interleave(H // KV, 1)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + a.o_proj(o.transpose(1, 2).reshape(b, t, H * HD))
        h = s.post_attention_layernorm(x)
        return x + s.mlp.down_proj(F.silu(s.mlp.gate_proj(h)) * s.mlp.up_proj(h))


class Model(nn.Module):
    def __init__(s):
        super().__init__()
        s.embed_tokens = nn.Embedding(C["vocab_size"], D)
        s.layers = nn.ModuleList(Block() for _ in range(L))
        s.norm = RMS(D)
        f = 1.0 / C["rope_theta"] ** (torch.arange(0, HD, 2).float() / HD)
        a = torch.outer(torch.arange(T).float(), f)
        s.register_buffer("cos", a.cos(), persistent=False)
        s.register_buffer("sin", a.sin(), persistent=False)

    def forward(s, ids, tgt=None):
        x = s.embed_tokens(ids)
        c, sn = s.cos[: ids.shape[1]].to(torch.bfloat16), s.sin[: ids.shape[1]].to(torch.bfloat16)
        x = x.to(torch.bfloat16) if torch.is_autocast_enabled("cpu") else x
        for l in s.layers:
            x = l(x, c, sn)
        lg = F.linear(s.norm(x), s.embed_tokens.weight)
        return lg if tgt is None else F.cross_entropy(lg.flatten(0, 1).float(), tgt.flatten())


m = Model()
for n, p in m.named_parameters():
    if p.ndim == 2:
        nn.init.normal_(p, std=0.02 if "embed" in n else p.shape[1] ** -0.5)
    if n.endswith(("o_proj.weight", "down_proj.weight")):
        p.data.mul_(1 / math.sqrt(2 * L))
print("params", sum(p.numel() for p in m.parameters()), flush=True)
mat = [p for n, p in m.named_parameters() if p.ndim == 2 and "embed" not in n]
rest = [p for n, p in m.named_parameters() if p.ndim != 2 or "embed" in n]
opts = [
    torch.optim.Muon(mat, lr=0.02, momentum=0.95, weight_decay=0.01, adjust_lr_fn="original"),
    torch.optim.AdamW(rest, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
]
base = [[g["lr"] for g in o.param_groups] for o in opts]
f = torch.compile(m) if "--compile" in sys.argv else m
tr, va = [
    torch.from_numpy(np.fromfile(f"{tokdir}/{n}.bin", dtype=np.uint16).astype(np.int64))
    for n in ("train", "val")
]
nseq = (len(tr) - 1) // T
g = torch.Generator().manual_seed(1)
order, pos = torch.randperm(nseq, generator=g), 0


def evaluate():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        ls = [
            m(va[i : i + T][None], va[i + 1 : i + T + 1][None]).item()
            for i in range(0, len(va) - T - 1, T * 4)
        ]
    return sum(ls) / len(ls)


t0 = time.time()
c0 = time.process_time()
step = 0
log = []
while True:
    try:
        minutes = float(open(out + "/minutes").read())
    except Exception:
        pass
    pr = (time.time() - t0) / (60 * minutes)
    if pr >= 1:
        break
    sc = min(1, pr / 0.03 + 0.02) * min(1, (1 - pr) / 0.55)
    for o, bl in zip(opts, base):
        for gr, l in zip(o.param_groups, bl):
            gr["lr"] = l * sc
    if pos + B > nseq:
        order, pos = torch.randperm(nseq, generator=g), 0
    off = int(torch.randint(0, T, (1,), generator=g))
    idx = order[pos : pos + B] * T + off
    pos += B
    idx = torch.clamp(idx, max=len(tr) - T - 1)
    bt = torch.stack([tr[i : i + T + 1] for i in idx])
    with torch.autocast("cpu", torch.bfloat16):
        loss = f(bt[:, :-1], bt[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    for o in opts:
        o.step()
        o.zero_grad(set_to_none=True)
    step += 1
    if step % 20 == 0 or step <= 5:
        e = time.time() - t0
        r = dict(
            step=step,
            s=round(e, 1),
            loss=round(loss.item(), 4),
            tok_s=round(step * B * T / e),
            cpu=round(time.process_time() - c0, 1),
        )
        if step % 100 == 0:
            r["val"] = round(evaluate(), 4)
        log.append(r)
        print(r, flush=True)
v = evaluate()
print("final val", v, "ppl", math.exp(v), "steps", step, "tokens", step * B * T, flush=True)
from safetensors.torch import save_file

sd = {"model." + k: p.detach().to(torch.float16).contiguous() for k, p in m.state_dict().items()}
save_file(sd, out + "/model.safetensors", metadata={"format": "pt"})
json.dump(
    dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        hidden_act="silu",
        attention_bias=False,
        mlp_bias=False,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        rope_scaling=None,
        torch_dtype="float16",
        initializer_range=0.02,
        attention_dropout=0.0,
        use_cache=True,
        **C,
    ),
    open(out + "/config.json", "w"),
    indent=1,
)
json.dump(log, open(out + "/train_log.json", "w"))
