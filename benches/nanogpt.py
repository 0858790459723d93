"""PyTorch's side of nanogpt.rs: nanoGPT's run for a CPU (its config train_shakespeare_char with the README's flags:
4 layers, 4 heads, 128 wide, 64 characters, batches of 12, 2,000 steps; GPT-2's blocks without biases and dropout).
Prints the mean loss of the held-out tenth and the seconds of the loop, with an evaluation of 20 batches of both parts
every 250 steps as there, as JSON.
usage: nanogpt.py TRAIN VALID THREADS   (needs: pip install torch)"""

import json
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

LAYERS, HEADS, WIDTH, LENGTH, BATCH, STEPS = 4, 4, 128, 64, 12, 2000
WARMUP, RATE, LEAST, DECAY = 100, 1e-3, 1e-4, 0.1

texts = [Path(name).read_text() for name in sys.argv[1:3]]
torch.set_num_threads(int(sys.argv[3]))
torch.manual_seed(1337)
characters = {c: i for i, c in enumerate(sorted(set("".join(texts))))}
train, valid = (torch.tensor([characters[c] for c in text]) for text in texts)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        sizes = [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)]
        self.qkv, self.out, self.up, self.down = (nn.Linear(i, o, bias=False) for i, o in sizes)

    def forward(self, x):
        heads = self.qkv(self.norms[0](x)).view(*x.shape[:2], 3, HEADS, -1)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(len(characters), WIDTH)
        self.places = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                last = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * LAYERS) if last else 1))

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.places.weight[: ids.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def batch(text):
    starts = torch.randint(len(text) - LENGTH, (BATCH, 1))
    ids = text[starts + torch.arange(LENGTH + 1)]
    return ids[:, :-1], ids[:, 1:]


def rate(step):
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / (STEPS - WARMUP)
    return LEAST + 0.5 * (1 + math.cos(math.pi * share)) * (RATE - LEAST)


model = Model()
matrices = [p for p in model.parameters() if p.dim() == 2]
vectors = [p for p in model.parameters() if p.dim() < 2]
kinds = [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]
optimizer = torch.optim.AdamW(kinds, lr=RATE, betas=(0.9, 0.99))
began = time.perf_counter()
for step in range(STEPS):
    if step % 250 == 0:
        with torch.no_grad():
            for text in (train, valid):
                seen = sum(model(*batch(text)).item() for _ in range(20)) / 20
        print(f"step {step}: loss {seen:.4f}", file=sys.stderr)
    for kind in optimizer.param_groups:
        kind["lr"] = rate(step)
    loss = model(*batch(train))
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
seconds = time.perf_counter() - began
count = (len(valid) - 1) // LENGTH
with torch.no_grad():
    ids, targets = (x[: count * LENGTH].view(-1, LENGTH) for x in (valid, valid[1:]))
    print(json.dumps({"loss": model(ids, targets).item(), "seconds": seconds}))
