"""Extractors: the named, hashed networks through which samples are compared with data.

Floor 5. A distance between two clouds of features says as much about the features as about the
samples, so an extractor has a name and a sha256, and every score carries both. The zoo's own are
small classifiers, kept in the package as safetensors files, made by experiments/extractors.py:

    digits   the 8x8 digits of scikit-learn
    mnist    MNIST, 28x28, grey or binarised

The same script makes one of any labelled images of your own.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from genjax_zoo import nets
from genjax_zoo.contract import Array, DataError, Key
from genjax_zoo.typed import choose, typed

FOLDER = pathlib.Path(__file__).resolve().parent / "extractors"
BATCH = 500
"""Images in a call of the network: always as many, so that it is compiled once."""


class Extractor(NamedTuple):
    """What turns images into features, and says which it is. Make your own by naming the parts.

    Attributes:
      name: what it is called beside every score. Only the Inception network's may be "inception".
      sha256: of its parameters and its architecture, in hex.
      shape: of one x, (H, W, C), with values in [0, 1].
      preprocessing: in words, what it does to x first: resizing, scaling.
      features: x [n, *shape] -> [n, D], arrays of numpy.
      probabilities: x [n, *shape] -> p(y|x) [n, K], or None for one that is no classifier.
      classes: K, whose numbers are the labels of the data that it learnt from; 0 where they are
        no labels that a sample could be given.
    """

    name: str
    sha256: str
    shape: tuple[int, ...]
    preprocessing: str
    features: Callable[[np.ndarray], np.ndarray]
    probabilities: Callable[[np.ndarray], np.ndarray] | None = None
    classes: int = 0


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A small convolutional classifier whose last but one layer is the features.

        f = W_f conv_k(... conv_1(x)),     p(y|x) = softmax(W gelu(f) + b)

    Attributes:
      shape: (H, W, C) of an image.
      classes: K.
      widths: channels after each halving of the image.
      features: D.
    """

    shape: tuple[int, ...]
    classes: int
    widths: tuple[int, ...]
    features: int


class Classifier(NamedTuple):
    """The functions of an architecture.

    Attributes:
      init: (key, x) -> params.
      features: (params, x [B, *shape]) -> f [B, D].
      logits: (params, f [B, D]) -> [B, K].
    """

    init: Callable[[Key, Array], Any]
    features: Callable[[Any, Array], Array]
    logits: Callable[[Any, Array], Array]


def classifier(architecture: Architecture) -> Classifier:
    """The network of an architecture."""
    body = nets.conv_encoder(architecture.widths, architecture.features, "gelu")
    head = nets.mlp((), architecture.classes)

    def init(key: Key, x: Array) -> Any:
        key_body, key_head = jax.random.split(key)
        f = jnp.zeros((1, architecture.features))
        return {"body": body.init(key_body, x), "head": head.init(key_head, f)}

    return Classifier(
        init=init,
        features=lambda params, x: body.apply(params["body"], x),
        logits=lambda params, f: head.apply(params["head"], jax.nn.gelu(f)),
    )


