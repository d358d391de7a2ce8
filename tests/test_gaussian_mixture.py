"""Gaussian mixtures against scikit-learn's, against dense formulas and explicit marginals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.mixture import GaussianMixture

from genjax_zoo.contract import ConfigError, DataError, Exactness
from genjax_zoo.data import densities
from genjax_zoo.maths.inference import gaussians
from genjax_zoo.maths.inference.clustering import k_means_of_classes
from genjax_zoo.maths.probability.scales import of_parts, varies
from genjax_zoo.models import gaussian_mixture

KEY = jax.random.key(0)
STRUCTURES = ("full", "tied", "diagonal", "spherical")
DENSE = ("full", "tied")
FULL = ("full", pytest.param("tied", marks=pytest.mark.slow))
ENDS = (
    "full",
    *(pytest.param(s, marks=pytest.mark.slow) for s in ("tied", "diagonal")),
    "spherical",
)
"""The most and the least of the structures; --slow: what lies between."""
MAXIMUM_LIKELIHOOD = {"pseudo_counts": 0.0, "ridge": 1e-7}


def data(name):
    x, y = {"iris": load_iris, "wine": load_wine}[name](return_X_y=True)
    return x.astype(np.float32), y.astype(np.int32)


def learn(x, label=None, steps=1, sizes=None, **config):
    """A model and its state after so many epochs in batches of these sizes (one batch if None)."""
    config = {"classes": 0 if label is None else int(max(label)) + 1, **config}
    model = gaussian_mixture.make(gaussian_mixture.Config(**config))
    part = lambda a, b: {"x": x[a:b]} | ({} if label is None else {"label": label[a:b]})
    ends = np.cumsum(sizes or [len(x)])
    state, step = jax.jit(model.init)(KEY, part(0, int(ends[0]))), jax.jit(model.step)
    of = {t: dataclasses.replace(m, value=jax.jit(m.value)) for t, m in model.measures.items()}
    model = model._replace(
        log_prob=dataclasses.replace(model.log_prob, value=jax.jit(model.log_prob.value)),
        latents=model.latents._replace(encode=jax.jit(model.latents.encode)),
        measures=of,
    )
    infos = []
    for _ in range(steps):
        for a, b in zip([0, *ends[:-1]], ends, strict=True):
            state, info = step(KEY, state, part(int(a), int(b)))
            infos.append(info)
    return model, state, infos


def matrices(state, covariance):
    """p(y, k) [M], means [M, D] and covariances [M, D, D] of a state, in float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), state.params)
    M, D = p.weight.size, p.mean.shape[-1]
    factor = p.factor.reshape(-1, *p.factor.shape[2:])
    if covariance in ("diagonal", "spherical"):
        sigma = np.stack([np.diag(np.broadcast_to(f, (D,)) ** 2) for f in factor])
    else:
        sigma = np.broadcast_to(factor @ factor.swapaxes(1, 2), (M, D, D))
    return (p.prior[:, None] * p.weight).ravel(), p.mean.reshape(M, D), sigma


def dense(x, p, mean, sigma):
    """log p(x, m) [B, M] of what is known, from the definition."""
    out = np.zeros((len(x), len(p)))
    for n, row in enumerate(np.asarray(x, np.float64)):
        o = ~np.isnan(row)
        for m in range(len(p)):
            normal = multivariate_normal(mean[m][o], sigma[m][np.ix_(o, o)]) if o.any() else None
            out[n, m] = np.log(p[m]) + (normal.logpdf(row[o]) if normal else 0.0)
    return out


