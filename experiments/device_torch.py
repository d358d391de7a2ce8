# ruff: noqa: D102
"""PyTorch's side of experiments/device.py, where benchmark_torch.py has no twin of it.

Each is built from the zoo's own state, on the device that is PyTorch's default then; `check` shows
both sides the same and returns the largest relative difference.
"""

from __future__ import annotations

import itertools
import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from benchmark_torch import Gpt, Unet, adam, descended, differ, leaf, tensor

from genjax_zoo.contract import ZooError
from genjax_zoo.maths.inference import kalman
from genjax_zoo.maths.mcmc import ais
from genjax_zoo.maths.mcmc.boltzmann import Machine


class Learner:
    """What descends a `loss(x)` without noise of its own, by `optimizer`."""

    optimizer: torch.optim.Optimizer
    loss: Callable[[torch.Tensor], torch.Tensor]

    def prepare(self, x: torch.Tensor) -> Any:
        return x

    def step(self, x: torch.Tensor) -> torch.Tensor:
        return descended(self.loss(x), self.optimizer)

    def check(self, model: Any, state: Any, table: jax.Array, steps: int = 3) -> float:
        """The losses over `steps` steps, so that a wrong gradient shows."""
        ours, theirs, step = [], [], jax.jit(model.step)
        for i in range(steps):
            state, info = step(jax.random.key(i), state, {"x": table[i]})
            ours.append(float(info["loss"]))
            theirs.append(self.step(self.prepare(tensor(table[i : i + 1]))[0]).item())
        return differ(ours, theirs, type(self).__name__)


class Dit(Unet):
    """models/diffusion.py with the transformer without a condition: DiT with adaLN-Zero."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        self.fields, self.rule = fields, optimizer
        network = fields["network"]
        self.heads, self.patch = network["heads"], network["patch"]

        def convert(tree: Any) -> Any:
            if isinstance(tree, dict):
                return {name: convert(part) for name, part in tree.items()}
            return leaf(tree, *((1, 0) if np.ndim(tree) == 2 else ()))

        self.w = convert(jax.tree.map(np.asarray, state.params.network))
        self.parameters = jax.tree.leaves(self.w, is_leaf=torch.is_tensor)
        self.optimizer = adam(self.parameters, optimizer)
        half = network["width"] // 2
        self.rates = torch.exp(-math.log(1e4) * torch.arange(half) / half)

    def elsewhere(self, state: Any) -> tuple[Any, Dit]:
        state = _moved(state)
        return state, Dit(state, self.fields, self.rule)

    def network(self, x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        w, p, angles = self.w, self.patch, clock[:, None] * self.rates
        linear = lambda at, a: F.linear(a, at["kernel"], at["bias"])
        told = linear(w["Told_0"]["Dense_0"], torch.cat([angles.cos(), angles.sin()], 1))
        told = F.silu(linear(w["Told_0"]["Dense_1"], F.silu(told)))
        B, C, H, W = x.shape
        parts = x.permute(0, 2, 3, 1).reshape(B, H // p, p, W // p, p, C).transpose(2, 3)
        h = linear(w["Dense_0"], parts.reshape(B, H * W // p**2, p * p * C)) + w["place"]
        norm = lambda a: F.layer_norm(a, a.shape[-1:], eps=1e-6)
        for i in range(self.fields["network"]["blocks"]):
            at = w[f"Block_{i}"]
            six = linear(at["Dense_0"], told)[:, None].chunk(6, -1)
            a = norm(h) * (1 + six[0]) + six[1]
            qkv = linear(at["Attention_0"]["Dense_0"], a)
            q, k, v = qkv.reshape(B, -1, 3, self.heads, a.shape[-1] // self.heads).permute(
                2, 0, 3, 1, 4
            )
            seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(a.shape)
            h = h + six[2] * linear(at["Attention_0"]["Dense_1"], seen)
            b = norm(h) * (1 + six[3]) + six[4]
            inner = F.gelu(linear(at["Dense_1"], b), approximate="tanh")
            h = h + six[5] * linear(at["Dense_2"], inner)
        scale, shift = linear(w["Dense_1"], told)[:, None].chunk(2, -1)
        h = linear(w["Dense_2"], norm(h) * (1 + scale) + shift)
        image = h.reshape(B, H // p, W // p, p, p, C).transpose(2, 3).reshape(B, H, W, C)
        return image.permute(0, 3, 1, 2)


def _moved(state: Any) -> Any:
    """Weights that are not zero, where a network begins."""
    leaves, tree = jax.tree.flatten(state.params)
    rng = np.random.default_rng(0)
    moved = [p + 0.03 * rng.normal(size=p.shape).astype(np.float32) for p in leaves]
    return state.replace(params=jax.tree.unflatten(tree, moved))


class PixelCnn(Learner):
    """nets.pixelcnn on binary images: a masked 7x7 convolution, then residual ones of 3x3."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        p = state.params
        self.layers = fields["layers"]
        convolution = lambda name: leaf(p[name], 3, 2, 0, 1)
        linear = lambda name: [leaf(p[name]["kernel"], 1, 0), leaf(p[name]["bias"])]
        self.place = leaf(np.asarray(p["place"])[None], 0, 3, 1, 2)
        self.first = convolution("first")
        self.next = [convolution(f"next_{k}") for k in range(self.layers)]
        self.dense = [linear(f"Dense_{k}") for k in range(self.layers + 1)]
        size = lambda w: w.shape[-1]
        mask = lambda w, itself: tensor(
            (np.arange(size(w) ** 2) < size(w) ** 2 // 2 + itself)
            .reshape(size(w), size(w))
            .astype(np.float32)
        )
        self.masks = [mask(self.first, False), *(mask(w, True) for w in self.next)]
        flat = [self.place, self.first, *self.next, *(w for pair in self.dense for w in pair)]
        self.optimizer = adam(flat, optimizer)

    def prepare(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [b.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for b in x]

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        one = lambda h, pair: F.conv2d(h, pair[0][:, :, None, None], pair[1])
        h = F.relu(F.conv2d(x, self.first * self.masks[0], padding=3) + self.place)
        for k, w in enumerate(self.next):
            h = h + one(F.relu(F.conv2d(h, w * self.masks[k + 1], padding=1)), self.dense[k])
        logits = one(h, self.dense[-1])
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)


class Writer(Gpt):
    """The benchmark's GPT, which writes many strings at once, the likeliest symbol each time."""

    @torch.no_grad()
    def write_all(self, prompt: torch.Tensor, length: int) -> torch.Tensor:
        """`length` symbols after prompts [n, P], with a cache of fixed size: [n, length]."""
        n, P = prompt.shape
        width = self.embedding.shape[1] // self.heads
        dtype = torch.bfloat16 if self.half else torch.float32
        shape = (len(self.layers), n, self.heads, P + length, width)
        keys, values = torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)
        found, x, at = [], prompt, 0
        with torch.autocast(prompt.device.type, torch.bfloat16, enabled=self.half):
            for _ in range(length):
                end = at + x.shape[1]
                h = F.embedding(x, self.embedding) + self.positions[at:end]
                for i, layer in enumerate(self.layers):

                    def attend(q: Any, k: Any, v: Any, i: int = i, at: int = at) -> torch.Tensor:
                        here = at + k.shape[2]
                        keys[i, :, :, at:here], values[i, :, :, at:here] = k, v
                        seen = keys[i, :, :, :here], values[i, :, :, :here]
                        return F.scaled_dot_product_attention(q, *seen, is_causal=not at)

                    h = self.block(layer, h, attend)
                last = F.layer_norm(h[:, -1], h.shape[-1:], self.norm)
                x, at = F.linear(last, self.embedding).argmax(-1, keepdim=True), end
                found.append(x)
        return torch.cat(found, 1)


