"""Makes extractors (genjax_zoo/measure/extractors): classifiers through which samples are seen.

    python experiments/extractors.py --data_dir=FOLDER_OF_TFDS

learns the two that come with the zoo, on the training splits alone: `digits` (scikit-learn's 8x8
digits, under a minute) and `mnist` (a few minutes on two cores). One of your own labelled images,
for `genjax-zoo evaluate --extractor=mine.safetensors`:

    python experiments/extractors.py --source=folder:PATH --out=mine.safetensors [--side=32]

Every second image of a batch is binarised, by threshold or by a draw: grey and binarised samples
are both to be looked at with the same eyes. The file's header says command, seed and accuracy.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax_zoo.data.config import Data
from genjax_zoo.data.sources import open_source
from genjax_zoo.learn import optimizers
from genjax_zoo.learn.verbs import descend
from genjax_zoo.measure import extractors
from genjax_zoo.run.devices import startup

OWN = {
    # source -> (widths, features, steps): each file stays below 500 kB.
    "digits": ((32, 64), 64, 3000),
    "tfds:mnist": ((16, 32, 64), 64, 5000),
}
OTHER = ((16, 32, 64), 64, 5000)
SHIFT = {8: 0, 28: 2}
"""Images are moved by up to so many pixels: not at all where the object fills the frame."""


def learn(source_name: str, side: int, data_dir: str | None, seed: int, steps: int | None):
    """Learns a classifier; returns (architecture, params, accuracy on held-out data, split)."""
    widths, features, planned = OWN.get(source_name, OTHER)
    steps = steps or planned
    source = open_source(Data(source_name, batch_size=128, resize=side), seed, data_dir)
    example = source.held_out(jax.random.key(0), 0, source.held_out_size)
    if "label" not in example:
        sys.exit(f"{source_name} has no labels; an extractor learns to tell classes apart.")
    x, label = np.asarray(example["x"]), np.asarray(example["label"])
    shape, classes = x.shape[1:], int(max(label.max(), _highest(source))) + 1
    architecture = extractors.Architecture(shape, classes, widths, features)
    net = extractors.classifier(architecture)

    def loss(key, params, memory, batch):
        logits = net.logits(params, net.features(params, disturbed(key, batch["x"])))
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
        return jnp.mean(nats), (memory, {})

    tx = optimizers.make(
        optimizers.Config(
            "adamw", 2e-3, schedule="cosine", warmup_steps=100, weight_decay=0.05, clip_norm=1.0
        ),
        steps,
    )
    init, step = descend(lambda key, batch: (net.init(key, batch["x"]), ()), loss, tx)
    root = jax.random.key(seed)

    @jax.jit
    def one(state, resident, fed, i):
        key_data, key_step = jax.random.split(jax.random.fold_in(root, i))
        return step(key_step, state, source.batch(key_data, resident, fed))

    state, resident = init(root, {"x": jnp.asarray(x[:1])}), jax.device_put(source.resident)
    for i in range(steps):
        state, info = one(state, resident, source.feed(i, slice(None)), np.uint32(i))
        if i % 500 == 0 or i == steps - 1:
            print(f"{source_name}: step {i}, {float(info['loss']):.4f} nats", flush=True)
    judge = extractors.make("", architecture, state.params).probabilities
    accuracy = np.mean(judge(x).argmax(1) == label)
    dark = np.mean(judge((x > 0.5).astype(np.float32)).argmax(1) == label)
    return architecture, state.params, (accuracy, dark), source.held_out_split


def _highest(source) -> int:
    labels = getattr(source.resident, "label", None)
    return 0 if labels is None else int(np.max(labels))


def disturbed(key, x):
    """Images moved a little, every second one binarised."""
    key_move, key_which, key_draw, key_kind = jax.random.split(key, 4)
    by = SHIFT.get(x.shape[1], x.shape[1] // 14)
    if by:
        around = jnp.pad(x, ((0, 0), (by, by), (by, by), (0, 0)))
        corner = jax.random.randint(key_move, (len(x), 2), 0, 2 * by + 1)
        cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:])
        x = jax.vmap(cut)(around, corner)
    each = (len(x), 1, 1, 1)
    drawn = jax.random.uniform(key_draw, x.shape) < x
    bits = jnp.where(jax.random.bernoulli(key_kind, 0.5, each), drawn, x > 0.5)
    return jnp.where(jax.random.bernoulli(key_which, 0.5, each), bits.astype(x.dtype), x)


def main() -> None:
    """Learns and writes one extractor for each source."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", nargs="*", default=list(OWN), help="data sets with labels")
    parser.add_argument("--data_dir", help="folder of prepared TFDS data sets")
    parser.add_argument("--side", type=int, default=0, help="resize images to this side")
    parser.add_argument("--out", type=pathlib.Path, help="file; by default into the package")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of learning; by default as planned")
    args = parser.parse_args()
    for name in args.source:
        began = time.time()
        architecture, params, accuracies, split = learn(
            name, args.side, args.data_dir, args.seed, args.steps
        )
        # A path of this machine is nobody else's business.
        shown = "folder:PATH" if name.startswith("folder:") else name
        about = {
            "data": shown,
            "command": f"python experiments/extractors.py --source={shown} --side={args.side} "
            f"--seed={args.seed}",
            "seed": str(args.seed),
            "accuracy": f"{accuracies[0]:.4f} ({split} split), {accuracies[1]:.4f} of the same "
            "images binarised by threshold",
            "made": datetime.date.today().isoformat(),
        }
        stem = name.rpartition(":")[2] if name in OWN else (args.out or pathlib.Path(name)).stem
        path = args.out or extractors.FOLDER / f"{stem}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        sha256 = extractors.save(path, stem, architecture, params, about)
        size = path.stat().st_size / 1000
        print(f"{path}: {size:.0f} kB, sha256 {sha256[:12]}, accuracy {about['accuracy']}, "
              f"{time.time() - began:.0f} s")  # fmt: skip


if __name__ == "__main__":
    startup.prepare()
    main()