@pytest.mark.parametrize("name", [pytest.param("iris", marks=pytest.mark.slow), "wine"])
def test_tied_and_full_are_scikit_learns_discriminant_analyses(name):
    x, y = data(name)
    wide = x.astype(np.float64)
    batch = {"x": x, "label": y}
    model, state, _ = learn(x, y, covariance="tied", **MAXIMUM_LIKELIHOOD)
    twin = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(wide, y)
    prior, mean, sigma = matrices(state, "tied")
    scale = np.sqrt(np.diag(twin.covariance_))
    np.testing.assert_allclose(mean, twin.means_, rtol=1e-5)
    np.testing.assert_allclose(prior, twin.priors_, rtol=1e-5)
    np.testing.assert_allclose(sigma[0] / np.outer(scale, scale),
                               twin.covariance_ / np.outer(scale, scale), atol=1e-5)  # fmt: skip
    posterior = np.asarray(model.latents.encode(KEY, state, batch))[:, :, 0]
    np.testing.assert_allclose(posterior, twin.predict_proba(wide), atol=2e-3)
    error = model.measures["error"](KEY, state, batch)
    np.testing.assert_array_equal(error, twin.predict(wide) != y)

    model, state, _ = learn(x, y, covariance="full", **MAXIMUM_LIKELIHOOD)
    twin = QuadraticDiscriminantAnalysis().fit(wide, y)
    _, mean, sigma = matrices(state, "full")
    for k in range(3):
        # By the definition: scikit-learn's own is with n or n - 1, as its version is.
        wanted = np.cov(wide[y == k].T, bias=True)
        scale = np.sqrt(np.diag(wanted))
        np.testing.assert_allclose(
            sigma[k] / np.outer(scale, scale), wanted / np.outer(scale, scale), atol=2e-5
        )
    error = model.measures["error"](KEY, state, batch)
    assert np.sum(np.asarray(error) != (twin.predict(wide) != y)) <= 1


@pytest.mark.parametrize("covariance", ENDS)
def test_em_ends_where_scikit_learns_does_and_never_decreases(covariance):
    x, _ = data("iris")
    model, state, infos = learn(x, steps=300, covariance=covariance, components=3,
                               pseudo_counts=0.0, ridge=1e-6)  # fmt: skip
    likelihood = np.array([info["log_prob"] for info in infos], np.float64)
    assert np.diff(likelihood).min() > -2e-5
    assert likelihood[-1] > likelihood[0] + 0.01
    kinds = {"diagonal": "diag"}
    p, mean, sigma = matrices(state, covariance)
    twin = GaussianMixture(
        3, covariance_type=kinds.get(covariance, covariance), means_init=mean,
        weights_init=p / p.sum(),
        max_iter=1000, tol=1e-9, reg_covar=1e-6, precisions_init={
            "full": np.linalg.inv(sigma), "tied": np.linalg.inv(sigma[0]),
            "diagonal": 1 / sigma.diagonal(axis1=1, axis2=2), "spherical": 1 / sigma[:, 0, 0],
        }[covariance],
    ).fit(x)  # fmt: skip
    ours = float(model.log_prob(KEY, state, {"x": x}).mean())
    assert ours == pytest.approx(twin.score(x), abs=2e-3)
    np.testing.assert_allclose(mean, twin.means_, atol=2e-2)
    posterior = np.asarray(model.latents.encode(KEY, state, {"x": x}))[:, 0]
    np.testing.assert_allclose(posterior, twin.predict_proba(x), atol=2e-2)


@pytest.mark.parametrize("covariance", STRUCTURES)
def test_densities_are_those_of_the_definition_with_features_missing(covariance):
    x, y = data("iris")
    model, state, _ = learn(x, y, steps=5, covariance=covariance, components=2)
    holes = x[::7].copy()
    holes[np.random.default_rng(0).uniform(size=holes.shape) < 0.4] = np.nan
    holes[0] = np.nan
    for some in (x[::7], holes):
        batch = {"x": some, "label": y[::7]}
        nats = dense(some, *matrices(state, covariance))
        close = {"rtol": 1e-4, "atol": 1e-3}
        np.testing.assert_allclose(
            model.log_prob(KEY, state, batch), logsumexp(nats, axis=1), **close
        )
        classes = logsumexp(nats.reshape(len(nats), 3, 2), axis=2)
        own = model.measures["log_joint"](KEY, state, batch)
        np.testing.assert_allclose(own, classes[np.arange(len(own)), y[::7]], **close)
        error = model.measures["error"](KEY, state, batch)
        sure = np.ptp(np.sort(classes)[:, -2:], axis=1) > 1e-3
        np.testing.assert_array_equal(error[sure], (classes.argmax(1) != y[::7])[sure])
        posterior = np.exp(nats - logsumexp(nats, axis=1, keepdims=True)).reshape(-1, 3, 2)
        np.testing.assert_allclose(model.latents.encode(KEY, state, batch), posterior, atol=1e-3)


