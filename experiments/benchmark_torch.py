# ruff: noqa: D102
"""The benchmark's other side: the zoo's workloads written in PyTorch, each as fast as it goes.

Every twin is built from the zoo's own initial state, so that both start from the same weights;
`check` then shows it the noise that the zoo drew and returns the largest relative difference of
the losses, over steps of learning.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import torch
import torch.nn.functional as F

from genjax_zoo.contract import Model, ZooError
from genjax_zoo.maths.diffusion import denoising, sde

TOLERANCE = 2e-3
"""Of the losses after steps of Adam, whose first moves are signs: rounding shows early."""


def tensor(array: Any) -> torch.Tensor:
    """A copy of the array on the device that is PyTorch's default (`with torch.device("cuda")`)."""
    return torch.from_numpy(np.array(array)).to(torch.get_default_device())


def leaf(array: Any, *axes: int) -> torch.Tensor:
    """A parameter: the zoo's array, its axes in PyTorch's order."""
    a = np.array(array, np.float32)
    t = tensor(np.ascontiguousarray(a.transpose(axes) if axes else a))
    if t.ndim == 4:
        t = t.to(memory_format=torch.channels_last)
    return t.requires_grad_()


def adam(parameters: list[torch.Tensor], optimizer: Any) -> torch.optim.Optimizer:
    """PyTorch's fastest Adam with the zoo's numbers."""
    betas = (optimizer.b1, optimizer.b2)
    return torch.optim.Adam(parameters, optimizer.learning_rate, betas, optimizer.eps, fused=True)