def make(name: str, architecture: Architecture, params: Any) -> Extractor:
    """The extractor of a trained classifier."""
    net, shape = classifier(architecture), tuple(architecture.shape)
    held = jax.tree.map(np.asarray, params)

    def precisely(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
        # Scores are compared between machines: no bfloat16 on a TPU, no TF32 on a GPU.
        def call(x: Array) -> Array:
            with jax.default_matmul_precision("highest"):
                return function(x)

        return jax.jit(call)

    features = precisely(lambda x: net.features(held, x))
    probabilities = precisely(lambda x: jax.nn.softmax(net.logits(held, net.features(held, x))))
    return Extractor(
        name=name,
        sha256=fingerprint(architecture, held),
        shape=shape,
        preprocessing=f"{'x'.join(map(str, shape))} in [0, 1], not resized",
        features=lambda x: _in_batches(features, x, name, shape),
        probabilities=lambda x: _in_batches(probabilities, x, name, shape),
        classes=architecture.classes,
    )


def to_unit(x: np.ndarray | Array, interval: tuple[float, float]) -> np.ndarray:
    """Values of the data's range as an extractor sees them: in [0, 1], NaN kept."""
    low, high = interval
    return np.clip((np.asarray(x) - low) / (high - low), 0, 1)


def fits(extractor: Extractor, shape: tuple[int, ...]) -> bool:
    """Whether an extractor takes images of that shape."""
    return tuple(shape) == tuple(extractor.shape)


def _in_batches(
    function: Callable[[Array], Array], x: np.ndarray, name: str, shape: tuple[int, ...]
) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.shape[1:] != shape:
        raise DataError(
            f"the extractor {name!r} takes images {list(shape)}, got {list(x.shape[1:])}; choose "
            "one made for these images (experiments/extractors.py makes one of labelled data)."
        )
    parts = []
    for first in range(0, len(x), BATCH):
        part = x[first : first + BATCH]
        whole = np.concatenate([part, np.zeros((BATCH - len(part), *shape), np.float32)])
        parts.append(np.asarray(function(jnp.asarray(whole)))[: len(part)])
    return np.concatenate(parts)


def fingerprint(architecture: Architecture, params: Any) -> str:
    """The sha256, in hex, of an architecture and of its parameters' names, shapes and bytes."""
    digest = hashlib.sha256(_spell(architecture).encode())
    for name, value in sorted(flatten_dict(params, sep="/").items()):
        array = np.asarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _spell(architecture: Architecture) -> str:
    return json.dumps(dataclasses.asdict(architecture), sort_keys=True)


# ----------------------------------------------------------------------------------- the files


def save(
    path: pathlib.Path, name: str, architecture: Architecture, params: Any, about: Mapping[str, str]
) -> str:
    """Writes an extractor's file, and returns its sha256.

    Args:
      path: where, by custom NAME.safetensors.
      name: what it is called beside every score.
      architecture: which network.
      params: its parameters.
      about: further facts for the file's header: data, command, seed, accuracy.
    """
    flat = {k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}
    sha256 = fingerprint(architecture, params)
    header = {**about, "name": name, "architecture": _spell(architecture), "sha256": sha256}
    safetensors.numpy.save_file(flat, path, metadata=header)
    return sha256


def load(path: str | pathlib.Path) -> Extractor:
    """The extractor in a file of `save`; raises DataError for one missing, damaged or foreign."""
    path = pathlib.Path(path).expanduser()
    header = about(path)
    try:
        flat = safetensors.numpy.load_file(path)
        fields = {k: _tuples(v) for k, v in json.loads(header["architecture"]).items()}
        architecture = typed(Architecture, fields, "architecture")
        params = unflatten_dict(flat, sep="/")
        expected = jax.eval_shape(
            classifier(architecture).init, jax.random.key(0), jnp.zeros((1, *architecture.shape))
        )
        found = fingerprint(architecture, params)
    except Exception as error:
        raise _unreadable(path, error) from error
    shapes = lambda tree: {k: v.shape for k, v in flatten_dict(tree, sep="/").items()}
    if found != header["sha256"] or shapes(params) != shapes(expected):
        raise DataError(
            f"{path} is damaged: its parameters have the sha256 {found[:12]}..., and its header "
            f"says {header['sha256'][:12]}...; make it again by experiments/extractors.py."
        )
    return make(header["name"], architecture, params)


def about(path: str | pathlib.Path) -> dict[str, str]:
    """The header of an extractor's file: name, architecture, sha256, and how it was made."""
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"the extractor {path} does not exist; give the path of a file.")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = dict(file.metadata() or {})
    except Exception as error:
        raise _unreadable(path, error) from error
    missing = {"name", "architecture", "sha256"} - set(header)
    if missing:
        raise DataError(
            f"{path} is no extractor: its header lacks {', '.join(sorted(missing))}; make one by "
            "experiments/extractors.py."
        )
    return header


def _unreadable(path: pathlib.Path, error: Exception) -> DataError:
    why = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(
        f"{path} cannot be read as an extractor ({why}); make it again by "
        "experiments/extractors.py."
    )


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def names() -> list[str]:
    """The extractors that come with the zoo."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


@functools.cache
def bundled(name: str) -> Extractor:
    """An extractor that comes with the zoo; raises ConfigError, naming the nearest."""
    return load(choose(name, {n: FOLDER / f"{n}.safetensors" for n in names()}, "extractor"))


def for_data(name: str, shape: tuple[int, ...]) -> Extractor | None:
    """The zoo's own extractor for a data set, or None where it has none for such images."""
    return resized(bundled(name), shape) if name in names() else None


def resized(extractor: Extractor, shape: tuple[int, ...]) -> Extractor | None:
    """The extractor for images of that shape, which it is shown in its own size (bilinear).

    None where their channels differ. That it resizes is part of its preprocessing, so that scores
    of one size are not taken for those of another.
    """
    if fits(extractor, shape):
        return extractor
    if len(shape) != 3 or shape[2] != extractor.shape[2]:
        return None
    judge = extractor.probabilities

    def shrunk(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float32)
        return np.asarray(jax.image.resize(x, (len(x), *extractor.shape), "linear"))

    given, seen = ("x".join(map(str, sides)) for sides in (shape, extractor.shape))
    return extractor._replace(
        shape=tuple(shape),
        preprocessing=f"in [0, 1], resized (bilinear) from {given} to {seen}",
        features=lambda x: extractor.features(shrunk(x)),
        probabilities=None if judge is None else lambda x: judge(shrunk(x)),
    )