@pytest.mark.parametrize("covariance", ENDS)
def test_em_with_missing_features_never_decreases_and_fills_in(covariance):
    x, _ = data("iris")
    holes = x.copy()
    holes[np.random.default_rng(1).uniform(size=x.shape) < 0.3] = np.nan
    _, state, infos = learn(holes, steps=40, covariance=covariance, components=2,
                           pseudo_counts=0.0, ridge=1e-6)  # fmt: skip
    likelihood = np.array([info["log_prob"] for info in infos], np.float64)
    assert np.diff(likelihood).min() > -2e-5
    # One step from here, by the definition: E[x] and E[x xᵀ] given what is known.
    p, mean, sigma = matrices(state, covariance)
    nats = dense(holes, p, mean, sigma)
    r = np.exp(nats - logsumexp(nats, axis=1, keepdims=True))
    n, first, second = r.sum(0), np.zeros_like(mean), np.zeros_like(sigma)
    for i, row in enumerate(holes.astype(np.float64)):
        o, h = ~np.isnan(row), np.isnan(row)
        for m in range(len(p)):
            full, spread, S = row.copy(), np.zeros_like(sigma[m]), sigma[m]
            gain = S[np.ix_(h, o)] @ np.linalg.inv(S[np.ix_(o, o)])
            full[h] = mean[m][h] + gain @ (row[o] - mean[m][o])
            spread[np.ix_(h, h)] = S[np.ix_(h, h)] - gain @ S[np.ix_(o, h)]
            first[m] += r[i, m] * full
            second[m] += r[i, m] * (np.outer(full, full) + spread)
    wanted = first / n[:, None]
    scatter = second - n[:, None, None] * wanted[:, :, None] * wanted[:, None]
    wanted_sigma = scatter / n[:, None, None]
    if covariance == "tied":
        wanted_sigma = np.broadcast_to(scatter.sum(0) / n.sum(), sigma.shape)
    elif covariance != "full":
        diagonal = wanted_sigma.diagonal(axis1=1, axis2=2)
        if covariance == "spherical":
            diagonal = np.broadcast_to(diagonal.mean(1, keepdims=True), diagonal.shape)
        wanted_sigma = np.stack([np.diag(d) for d in diagonal])
    config = gaussian_mixture.Config(covariance=covariance, classes=0, components=2,
                                     pseudo_counts=0.0, ridge=1e-6)  # fmt: skip
    model = gaussian_mixture.make(config)
    after, _ = jax.jit(model.step)(KEY, state, {"x": holes})
    _, mean, sigma = matrices(after, covariance)
    np.testing.assert_allclose(mean, wanted, atol=1e-3)
    np.testing.assert_allclose(sigma, wanted_sigma, atol=1e-3)


