"""PyTorch's side of bits_per_byte.rs: a model of InternLM2's shape learns from the weights, batches and
learning rates that it wrote, and this prints the mean nats a byte of each held-out text as JSON.
usage: bits_per_byte.py FOLDER   (needs: pip install torch)"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

folder = Path(sys.argv[1])
told = json.loads((folder / "run.json").read_text())
torch.set_num_threads(told["threads"])
rows, length = told["rows"], told["length"]


def read(name, dtype):
    return torch.frombuffer(bytearray((folder / name).read_bytes()), dtype=dtype)


flat, weights = read("first.bin", torch.float32), {}
for name, shape in told["parameters"]:
    size = math.prod(shape)
    weights[name] = flat[:size].clone().view(shape).requires_grad_()
    flat = flat[size:]

heads, groups = told["heads"], told["groups"]
width = weights["model.norm.weight"].numel() // heads
frequency = told["theta"] ** -(torch.arange(0, width, 2) / width)
angle = torch.outer(torch.arange(length), frequency).repeat(1, 2)
cosine, sine = angle.cos(), angle.sin()


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + told["eps"]) * weight


def rotate(x):
    low, high = x.chunk(2, -1)
    return x * cosine + torch.cat((-high, low), -1) * sine


def loss(ids, targets):
    """The mean cross-entropy of ids [B, T] against targets [B, T]."""
    batch = ids.shape[0]
    x = F.embedding(ids, weights["model.tok_embeddings.weight"])
    for i in range(told["layers"]):
        layer = {
            name.removeprefix(f"model.layers.{i}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"model.layers.{i}.")
        }
        # Each group of queries lies beside its key and value.
        qkv = F.linear(norm(x, layer["attention_norm"]), layer["attention.wqkv"])
        qkv = qkv.view(batch, length, groups, heads // groups + 2, width)
        q = qkv[:, :, :, :-2].reshape(batch, length, heads, width).transpose(1, 2)
        k, v = (qkv[:, :, :, at].transpose(1, 2) for at in (-2, -1))
        y = F.scaled_dot_product_attention(
            rotate(q), rotate(k), v, is_causal=True, enable_gqa=True
        )
        y = y.transpose(1, 2).reshape(batch, length, heads * width)
        x = x + F.linear(y, layer["attention.wo"])
        h = norm(x, layer["ffn_norm"])
        gate, up = (F.linear(h, layer[f"feed_forward.{w}"]) for w in ("w1", "w3"))
        x = x + F.linear(F.silu(gate) * up, layer["feed_forward.w2"])
    logits = F.linear(norm(x, weights["model.norm.weight"]), weights["output.weight"])
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


kinds = [
    {"params": [w for w in weights.values() if w.dim() == 2], "weight_decay": told["decay"]},
    {"params": [w for w in weights.values() if w.dim() == 1], "weight_decay": 0.0},
]
optimizer = torch.optim.AdamW(kinds, betas=told["betas"], eps=1e-8, fused=True)
batches = read("batches.bin", torch.uint8).view(-1, rows, length + 1)
for step, (batch, rate) in enumerate(zip(batches, told["rates"])):
    for kind in optimizer.param_groups:
        kind["lr"] = rate
    batch = batch.long()
    value = loss(batch[:, :-1], batch[:, 1:])
    value.backward()
    torch.nn.utils.clip_grad_norm_(weights.values(), told["clip"])
    optimizer.step()
    optimizer.zero_grad()
    if step % 100 == 0 or step + 1 == len(told["rates"]):
        print(f"step {step + 1}: loss {value.item():.4f}", file=sys.stderr)

found = {}
with torch.no_grad():
    for name in told["texts"]:
        text = read(f"{name}.bin", torch.uint8).long()
        x, y = text[:-1].view(-1, length), text[1:].view(-1, length)
        pieces = zip(x.split(rows), y.split(rows))
        found[name] = sum(loss(a, b).item() * len(a) for a, b in pieces) / len(x)
print(json.dumps(found))
