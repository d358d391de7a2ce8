"""Naive Bayes against scikit-learn's, its stream against one batch, its densities against sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln
from sklearn.datasets import load_digits
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB

from genjax_zoo import contract
from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.models import naive_bayes

KEY = jax.random.key(0)
DIGITS = load_digits()
GREY = DIGITS.data.astype(np.float32) / 16
BINARY = (GREY > 0.5).astype(np.float32)
COUNTS = DIGITS.data.astype(np.float32)
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
    posterior = model.latents.encode(KEY, state, batch)
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
    assert grey[0] == -jnp.inf and model.spaces["x"] == contract.BINARY._replace(missing=True)


@pytest.mark.parametrize("alpha", [1.0, 1e-3])
def test_scikit_learns_multinomial_says_the_same(alpha):
    """Its log-probabilities lack the multinomial coefficient, which is one of all classes."""
    train, test = slice(0, 1400), slice(1400, None)
    twin = MultinomialNB(alpha=alpha).fit(COUNTS[train], LABEL[train])
    model, state, _ = learn(
        COUNTS[train], LABEL[train], [500, 500, 400], kind="multinomial", alpha=alpha
    )
    batch = {"x": COUNTS[test], "label": LABEL[test]}
    np.testing.assert_allclose(jnp.log(state.params.mean), twin.feature_log_prob_, rtol=1e-4)
    x = COUNTS[test].astype(np.float64)
    coefficient = gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1)
    jll = twin.predict_joint_log_proba(x) + coefficient[:, None]
    close = {"rtol": 2e-4, "atol": 5e-3}  # coefficients of 300 counts are 1000 nats
    np.testing.assert_allclose(
        model.log_prob(KEY, state, batch), np.logaddexp.reduce(jll, axis=1), **close
    )
    np.testing.assert_array_equal(
        model.measures["error"](KEY, state, batch), twin.predict(x) != LABEL[test]
    )
    drawn = model.sample(KEY, state, 5000, {"label": 3})["x"]
    assert jnp.all(drawn == jnp.round(drawn)) and jnp.all(drawn >= 0)
    total = jnp.round(COUNTS[train][LABEL[train] == 3].sum(1).mean())
    np.testing.assert_array_equal(drawn.sum(1), total)
    np.testing.assert_allclose(drawn.mean(0), total * state.params.mean[3], atol=0.3)
    means = model.latents.decode(KEY, state, jnp.eye(10))["x"]
    np.testing.assert_allclose(means.sum(1), jnp.round(state.params.total), rtol=1e-5)


def test_multinomial_sums_to_one_over_all_counts_of_one_sum():
    x = np.array([[0, 2, 1], [1, 0, 4], [5, 1, 0], [2, 2, 0.0]])
    model, state, _ = learn(x, np.array([0, 0, 1, 1]), kind="multinomial", classes=2, alpha=0.3)
    every = np.array(list(np.ndindex(6, 6, 6)), np.float32)
    nats = model.log_prob(KEY, state, {"x": every})
    for n in (0, 1, 5):
        np.testing.assert_allclose(jnp.exp(nats[every.sum(1) == n]).sum(), 1, rtol=1e-5)
    bad = model.log_prob(KEY, state, {"x": np.array([[0.5, 1, 1], [-1, 2, 1]], np.float32)})
    assert jnp.all(bad == -jnp.inf) and model.spaces["x"] == contract.COUNTS
    # Known counts given their own sum: the explicit sum over the missing one, of any total.
    some = np.array([[1, 2, np.nan]], np.float32)
    known = model.measures["log_joint"](KEY, state, {"x": some, "label": np.array([0])})
    mean = np.asarray(state.params.mean[0, :2], np.float64)
    a, b = mean / mean.sum()
    np.testing.assert_allclose(known, np.log(0.5 * 3 * a * b**2), rtol=1e-5)
    with pytest.raises(DataError, match="missing counts"):
        learn(some, np.array([0]), kind="multinomial", classes=2)


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_missing_features_are_left_out_exactly(kind):
    """Against a model of the known features alone."""
    x = {"gaussian": NOISY, "bernoulli": BINARY}[kind]
    keep = np.arange(64) % 3 != 0
    model, state, _ = learn(x, LABEL, kind=kind)
    small, own, _ = learn(x[:, keep], LABEL, kind=kind)
    holes = np.where(keep, x[:50], np.nan)
    a, b = {"x": holes, "label": LABEL[:50]}, {"x": x[:50][:, keep], "label": LABEL[:50]}
    close = {"rtol": 1e-4, "atol": 1e-3}
    np.testing.assert_allclose(model.log_prob(KEY, state, a), small.log_prob(KEY, own, b), **close)
    np.testing.assert_allclose(
        model.latents.encode(KEY, state, a), small.latents.encode(KEY, own, b), atol=1e-3
    )
    error = [m.measures["error"](KEY, s, c) for m, s, c in ((model, state, a), (small, own, b))]
    np.testing.assert_array_equal(*error)
    nothing = model.log_prob(KEY, state, {"x": np.full((1, 64), np.nan, np.float32)})
    np.testing.assert_allclose(nothing, 0, atol=1e-5)
    # What is missing is drawn, what is known stays.
    drawn = model.sample(KEY, state, 4000, {"x": holes[0]})
    np.testing.assert_array_equal(drawn["x"][:, keep], np.tile(holes[0][keep], (4000, 1)))
    posterior = np.asarray(model.latents.encode(KEY, state, a))[0]
    np.testing.assert_allclose(drawn["x"].mean(0)[~keep], (posterior @ state.params.mean)[~keep],
                               atol=0.04)  # fmt: skip
    if kind == "bernoulli":
        bad = holes[:1].copy()
        bad[0, 1] = 0.5
        assert model.log_prob(KEY, state, {"x": bad})[0] == -jnp.inf


@pytest.mark.parametrize("kind", ["gaussian", "bernoulli"])
def test_statistics_skip_what_is_missing(kind):
    x = {"gaussian": NOISY + 50, "bernoulli": BINARY}[kind].copy()
    x[np.random.default_rng(0).uniform(size=x.shape) < 0.4] = np.nan
    x[LABEL == 7, 5] = np.nan  # never known of a class
    _, state, _ = learn(x, LABEL, [300, 700, 797], kind=kind)
    for y in (0, 4, 9):
        own = x[y == LABEL].astype(np.float64)
        n = (~np.isnan(own)).sum(0)
        if kind == "gaussian":
            np.testing.assert_allclose(state.params.mean[y], np.nanmean(own, 0), rtol=1e-5)
            np.testing.assert_allclose(state.params.variance[y], np.nanvar(own, 0), rtol=1e-3)
        else:
            np.testing.assert_allclose(
                state.params.mean[y], (np.nansum(own, 0) + 1) / (n + 2), rtol=1e-5
            )
    for leaf in jax.tree.leaves(state):
        assert jnp.isfinite(leaf).all()
    if kind == "gaussian":
        # Then it has the mean of all classes.
        np.testing.assert_allclose(state.params.mean[7, 5], np.nanmean(x[:, 5]), rtol=1e-4)


def test_gaussian_integrates_to_one():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 3, 300)
    x = rng.normal(size=(300, 2)) * [0.5, 1.0] + np.array([[0, 0], [2, 1], [-1, 2]])[y]
    model, state, _ = learn(x.astype(np.float32), y, classes=3)
    side = np.linspace(-8, 8, 401)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    mass = jnp.exp(model.log_prob(KEY, state, {"x": grid})).sum() * (side[1] - side[0]) ** 2
    np.testing.assert_allclose(mass, 1, rtol=1e-4)
    assert model.log_prob.exactness is Exactness.EXACT


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
    of = model.sample(KEY, state, 20_000, {"label": 3})
    assert set(np.unique(of["label"])) == {3}
    flat = of["x"].reshape(20_000, -1)
    np.testing.assert_allclose(flat.mean(0), state.params.mean[3], atol=0.02)
    np.testing.assert_allclose(flat.var(0), state.params.variance[3], atol=0.01)
    pictures = naive_bayes.make(naive_bayes.Config(kind=kind, sample_means=True))
    means = pictures.sample(KEY, state, 4, {"label": jnp.array([0, 1, 2, 3])})["mean"]
    np.testing.assert_allclose(means.reshape(4, -1), state.params.mean[:4])


def test_decode_weighs_the_means_by_the_posterior():
    model, state, _ = learn(GREY.reshape(-1, 8, 8, 1), LABEL)
    posterior = jnp.eye(10)[:2] * 0.25 + jnp.eye(10)[4:6] * 0.75
    x = model.latents.decode(KEY, state, posterior)["x"]
    assert x.shape == (2, 8, 8, 1)
    m = state.params.mean
    np.testing.assert_allclose(x[0].reshape(-1), 0.25 * m[0] + 0.75 * m[4], rtol=1e-5, atol=1e-7)


def test_without_labels_there_is_one_class():
    x = np.random.default_rng(2).normal(size=(500, 2)).astype(np.float32) * [2, 0.5] + 1
    model, state, _ = learn(x, sizes=[100] * 5, classes=0)
    np.testing.assert_allclose(state.params.mean[0], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(state.params.variance[0], x.var(0), rtol=1e-4)
    normal = -0.5 * ((x[:3] - x.mean(0)) ** 2 / x.var(0) + np.log(2 * np.pi * x.var(0)))
    np.testing.assert_allclose(
        model.log_prob(KEY, state, {"x": x[:3]}), normal.sum(1), rtol=1e-4, atol=1e-4
    )
    assert set(model.sample(KEY, state, 5)) == set(model.spaces) == {"x"}
    assert not model.measures
    # One class of labelled data is the same model, and its log p(x, y) is log p(x).
    one, same, _ = learn(x, np.zeros(500, np.int32), [100] * 5, classes=1)
    np.testing.assert_allclose(same.params.mean, state.params.mean)
    assert set(np.unique(one.sample(KEY, same, 5)["label"])) == {0}


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
    with pytest.raises(DataError, match=r"label should be integers 0 \.\. 9, .*and 12 is none"):
        model.init(KEY, {"x": GREY[:2], "label": np.array([0, 12])})
    outside = {"x": GREY[:2], "label": np.array([0, 12])}
    assert jnp.isnan(jax.jit(model.step)(KEY, state, outside)[1]["labels_outside"])
    with pytest.raises(DataError, match="needs labelled data"):
        model.measures["error"](KEY, state, {"x": GREY[:2]})
    with pytest.raises(DataError, match="and 10 is none"):
        model.sample(KEY, state, 2, {"label": 10})
    with pytest.raises(DataError, match="cannot be told that: unknown given 'text'"):
        model.sample(KEY, state, 2, {"text": "three"})
    counts, own, _ = learn(COUNTS[:20], LABEL[:20], kind="multinomial")
    with pytest.raises(DataError, match=r"naive_bayes \(multinomial\) cannot be told that.*'x'"):
        counts.sample(KEY, own, 2, {"x": COUNTS[0], "mask": np.ones(64)})
    with pytest.raises(ConfigError, match="alpha should be positive"):
        naive_bayes.Config(alpha=0.0)