@pytest.mark.parametrize("covariance", FULL)
def test_minibatches_end_where_one_batch_does(covariance):
    """With labels and one component nothing is hidden, and `keep` is 1; far from 0, too."""
    x, y = data("wine")
    x = x / x.std(0) + 300
    _, whole, _ = learn(x, y, covariance=covariance, keep=0.0)
    _, parts, _ = learn(x, y, covariance=covariance, keep=1.0, sizes=[60, 10, 100, 8])
    for a, b in zip(matrices(whole, covariance), matrices(parts, covariance), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_pseudo_counts_and_the_ridge_are_scale_free():
    x, y = data("wine")
    x, scale = x[::6], np.float32(10.0) ** np.random.default_rng(0).integers(-3, 4, 13)
    model, small, _ = learn(x, y[::6], covariance="full")
    _, large, _ = learn(x * scale, y[::6], covariance="full")
    a = model.log_prob(KEY, small, {"x": x})
    b = model.log_prob(KEY, large, {"x": x * scale})
    np.testing.assert_allclose(a, b + np.log(scale).sum(), rtol=1e-3)
    # (n S + ν diag V) / (n + ν), V the variance within classes
    n = np.bincount(y[::6])
    within = sum(x[y[::6] == k].var(0) * n[k] for k in range(3)) / len(x)
    own = np.cov(x[y[::6] == 0].T, bias=True)
    wanted = (n[0] * own + np.diag(within)) / (n[0] + 1)
    wanted += 1e-5 * np.diag(x.var(0))
    _, _, sigma = matrices(small, "full")
    np.testing.assert_allclose(sigma[0], wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("covariance", ENDS)
def test_no_covariance_is_singular(covariance):
    """Two examples a class, 13 features, one of them constant; a class and a component without."""
    x, y = data("wine")
    x, y = x[[0, 1, 60, 61, 62]], y[[0, 1, 60, 61, 62]]
    x[:, 3] = 5.0
    for pseudo_counts in (0.0, 1.0):
        model, state, infos = learn(x, y, steps=3, covariance=covariance, components=2,
                                   classes=3, pseudo_counts=pseudo_counts)  # fmt: skip
        batch = {"x": x, "label": y}
        values = model.log_prob(KEY, state, batch), model.latents.encode(KEY, state, batch)
        for leaf in jax.tree.leaves((state, infos, values)):
            assert np.isfinite(leaf).all()


def test_a_mixture_of_eight_is_found_and_integrates_to_one():
    eight = densities.make("eight_gaussians")
    x = eight.sample(jax.random.key(1), 4000)
    model, state, _ = learn(x, steps=30, covariance="spherical", components=8)
    test = eight.sample(jax.random.key(2), 4000)
    excess = eight.log_prob(test).mean() - model.log_prob(KEY, state, {"x": test}).mean()
    assert abs(float(excess)) < 0.02
    side = np.linspace(-8, 8, 401)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2).astype(np.float32)
    mass = jnp.exp(model.log_prob(KEY, state, {"x": grid})).sum() * (side[1] - side[0]) ** 2
    np.testing.assert_allclose(mass, 1, rtol=1e-3)
    assert model.log_prob.exactness is Exactness.EXACT and not model.measures


def test_stepwise_em_on_a_stream_finds_it_too():
    eight = densities.make("eight_gaussians")
    x = eight.sample(jax.random.key(3), 20_000)
    model, state, _ = learn(x, covariance="full", components=8, keep=0.95, sizes=[500] * 40)
    test = eight.sample(jax.random.key(2), 4000)
    excess = eight.log_prob(test).mean() - model.log_prob(KEY, state, {"x": test}).mean()
    assert abs(float(excess)) < 0.02


@pytest.mark.parametrize("covariance", FULL)
def test_samples_have_the_moments_of_their_class(covariance):
    x, y = data("iris")
    model, state, _ = learn(x, y, steps=3, covariance=covariance, components=2)
    p, mean, sigma = matrices(state, covariance)
    drawn = model.sample(KEY, state, 20_000, {"label": 1})
    assert set(np.unique(drawn["label"])) == {1}
    w = p[2:4] / p[2:4].sum()
    centre = w @ mean[2:4]
    apart = mean[2:4] - centre
    spread = np.einsum("m,mij->ij", w, sigma[2:4]) + np.einsum("m,mi,mj->ij", w, apart, apart)
    np.testing.assert_allclose(drawn["x"].mean(0), centre, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn["x"].T), spread, atol=0.02)
    free = model.sample(KEY, state, 20_000)
    np.testing.assert_allclose(np.bincount(free["label"]) / 20_000, state.params.prior, atol=0.02)
    means = model.latents.decode(KEY, state, jnp.eye(6).reshape(6, 3, 2))["x"]
    np.testing.assert_allclose(means, mean, rtol=1e-5)


@pytest.mark.parametrize("covariance", FULL)
def test_what_is_missing_is_drawn_given_what_is_known(covariance):
    x, y = data("iris")
    model, state, _ = learn(x, y, steps=3, covariance=covariance)
    _, mean, sigma = matrices(state, covariance)
    given = np.array([np.nan, 3.0, np.nan, 1.2], np.float32)
    drawn = model.sample(KEY, state, 20_000, {"label": 2, "x": given})["x"]
    np.testing.assert_allclose(drawn[:, 1], 3.0)
    np.testing.assert_allclose(drawn[:, 3], 1.2)
    h, o, S = [0, 2], [1, 3], sigma[2]
    gain = S[np.ix_(h, o)] @ np.linalg.inv(S[np.ix_(o, o)])
    wanted = mean[2][h] + gain @ (given[o] - mean[2][o])
    spread = S[np.ix_(h, h)] - gain @ S[np.ix_(o, h)]
    np.testing.assert_allclose(drawn[:, h].mean(0), wanted, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn[:, h].T), spread, atol=0.02)
    # The class, too, is drawn from what is known of it.
    free = model.sample(KEY, state, 20_000, {"x": given})["label"]
    posterior = np.asarray(model.latents.encode(KEY, state, {"x": given[None]}))[0, :, 0]
    np.testing.assert_allclose(np.bincount(free, minlength=3) / 20_000, posterior, atol=0.02)