def descended(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """The loss, after a step down its gradient."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss


def differ(ours: list[float], theirs: list[float], what: str) -> float:
    """The largest relative difference; raises where the two do not compute the same."""
    difference = max(abs(a - b) / max(abs(a), 1e-6) for a, b in zip(ours, theirs, strict=True))
    if not difference < TOLERANCE:
        raise ZooError(f"{what}: the two sides disagree: ours {ours}, PyTorch's {theirs}.")
    return difference


class Vae:
    """models/vae.py with one hidden layer each way and a Bernoulli decoder."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        encoder, decoder = state.params.encoder, state.params.decoder
        self.w = [
            leaf(net[name][of])
            for net in (encoder, decoder)
            for name in ("Dense_0", "Dense_1")
            for of in ("kernel", "bias")
        ]
        # F.linear wants [out, in].
        self.w = [w if w.ndim == 1 else leaf(w.detach().cpu().numpy(), 1, 0) for w in self.w]
        self.latents = fields["latents"]
        self.optimizer = adam(self.w, optimizer)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.relu(F.linear(x, self.w[0], self.w[1])), self.w[2], self.w[3])

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return F.linear(F.relu(F.linear(z, self.w[4], self.w[5])), self.w[6], self.w[7])

    def loss(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        mean, log_std = self.encode(x).chunk(2, 1)
        logits = self.decode(mean + log_std.exp() * noise)
        kl = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum()
        # No softplus of both signs: the fused form is PyTorch's fastest.
        cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return (kl + cross_entropy) / x.shape[0]

    def step(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        if noise is None:
            noise = torch.randn(x.shape[0], self.latents)
        loss = self.loss(x, noise)
        return descended(loss, self.optimizer)

    def check(self, model: Model, state: Any, table: jax.Array, steps: int = 3) -> float:
        """Over `steps` steps, so that a wrong gradient or a wrong optimizer shows."""
        ours, theirs = [], []
        for i in range(steps):
            key = jax.random.key(100 + i)
            noise = np.array(jax.random.normal(key, (table.shape[1], self.latents)))
            state, info = jax.jit(model.step)(key, state, {"x": table[i]})
            ours.append(float(info["loss"]))
            x = self.prepare(torch.tensor(np.array(table[i : i + 1])))[0]
            theirs.append(self.step(x, torch.from_numpy(noise)).item())
        return differ(ours, theirs, "vae")


class ConvVae(Vae):
    """models/vae.py with two convolutions each way, of images whose sides are multiples of four."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        encoder, decoder = state.params.encoder, state.params.decoder
        convolution = lambda layer: [leaf(layer["kernel"], 3, 2, 0, 1), leaf(layer["bias"])]
        linear = lambda layer: [leaf(layer["kernel"], 1, 0), leaf(layer["bias"])]
        self.w = [
            *convolution(encoder["Conv_0"]),
            *convolution(encoder["Conv_1"]),
            *linear(encoder["Dense_0"]),
            *linear(decoder["Dense_0"]),
            *convolution(decoder["ConvTranspose_0"]),
            *convolution(decoder["ConvTranspose_1"]),
        ]
        self.latents, self.shape = fields["latents"], state.params.shape
        self.optimizer = adam(self.w, optimizer)

    def prepare(self, x: torch.Tensor) -> Any:
        return [b.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for b in x]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        w = self.w
        h = F.relu(F.conv2d(F.relu(F.conv2d(x, w[0], w[1], 2, 1)), w[2], w[3], 2, 1))
        return F.linear(h.permute(0, 2, 3, 1).flatten(1), w[4], w[5])

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        w, top = self.w, self.shape[0] // 4
        h = F.relu(F.linear(z, w[6], w[7])).view(len(z), top, top, -1).permute(0, 3, 1, 2)
        h = F.relu(F.conv_transpose2d(h, w[8], w[9], 2, 1))
        return F.conv_transpose2d(h, w[10], w[11], 2, 1)


class Flow:
    """models/flow.py as RealNVP of vectors: affine couplings, each after an activation norm."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        self.fields, self.rule = fields, optimizer
        first, *parts = state.params.flow
        layers = [part for part in parts if part]
        depth = len(fields["widths"]) + 1
        self.norms = [
            [leaf(norm["shift"]), leaf(norm["log_scale"])]
            for norm in (first, *(n for n, _ in layers))
        ]
        self.nets = [
            [
                w
                for i in range(depth)
                for w in (
                    leaf(c["net"][f"Dense_{i}"]["kernel"], 1, 0),
                    leaf(c["net"][f"Dense_{i}"]["bias"]),
                )
            ]
            for _, c in layers
        ]
        self.gains = [leaf(c["gain"]) for _, c in layers]
        size = self.norms[0][0].numel()
        self.order = tensor(np.random.default_rng(0).permutation(size))
        flat = [w for group in (*self.norms, *self.nets) for w in group]
        self.optimizer = adam([*flat, *self.gains], optimizer)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        (shift, log_scale), *norms = self.norms
        x = ((x - shift) * torch.exp(-log_scale))[:, self.order]
        log_det = -log_scale.sum()
        for k, (net, gain) in enumerate(zip(self.nets, self.gains, strict=True)):
            shift, log_scale = norms[k]
            x = (x - shift) * torch.exp(-log_scale)
            a, b = x.chunk(2, 1)
            kept, moved = (b, a) if k % 2 else (a, b)
            h = kept
            for i in range(0, len(net), 2):
                h = F.linear(h, net[i], net[i + 1])
                h = F.relu(h) if i < len(net) - 2 else h * gain
            raw, t = h.chunk(2, 1)
            s = 2 * torch.tanh(raw / 2)
            moved = moved * s.exp() + t
            log_det = log_det - log_scale.sum() + s.sum(1)
            x = torch.cat([moved, kept] if k % 2 else [kept, moved], 1)
        normal = -0.5 * (x.square() + np.log(2 * np.pi)).sum(1)
        return -(normal + log_det).mean()

    def step(self, x: torch.Tensor) -> torch.Tensor:
        return descended(self.loss(x), self.optimizer)

    def check(self, model: Model, state: Any, table: jax.Array, steps: int = 3) -> float:
        """The losses over `steps` steps, from elsewhere: nothing of a flow is random.

        At the start the data have mean 0 and variance 1, so that the norms' gradients are rounding
        errors, and Adam's first moves their signs.
        """
        leaves, tree = jax.tree.flatten(state.params)
        rng = np.random.default_rng(0)
        moved = [p + 0.1 * rng.normal(size=p.shape).astype(np.float32) for p in leaves]
        state = state.replace(params=jax.tree.unflatten(tree, moved))
        twin = Flow(jax.tree.map(np.asarray, state), self.fields, self.rule)
        ours, theirs = [], []
        for i in range(steps):
            state, info = jax.jit(model.step)(jax.random.key(0), state, {"x": table[i]})
            ours.append(float(info["loss"]))
            theirs.append(twin.step(torch.tensor(np.array(table[i]))).item())
        return differ(ours, theirs, "flow")


class Unet:
    """models/diffusion.py with a U-Net without attention, noise predicted, variance preserved."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        self.fields, self.rule = fields, optimizer
        network = fields["network"]
        self.width, self.blocks = network["width"], network["blocks"]
        self.levels = len(network["multiples"])

        def convert(tree: Any) -> Any:
            if isinstance(tree, dict):
                return {name: convert(part) for name, part in tree.items()}
            order = {4: (3, 2, 0, 1), 2: (1, 0), 1: ()}[np.ndim(tree)]
            return leaf(tree, *order)

        self.w = convert(jax.tree.map(np.asarray, state.params.network))
        self.parameters = jax.tree.leaves(self.w, is_leaf=torch.is_tensor)
        self.optimizer = adam(self.parameters, optimizer)
        half = 2 * self.width
        self.rates = torch.exp(-np.log(1e4) * torch.arange(half) / half)

    def prepare(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [b.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for b in x]

    def conv(self, at: dict, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        # SAME padding: nothing before and one after where the stride is 2 and the side even.
        if stride == 2 and x.shape[-1] % 2 == 0:
            return F.conv2d(F.pad(x, (0, 1, 0, 1)), at["kernel"], at["bias"], 2)
        return F.conv2d(x, at["kernel"], at["bias"], stride, at["kernel"].shape[-1] // 2)

    def norm(self, at: dict, x: torch.Tensor) -> torch.Tensor:
        channels = x.shape[1]
        groups = np.gcd(channels, 32) if channels >= 32 else np.gcd(channels, 8)
        return F.group_norm(x, int(groups), at["scale"], at["shift"])

    def residual(self, at: dict, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv(at["Conv_0"], F.silu(self.norm(at["GroupNorm_0"], x)))
        both = F.linear(embedding, at["Dense_0"]["kernel"], at["Dense_0"]["bias"])
        scale, shift = both[:, :, None, None].chunk(2, 1)
        h = F.silu(self.norm(at["GroupNorm_1"], h) * (1 + scale) + shift)
        h = self.conv(at["Conv_1"], h)
        return h + (self.conv(at["Conv_2"], x) if "Conv_2" in at else x)

    def network(self, x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        w, angles = self.w, clock[:, None] * self.rates
        linear = lambda at, a: F.linear(a, at["kernel"], at["bias"])
        embedding = linear(w["Told_0"]["Dense_0"], torch.cat([angles.cos(), angles.sin()], 1))
        embedding = F.silu(linear(w["Told_0"]["Dense_1"], F.silu(embedding)))
        residuals = iter(w[f"_Residual_{i}"] for i in range(1000))
        convs = iter(w[f"Conv_{i}"] for i in range(1000))
        ups = iter(w[f"_UpConv_{i}"] for i in range(1000))
        h = self.conv(next(convs), x)
        kept = [h]
        for k in range(self.levels):
            for _ in range(self.blocks):
                h = self.residual(next(residuals), h, embedding)
                kept.append(h)
            if k + 1 < self.levels:
                h = self.conv(next(convs), h, stride=2)
                kept.append(h)
        h = self.residual(next(residuals), self.residual(next(residuals), h, embedding), embedding)
        for k in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                h = self.residual(next(residuals), torch.cat([h, kept.pop()], 1), embedding)
            if k:
                height, width = kept[-1].shape[2:]
                large = F.interpolate(h, scale_factor=2, mode="nearest")
                h = self.conv(next(ups), large)[:, :, :height, :width]
        return self.conv(next(convs), F.silu(self.norm(w["GroupNorm_0"], h)))

    def noised(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """α, σ and the clock at t [B]."""
        log_alpha = -0.25 * t**2 * 19.9 - 0.05 * t
        alpha, sigma = log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
        return alpha, sigma, 1000 / (1 + (alpha / sigma).sqrt())

    def predict_noise(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ε̂ of x_t at t [B]."""
        alpha, sigma, clock = self.noised(t)
        scale = (0.25 * alpha**2 + sigma**2).sqrt()[:, None, None, None]
        return self.network(x_t / scale, clock)

    def step(
        self, x: torch.Tensor, t: torch.Tensor | None = None, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        if t is None or noise is None:
            t = 1e-5 + (torch.rand(1) + torch.arange(len(x)) / len(x)) % 1 * (1 - 1e-5)
            noise = torch.randn_like(x)
        alpha, sigma, _ = self.noised(t)
        column = lambda a: a[:, None, None, None]
        loss = F.mse_loss(self.predict_noise(column(alpha) * x + column(sigma) * noise, t), noise)
        return descended(loss, self.optimizer)

    @torch.no_grad()
    def sample(self, x: torch.Tensor, times: np.ndarray) -> torch.Tensor:
        """DDIM with η = 0 down the grid, and x̂ at its end."""
        times = torch.from_numpy(np.array(times, np.float32))
        for t, s in zip(times, [*times[1:], None], strict=True):
            at = t.expand(len(x))
            noise = self.predict_noise(x, at)
            alpha, sigma = self.noised(t)[:2]
            seen = (x - sigma * noise) / alpha
            if s is None:
                return seen
            alpha, sigma = self.noised(s)[:2]
            x = alpha * seen + sigma * noise
        raise ZooError("a grid of no times.")

    def elsewhere(self, state: Any) -> tuple[Any, Unet]:
        """The two sides at weights that are not zero, where the network begins."""
        leaves, tree = jax.tree.flatten(state.params)
        rng = np.random.default_rng(0)
        moved = [p + 0.03 * rng.normal(size=p.shape).astype(np.float32) for p in leaves]
        state = state.replace(params=jax.tree.unflatten(tree, moved))
        return state, Unet(state, self.fields, self.rule)

    def check(self, model: Model, state: Any, table: jax.Array, steps: int = 3) -> float:
        """The losses over `steps` steps, with the zoo's times and noise."""
        state, twin = self.elsewhere(state)
        process = sde.variance_preserving()
        ours, theirs = [], []
        for i in range(steps):
            key = jax.random.key(100 + i)
            _, key_time, key_noise = jax.random.split(key, 3)
            t = denoising.times(key_time, process, table.shape[1])
            noise = jax.random.normal(key_noise, table[i].shape)
            state, info = jax.jit(model.step)(key, state, {"x": table[i]})
            ours.append(float(info["loss"]))
            x, noise = (self.prepare(torch.tensor(np.array(a))[None])[0] for a in (table[i], noise))
            theirs.append(twin.step(x, torch.tensor(np.array(t)), noise).item())
        return differ(ours, theirs, "diffusion")


class Dcgan:
    """models/gan.py with conv networks, both players moving at once; images are channels_last.

    The discriminator has batch norm or none, as the zoo's parameters say.
    """

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        g, d = state.params["generator"].net, state.params["discriminator"]
        depth = len(fields["generator"]["widths"])
        self.latents, self.shape = fields["latents"], state.params["generator"].shape
        sizes = [self.shape[0]]
        for _ in range(depth):
            sizes.append(-(-sizes[-1] // 2))
        self.sizes = sizes
        norm = lambda net, i: [leaf(net[f"BatchNorm_{i}"][k]) for k in ("scale", "shift")]
        self.G: dict[str, Any] = {
            "dense": leaf(g["Dense_0"]["kernel"], 1, 0),
            "norm": [norm(g, i) for i in range(depth)],
            "conv": [leaf(g[f"ConvTranspose_{i}"]["kernel"], 3, 2, 0, 1) for i in range(depth)],
            "bias": leaf(g[f"ConvTranspose_{depth - 1}"]["bias"]),
        }
        self.D: dict[str, Any] = {
            "conv": [leaf(d[f"Conv_{i}"]["kernel"], 3, 2, 0, 1) for i in range(depth)],
            "bias": [
                leaf(d[f"Conv_{i}"]["bias"]) for i in range(depth) if "bias" in d[f"Conv_{i}"]
            ],
            "norm": [norm(d, i) for i in range(depth - 1) if f"BatchNorm_{i}" in d],
            "dense": leaf(d["Dense_0"]["kernel"], 1, 0),
            "dense_bias": leaf(d["Dense_0"]["bias"]),
        }
        running = lambda ws: [(torch.zeros(w.shape), torch.ones(w.shape)) for w, _ in ws]
        self.running = {"G": running(self.G["norm"]), "D": running(self.D["norm"])}
        flat = lambda tree: [
            w for part in tree.values() for w in (jax.tree.leaves(part, is_leaf=torch.is_tensor))
        ]
        self.of = {"G": flat(self.G), "D": flat(self.D)}
        self.optimizers = {player: adam(ws, optimizer) for player, ws in self.of.items()}

    def prepare(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [b.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last) for b in x]

    def norm(self, h: torch.Tensor, player: str, i: int) -> torch.Tensor:
        scale, shift = {"G": self.G, "D": self.D}[player]["norm"][i]
        mean, variance = self.running[player][i]
        return F.batch_norm(h, mean, variance, scale, shift, True, 0.1, 1e-5)

    def generate(self, z: torch.Tensor) -> torch.Tensor:
        top, sizes = self.sizes[-1], self.sizes
        h = F.linear(z, self.G["dense"]).view(len(z), top, top, -1).permute(0, 3, 1, 2)
        for i, w in enumerate(self.G["conv"]):
            h = F.relu(self.norm(h, "G", i))
            size = sizes[-2 - i]
            bias = self.G["bias"] if i == len(self.G["conv"]) - 1 else None
            # One point too many where the size is odd.
            h = F.conv_transpose2d(h, w, bias, 2, 1)
            h = h[:, :, :size, :size] if h.shape[-1] != size else h
        return torch.tanh(h)

    def noise(self, key: Any, n: int) -> torch.Tensor:
        """z of the zoo's losses under this key."""
        z = jax.random.normal(jax.random.split(key, 4)[0], (n, self.latents))
        return torch.from_numpy(np.array(z))

    def judge(self, x: torch.Tensor) -> torch.Tensor:
        h, biases = x, self.D["bias"]
        for i, w in enumerate(self.D["conv"]):
            # SAME padding for a kernel of 4 and stride 2: (1, 1), or (1, 2) where the size is odd.
            bias = biases[i] if i < len(biases) else None
            odd = h.shape[-1] % 2
            h = F.conv2d(F.pad(h, (1, 2, 1, 2)) if odd else h, w, bias, 2, 0 if odd else 1)
            h = F.leaky_relu(self.norm(h, "D", i - 1) if i and self.D["norm"] else h, 0.2)
        return F.linear(h.permute(0, 2, 3, 1).flatten(1), self.D["dense"], self.D["dense_bias"])

    def step(
        self, x: torch.Tensor, noise: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if noise is None:
            noise = torch.randn(x.shape[0], self.latents)
        fake = self.generate(noise)
        real_logits, fake_logits = self.judge(x), self.judge(fake)
        loss_d = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        loss_g = F.softplus(-fake_logits).mean()
        of_g = torch.autograd.grad(loss_g, self.of["G"], retain_graph=True)
        of_d = torch.autograd.grad(loss_d, self.of["D"])
        for player, gradients in (("G", of_g), ("D", of_d)):
            for w, gradient in zip(self.of[player], gradients, strict=True):
                w.grad = gradient
            self.optimizers[player].step()
        return loss_d, loss_g

    def check(self, model: Model, state: Any, table: jax.Array, steps: int = 2) -> float:
        """Both players' losses over `steps` steps."""
        ours, theirs = [], []
        for i in range(steps):
            key = jax.random.key(100 + i)
            noise = self.noise(key, table.shape[1])
            state, info = jax.jit(model.step)(key, state, {"x": table[i]})
            x = self.prepare(torch.tensor(np.array(table[i : i + 1])))[0]
            ours += [float(info["loss_discriminator"]), float(info["loss_generator"])]
            theirs += [loss.item() for loss in self.step(x, noise)]
        return differ(ours, theirs, "gan")


class WganGp(Dcgan):
    """models/gan.py as WGAN-GP: k moves of the critic on parts of the batch, then the generator."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        super().__init__(state, fields, optimizer)
        self.k, self.weight = fields["dynamics"]["k"], fields["objective"]["gradient"]

    def critic(self, x: torch.Tensor, z: torch.Tensor, epsilon: torch.Tensor) -> torch.Tensor:
        """One move of the critic; its loss."""
        with torch.no_grad():
            fake = self.generate(z)
        between = (epsilon * x + (1 - epsilon) * fake).requires_grad_()
        gap = self.judge(x).mean() - self.judge(fake).mean()
        (slope,) = torch.autograd.grad(self.judge(between).sum(), between, create_graph=True)
        penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
        loss = -gap + self.weight * penalty
        self._move("D", loss)
        return loss

    def _move(self, player: str, loss: torch.Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.of[player])
        for w, gradient in zip(self.of[player], gradients, strict=True):
            # The fused Adam pairs entries by their place in memory, and the gradient of a slope
            # is not laid out as its weight.
            alike = gradient.stride() == w.stride()
            w.grad = gradient if alike else torch.empty_like(w).copy_(gradient)
        self.optimizers[player].step()

    def step(self, x: torch.Tensor, noise: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        parts, losses = [x[j :: self.k] for j in range(self.k)], []
        n = len(parts[0])
        if noise is None:
            z = [torch.randn(n, self.latents) for _ in range(self.k + 1)]
            epsilon = [torch.rand(n, 1, 1, 1) for _ in range(self.k)]
        else:
            z, epsilon = noise
        for j, part in enumerate(parts):
            losses.append(self.critic(part, z[j], epsilon[j]))
        loss = -self.judge(self.generate(z[self.k])).mean()
        self._move("G", loss)
        return losses[0], loss

    def noise(self, key: Any, n: int) -> Any:
        """z of every turn, and the place between data and samples of the critic's."""
        turns = [jax.random.fold_in(key, turn) for turn in range(self.k + 1)]
        z = [super(WganGp, self).noise(turn, n // self.k) for turn in turns]
        epsilon = [
            jax.random.uniform(jax.random.split(turn, 4)[3], (n // self.k, 1, 1, 1))
            for turn in turns[: self.k]
        ]
        return z, [torch.from_numpy(np.array(e)) for e in epsilon]


class Rbm:
    """models/rbm.py without centring: the gradient is written out, which beats autograd here."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        self.W, self.b, self.c = map(tensor, (state.params.W, state.params.b, state.params.c))
        self.persistent = fields["chain"] == "pcd"
        # The persistent chains; CD has none.
        self.h = tensor(state.memory) if self.persistent else torch.zeros(0)
        self.rate = optimizer.learning_rate

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def step(self, v: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits = torch.addmm(self.c, v, self.W)
            p = torch.sigmoid(logits)
            h = self.h if self.persistent else torch.bernoulli(p)
            negative = torch.bernoulli(torch.sigmoid(torch.addmm(self.b, h, self.W.T)))
            negative_logits = torch.addmm(self.c, negative, self.W)
            q = torch.sigmoid(negative_logits)
            if self.persistent:
                self.h = torch.bernoulli(q)
            gap = (
                self.free_energy(v, logits).mean()
                - self.free_energy(negative, negative_logits).mean()
            )
            self.ascend(v, p, negative, q)
        return gap

    def ascend(self, v, p, negative, q) -> None:
        """W += h (<v p(h|v)> of the data - of the model), likewise the biases."""
        a, d = self.rate / len(v), self.rate / len(negative)
        self.W.addmm_(v.T, p, alpha=a).addmm_(negative.T, q, alpha=-d)
        self.b.add_(v.sum(0), alpha=a).sub_(negative.sum(0), alpha=d)
        self.c.add_(p.sum(0), alpha=a).sub_(q.sum(0), alpha=d)

    def free_energy(self, v: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return -v @ self.b - F.softplus(logits).sum(1)

    def check(self, model: Model, state: Any, table: jax.Array) -> float:
        """The free energies, and their gap's gradient: the whole rule but for what is random."""
        log_prob = model.log_prob
        assert log_prob is not None

        # Any second batch will do for the negatives.
        def gap(params: Any) -> tuple[jax.Array, list[jax.Array]]:
            key, moved = jax.random.key(0), state.replace(params=params)
            each = [-log_prob(key, moved, {"x": x}).mean() for x in table[:2]]
            return each[0] - each[1], each

        gradient, each = jax.grad(gap, has_aux=True)(state.params)
        v, negative = (torch.tensor(np.array(x)) for x in table[:2])
        logits, negative_logits = (torch.addmm(self.c, x, self.W) for x in (v, negative))
        theirs = [
            self.free_energy(v, logits).mean().item(),
            self.free_energy(negative, negative_logits).mean().item(),
        ]
        before = [w.clone() for w in (self.W, self.b, self.c)]
        self.ascend(v, torch.sigmoid(logits), negative, torch.sigmoid(negative_logits))
        norms = []
        for w, old in zip((self.W, self.b, self.c), before, strict=True):
            norms.append(((w - old) / -self.rate).norm().item())
            w.copy_(old)
        mine = [float(np.linalg.norm(g)) for g in (gradient.W, gradient.b, gradient.c)]
        return differ([*map(float, each), *mine], [*theirs, *norms], "rbm")


class Gpt:
    """models/language_model.py as nanoGPT has it: GELU, learnt positions, a tied head, no biases.

    Whether its products are bfloat16 follows the zoo's own `dtype`, by autocast; the weights and
    what is added up are float32, as there.
    """

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        params, self.heads = state.params, fields["heads"]
        self.half = fields["dtype"] == "bfloat16"
        self.embedding = leaf(params["embedding"]["kernel"])
        self.positions = leaf(params["positions"]["kernel"])
        self.norm = leaf(params["final_norm"]["scale"])
        blocks = params["blocks"]
        width = self.embedding.shape[1]

        def linear(kernel: np.ndarray, inputs: int) -> torch.Tensor:
            return leaf(kernel.reshape(inputs, -1), 1, 0)

        def layer(i: int) -> list[torch.Tensor]:
            own = lambda *path: np.asarray(functools.reduce(lambda t, k: t[k], path, blocks)[i])
            of = own("attention", "out", "kernel")
            each = [own("attention", n, "kernel") for n in ("query", "key", "value")]
            return [
                leaf(own("attention_norm", "scale")),
                linear(np.concatenate([a.reshape(width, -1) for a in each], 1), width),
                linear(of.reshape(-1, width), of.size // width),
                leaf(own("mlp_norm", "scale")),
                linear(own("mlp", "up", "kernel"), width),
                linear(own("mlp", "down", "kernel"), own("mlp", "down", "kernel").shape[0]),
            ]

        self.layers = [layer(i) for i in range(fields["layers"])]
        own = [self.embedding, self.positions, self.norm]
        self.optimizer = adam([*own, *(w for each in self.layers for w in each)], optimizer)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x.long()

    def block(self, layer: list[torch.Tensor], h: torch.Tensor, attend: Any) -> torch.Tensor:
        B, T, D = h.shape
        n1, qkv, out, n2, up, down = layer
        parts = F.linear(F.layer_norm(h, (D,), n1), qkv).split(D, 2)
        q, k, v = (a.view(B, T, self.heads, -1).transpose(1, 2) for a in parts)
        h = h + F.linear(attend(q, k, v).transpose(1, 2).reshape(B, T, D), out)
        return h + F.linear(F.gelu(F.linear(F.layer_norm(h, (D,), n2), up)), down)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        attend = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = F.embedding(x, self.embedding) + self.positions[: x.shape[1]]
        for layer in self.layers:
            h = self.block(layer, h, attend)
        return F.linear(F.layer_norm(h, h.shape[-1:], self.norm), self.embedding)

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            logits = self.logits(x[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten())

    def step(self, x: torch.Tensor) -> torch.Tensor:
        return descended(self.loss(x), self.optimizer)

    def check(self, model: Model, state: Any, table: jax.Array, steps: int = 3) -> float:
        """The losses over `steps` steps: nothing of it is random."""
        ours, theirs, step = [], [], jax.jit(model.step)
        for i in range(steps):
            state, info = step(jax.random.key(0), state, {"x": table[i]})
            ours.append(float(info["loss"]))
            theirs.append(self.step(self.prepare(tensor(table[i]))).item())
        return differ(ours, theirs, "gpt")

    @torch.inference_mode()
    def write(self, length: int, told: torch.Tensor | None = None) -> torch.Tensor:
        """One string, with a cache of fixed size: symbols [length], or the logits after each told.

        Written symbol after symbol by ancestral sampling, from a first one that is 0.
        """
        width = self.embedding.shape[1]
        shape = (len(self.layers), 1, self.heads, length, width // self.heads)
        keys, values = torch.empty(shape), torch.empty(shape)
        x, found = torch.zeros(1, 1, dtype=torch.long), []
        for t in range(length):
            x = x if told is None else told[t].view(1, 1)
            h = F.embedding(x, self.embedding) + self.positions[t]
            for i, layer in enumerate(self.layers):

                def attend(q: Any, k: Any, v: Any, i: int = i, t: int = t) -> torch.Tensor:
                    keys[i, :, :, t : t + 1], values[i, :, :, t : t + 1] = k, v
                    seen = keys[i, :, :, : t + 1], values[i, :, :, : t + 1]
                    return F.scaled_dot_product_attention(q, *seen)

                h = self.block(layer, h, attend)
            logits = F.linear(F.layer_norm(h, (width,), self.norm), self.embedding)[0, 0]
            x = torch.multinomial(logits.softmax(-1), 1).view(1, 1)
            found.append(x[0, 0] if told is None else logits)
        return torch.stack(found)


class GptFloat32(Gpt):
    """The same in float32, whatever the zoo's products are."""

    def __init__(self, state: Any, fields: dict[str, Any], optimizer: Any):
        super().__init__(state, {**fields, "dtype": "float32"}, optimizer)