class Ais:
    """maths/mcmc/ais.py of an RBM of binary units whose offsets are 0, from its base rate."""

    def __init__(self, machine: Machine, config: ais.Config):
        self.W, self.b, self.c = map(tensor, (machine.W, machine.b, machine.c))
        rate = tensor(machine.rate)
        self.base, self.config = torch.log(rate) - torch.log1p(-rate), config

    @torch.no_grad()
    def log_z(self) -> torch.Tensor:
        base, chains = self.base, self.config.chains
        betas = torch.linspace(0, 1, self.config.temperatures + 1)
        v = torch.bernoulli(torch.sigmoid(base).expand(chains, -1))
        of = lambda beta, v, a: v @ (base + beta * (self.b - base)) + F.softplus(beta * a).sum(1)
        log_w = torch.zeros(chains)
        for low, high in itertools.pairwise(betas):
            a = torch.addmm(self.c, v, self.W)
            log_w += of(high, v, a) - of(low, v, a)
            h = torch.bernoulli(torch.sigmoid(high * a))
            o = base + high * (self.b - base)
            v = torch.bernoulli(torch.sigmoid(torch.addmm(o, h, self.W.T, alpha=high)))
        log_z0 = F.softplus(base).sum() + len(self.c) * math.log(2)
        return torch.logsumexp(log_w, 0) - math.log(chains) + log_z0

    def check(self, found: ais.Estimate) -> float:
        """Both draw their own chains: how many standard errors lie between the two."""
        apart = abs(float(found.log_z) - float(self.log_z()))
        errors = apart / max(float(found.standard_error) * 2**0.5, 1e-3)
        if not errors < 5:
            raise ZooError(f"ais: log Z of the two sides is {errors:.1f} standard errors apart.")
        return errors


class Kalman:
    """maths/inference/kalman.py's filter of B series, time after time, by the covariance of y."""

    def __init__(self, system: kalman.System):
        names = ("A", "Q", "C", "d", "R", "m1", "P1")
        self.A, self.Q, self.C, self.d, self.R, self.m1, self.P1 = (
            tensor(getattr(system, name)) for name in names
        )

    @torch.no_grad()
    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        """Of y [B, T, p]: [B] nats. Each series has covariances of its own, as if it had gaps."""
        B, q = len(y), len(self.m1)
        m, P = self.m1.expand(B, q)[..., None], self.P1.expand(B, q, q)
        R = self.R if self.R.ndim == 2 else torch.diag(self.R)
        eye, total = torch.eye(q), torch.zeros(B)
        for t in range(y.shape[1]):
            e = (y[:, t] - self.d)[..., None] - self.C @ m
            root = torch.linalg.cholesky(self.C @ P @ self.C.T + R)
            scaled = torch.linalg.solve_triangular(root, e, upper=False)
            total -= 0.5 * (scaled.square().sum((1, 2)) + e.shape[1] * math.log(2 * math.pi))
            total -= root.diagonal(dim1=1, dim2=2).log().sum(1)
            K = torch.cholesky_solve(self.C @ P, root).mT
            m, gain = m + K @ e, eye - K @ self.C
            P = gain @ P @ gain.mT + K @ R @ K.mT
            m, P = self.A @ m, self.A @ P @ self.A.T + self.Q
        return total

    def check(self, ours: jax.Array, y: jax.Array) -> float:
        mine, theirs = np.asarray(ours), self.log_prob(tensor(y)).cpu().numpy()
        return differ([*map(float, mine[:8])], [*map(float, theirs[:8])], "kalman")
