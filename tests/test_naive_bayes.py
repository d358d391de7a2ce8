"""Naive Bayes against scikit-learn's, its stream against one batch, its densities against sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.naive_bayes import BernoulliNB, GaussianNB

from genjax_zoo.contract import ConfigError, DataError, Evidence, Support
from genjax_zoo.models import naive_bayes

KEY = jax.random.key(0)
DIGITS = load_digits()
GREY = DIGITS.data.astype(np.float32) / 16
BINARY = (GREY > 0.5).astype(np.float32)
LABEL = DIGITS.target.astype(np.int32)
NOISY = GREY + np.random.default_rng(0).uniform(0, 1 / 16, GREY.shape).astype(np.float32)


def learn(x, label=None, sizes=None, **config):
    """A model, and its state after one epoch in batches of these sizes (one batch if None)."""
    model = naive_bayes.make(naive_bayes.Config(**config))
    x = jnp.asarray(x)
    part = lambda a, b: {"x": x[a:b]} | ({} if label is None else {"label": label[a:b]})
    state = model.init(KEY, part(0, len(x)))
    step = jax.jit(model.step)
    ends = np.cumsum(sizes or [len(x)])
    for a, b in zip([0, *ends[:-1]], ends, strict=True):
        state, info = step(KEY, state, part(int(a), int(b)))
    return model, state, info


TWINS = {
    "gaussian": (NOISY, lambda: GaussianNB(), {}),
    # Grey levels have pixels that never vary within a class: the smoothing decides.
    "gaussian, constant pixels": (GREY, lambda: GaussianNB(var_smoothing=1e-3),
                                  {"var_smoothing": 1e-3}),
    "gaussian, far from 0": (NOISY + 100, lambda: GaussianNB(var_smoothing=1e-4),
                             {"var_smoothing": 1e-4}),
    "bernoulli": (BINARY, lambda: BernoulliNB(), {"kind": "bernoulli"}),
    "bernoulli, hardly smoothed": (BINARY, lambda: BernoulliNB(alpha=1e-6),
                                   {"kind": "bernoulli", "alpha": 1e-6}),
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_scikit_learn_says_the_same(name):
    x, twin, config = TWINS[name]
    train, test = slice(0, 1400), slice(1400, None)
    twin = twin().fit(x[train].astype(np.float64), LABEL[train])
    model, state, _ = learn(x[train], LABEL[train], [500, 500, 400], **config)
    batch = {"x": jnp.asarray(x[test]), "label": LABEL[test]}
    jll = twin.predict_joint_log_proba(x[test].astype(np.float64))
    scale = {"rtol": 1e-4, "atol": 2e-3}  # of sums of 64 terms, in nats
    np.testing.assert_allclose(
        model.log_prob(KEY, state, batch), np.logaddexp.reduce(jll, axis=1), **scale
    )
    own = model.measures["log_joint"](KEY, state, batch)
    np.testing.assert_allclose(own, jll[np.arange(len(jll)), LABEL[test]], **scale)
    error = model.measures["error"](KEY, state, batch)
    np.testing.assert_array_equal(error, twin.predict(x[test]) != LABEL[test])
    posterior = model.encode(KEY, state, batch)
    np.testing.assert_allclose(posterior, twin.predict_proba(x[test]), atol=2e-3)
    if "gaussian" in name:
        np.testing.assert_allclose(state.params.mean, twin.theta_, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.params.variance, twin.var_, rtol=1e-4)
    else:
        np.testing.assert_allclose(
            jnp.log(state.params.mean), twin.feature_log_prob_, rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("kind, x", [("gaussian", GREY + 3), ("bernoulli", BINARY)])
def test_minibatches_end_where_one_batch_does(kind, x):
    """Sorted by class, so that most classes are first seen late."""
    order = np.argsort(LABEL, kind="stable")
    _, whole, _ = learn(x[order], LABEL[order], kind=kind)
    _, parts, _ = learn(x[order], LABEL[order], [1, 2, 94, 300, 700, 700], kind=kind)
    for name in ("prior", "mean", "variance", "counts"):
        a, b = getattr(whole.params, name), getattr(parts.params, name)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8, err_msg=name)


def test_bernoulli_sums_to_one():
    x = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1.0]])
    model, state, _ = learn(x, np.array([0, 0, 1, 1]), kind="bernoulli", classes=2, alpha=0.3)
    everything = jnp.array(list(np.ndindex(2, 2, 2)), jnp.float32)
    np.testing.assert_allclose(
        jnp.exp(model.log_prob(KEY, state, {"x": everything})).sum(), 1, rtol=1e-5
    )
    joint = [
        jnp.exp(
            model.measures["log_joint"](KEY, state, {"x": everything, "label": jnp.full(8, y)})
        ).sum()
        for y in (0, 1)
    ]
    np.testing.assert_allclose(joint, [0.5, 0.5], rtol=1e-5)
    grey = model.log_prob(KEY, state, {"x": jnp.array([[0.0, 0.5, 1.0]])})
    assert grey[0] == -jnp.inf and model.support is Support.BINARY


def test_gaussian_integrates_to_one():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 300)
    x = rng.normal(size=(300, 2)) * [0.5, 1.0] + np.array([[0, 0], [2, 1], [-1, 2]])[y]
    model, state, _ = learn(x.astype(np.float32), y, classes=3)
    side = np.linspace(-8, 8, 401)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    mass = jnp.exp(model.log_prob(KEY, state, {"x": grid})).sum() * (side[1] - side[0]) ** 2
    np.testing.assert_allclose(mass, 1, rtol=1e-4)
    assert model.evidence is Evidence.EXACT


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_samples_have_the_moments_of_their_class(kind):
    x = {"gaussian": NOISY, "bernoulli": BINARY}[kind].reshape(-1, 8, 8, 1)
    model, state, _ = learn(x, LABEL, kind=kind)
    drawn = model.sample(KEY, state, 30_000)
    assert drawn["x"].shape == (30_000, 8, 8, 1) and drawn["label"].dtype == jnp.int32
    p = np.bincount(drawn["label"], minlength=10) / 30_000
    np.testing.assert_allclose(p, state.params.prior, atol=0.01)
    if kind == "bernoulli":
        assert set(np.unique(drawn["x"])) == {0.0, 1.0}
    of = model.sample(KEY, state, 20_000, label=3)
    assert set(np.unique(of["label"])) == {3}
    flat = of["x"].reshape(20_000, -1)
    np.testing.assert_allclose(flat.mean(0), state.params.mean[3], atol=0.02)
    np.testing.assert_allclose(flat.var(0), state.params.variance[3], atol=0.01)
    means = model.sample(KEY, state, 4, label=jnp.array([0, 1, 2, 3]), means=True)["x"]
    np.testing.assert_allclose(means.reshape(4, -1), state.params.mean[:4])


def test_decode_weighs_the_means_by_the_posterior():
    model, state, _ = learn(GREY.reshape(-1, 8, 8, 1), LABEL)
    posterior = jnp.eye(10)[:2] * 0.25 + jnp.eye(10)[4:6] * 0.75
    x = model.decode(state, posterior)["x"]
    assert x.shape == (2, 8, 8, 1)
    m = state.params.mean
    np.testing.assert_allclose(x[0].reshape(-1), 0.25 * m[0] + 0.75 * m[4], rtol=1e-5, atol=1e-7)


def test_without_labels_there_is_one_class():
    x = np.random.default_rng(2).normal(size=(500, 2)).astype(np.float32) * [2, 0.5] + 1
    model, state, _ = learn(x, sizes=[100] * 5)
    np.testing.assert_allclose(state.params.mean[0], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state.params.variance[0], x.var(0), rtol=1e-4)
    batch = {"x": x[:3]}
    a, b = model.log_prob(KEY, state, batch), model.measures["log_joint"](KEY, state, batch)
    np.testing.assert_allclose(a, b)
    assert set(np.unique(model.sample(KEY, state, 5)["label"])) == {0}


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_all_is_finite_before_any_example_and_without_some_classes(kind):
    model, state, info = learn(BINARY[:1], LABEL[:1], kind=kind, var_smoothing=0.0)
    fresh = model.init(KEY, {"x": BINARY[:1], "label": LABEL[:1]})
    for leaf in jax.tree.leaves((state, info, fresh)):
        assert jnp.all(jnp.isfinite(leaf))
    for s in (state, fresh):
        assert jnp.isfinite(model.log_prob(KEY, s, {"x": BINARY[:1]})).all()


def test_bad_labels_and_bad_numbers_are_told():
    model, state, _ = learn(GREY[:20], LABEL[:20])
    with pytest.raises(DataError, match=r"labels should lie in 0 .. 9, got 0 .. 12"):
        model.init(KEY, {"x": GREY[:2], "label": np.array([0, 12])})
    _, info = model.step(KEY, state, {"x": GREY[:2], "label": np.array([0, 12])})
    assert jnp.isnan(info["labels_outside"])
    with pytest.raises(DataError, match="no label"):
        model.measures["error"](KEY, state, {"x": GREY[:2]})
    with pytest.raises(DataError, match="got 10"):
        model.sample(KEY, state, 2, label=10)
    with pytest.raises(ConfigError, match="alpha should be positive"):
        naive_bayes.Config(alpha=0.0)