@pytest.mark.parametrize("covariance", ENDS)
def test_a_feature_that_never_changed_does_not_decide_when_it_does(covariance):
    """It is the same under both classes: what is left tells them apart, however far it strays."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(2, dtype=np.int32), 30)
    x = np.stack([4.0 * y + rng.normal(size=60), np.zeros(60)], 1).astype(np.float32)
    model, state, _ = learn(x, y, covariance=covariance)
    moved = x + np.array([0, 0.5], np.float32)
    for seen in (x, moved):
        error = model.measures["error"](KEY, state, {"x": seen, "label": y})
        assert float(error.mean()) < 0.1


def test_bad_labels_and_bad_numbers_are_told():
    x, y = data("iris")
    model, state, _ = learn(x, y)
    with pytest.raises(DataError, match=r"label should be integers 0 \.\. 2, .*and 5 is none"):
        model.init(KEY, {"x": x[:2], "label": np.array([0, 5])})
    outside = {"x": x[:2], "label": np.array([0, 5])}
    assert jnp.isnan(jax.jit(model.step)(KEY, state, outside)[1]["labels_outside"])
    with pytest.raises(DataError, match="needs labelled data"):
        model.measures["error"](KEY, state, {"x": x[:2]})
    with pytest.raises(DataError, match="and 3 is none"):
        model.sample(KEY, state, 2, {"label": 3})
    for wrong in ({"keep": 1.5}, {"ridge": 0.0}, {"pseudo_counts": -1.0}, {"components": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            gaussian_mixture.Config(**wrong)


@pytest.mark.parametrize(
    "constant",
    [
        0.1,
        pytest.param(7.0, marks=pytest.mark.slow),
        pytest.param(255.0, marks=pytest.mark.slow),
        1e6,
    ],
)
def test_a_constant_column_weighs_as_much_whatever_it_is(constant):
    """Rounding left it 1e-13 where 0 was asked for, and in some steps no floor: 11 to 18 nats."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    r = rng.dirichlet((1, 1), 200).astype(np.float32)

    def scales(value, off):
        """σ of all, about points `off` units in the last place of the constant away."""
        x[:, 1] = value
        centres, variance = k_means_of_classes(KEY, x, np.ones((200, 1)), 2, 0)
        np.testing.assert_array_equal(centres[0, :, 1], np.float32(value))
        np.testing.assert_allclose(variance[1], 1e-3)
        shift = np.array(centres[0])
        shift[:, 1] += off * np.spacing(np.float32(value))
        g = gaussians.alike("diagonal", jnp.asarray(shift), variance)
        sums = gaussians.moments(g, x, r, jnp.asarray(shift))
        return gaussians.estimate("diagonal", sums, 1.0, 1e-5).factor

    of_zero = scales(0.0, 0)
    for off in (0, 1, -1):
        np.testing.assert_allclose(scales(constant, off), of_zero, rtol=0.01)


def test_a_constant_column_keeps_its_floor_among_many_components():
    """Shares of seconds since 1970 add up to them only to within rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    model = gaussian_mixture.make(gaussian_mixture.Config(classes=0, components=4))

    def learnt(constant):
        x[:, 1] = constant
        state, nats = model.init(KEY, {"x": x}), []
        for _ in range(4):
            state, _ = step(KEY, state, {"x": x})
            nats.append(float(model.log_prob(KEY, state, {"x": x}).mean()))
        return nats

    step = jax.jit(model.step)
    np.testing.assert_allclose(learnt(1.6e9), learnt(0.0), atol=0.02)


def test_parts_make_one_mean_and_variance_of_whatever_size():
    share, mean = np.array([[0.0, 0.1], [0.7, 0.6], [0.3, 0.3]]), np.array([[0, 5], [1, 2], [3, 4]])
    found = of_parts(jnp.asarray(share), jnp.asarray(mean, jnp.float32))
    want = (share * mean).sum(0)
    np.testing.assert_allclose(found, (want, (share * (mean - want) ** 2).sum(0)), rtol=1e-5)
    seconds = jnp.full((3, 2), 1.6e9).at[0, 0].set(0)  # of a class without examples
    np.testing.assert_array_equal(of_parts(jnp.asarray(share), seconds), ([1.6e9] * 2, [0, 0]))


def test_what_varies_is_told_from_what_is_rounded():
    for mean in (0.1, 7.0, 255.0, 1e6):
        mean = np.float32(mean)
        unit = np.spacing(mean)
        assert not varies(jnp.float32(unit**2), mean)
        assert varies(jnp.float32((4 * unit) ** 2), mean)
    assert varies(jnp.float32(1e-30), jnp.float32(0)) and not varies(jnp.zeros(()), jnp.zeros(()))
