"""Policy gradients by enumeration: whatever can happen is listed, and weighed by its chance."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.sequences import kl, optimum
from genjax_zoo.maths.sequences import policy_gradients as pg

KEY = jax.random.key(0)
Q = jnp.log(jnp.array([0.5, 0.3, 0.2]))
REWARD = jnp.array([1.0, 0.0, 2.0])
BETA = 0.5


# ------------------------------------------------------------------------------------ the optimum


def test_the_optimum_and_its_value():
    log_p, value = optimum.optimum(Q, REWARD, BETA)
    np.testing.assert_allclose(jnp.exp(log_p), [0.24772, 0.02012, 0.73217], atol=1e-5)
    assert float(value) == pytest.approx(1.351155, abs=1e-6)
    assert float(optimum.divergence(log_p, Q)) == pytest.approx(0.721790, abs=1e-6)
    objective = lambda log_p: jnp.exp(log_p) @ REWARD - BETA * optimum.divergence(log_p, Q)
    assert float(objective(log_p)) == pytest.approx(float(value), abs=1e-6)
    for other in jax.random.normal(KEY, (50, 3)):
        assert objective(jax.nn.log_softmax(other)) < value


def test_a_divergence_takes_no_notice_of_what_is_never_drawn():
    log_p = jnp.log(jnp.array([0.5, 0.5, 0.0]))
    assert float(optimum.divergence(log_p, Q)) == pytest.approx(
        0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.3), abs=1e-6
    )


def test_the_oracle_by_rejection():
    """Draws of q, accepted with exp((r - max r) / b), are drawn of the optimum."""
    chance = jnp.exp((REWARD - 2) / BETA)
    assert float(jnp.exp(Q) @ chance) == pytest.approx(0.27316, abs=1e-5)
    n = 40_000
    draws = jax.random.categorical(KEY, Q, shape=(n,))
    kept = optimum.accept(jax.random.key(1), REWARD[draws], 2.0, BETA)
    assert float(kept.mean()) == pytest.approx(0.27316, abs=4 * math.sqrt(0.27316 * 0.72684 / n))
    share = jnp.bincount(draws[kept], length=3) / kept.sum()
    exact = jnp.exp(optimum.optimum(Q, REWARD, BETA)[0])
    # Of the expected shares at most four standard errors away.
    assert (jnp.abs(share - exact) < 4 * jnp.sqrt(exact * (1 - exact) / kept.sum())).all()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_against_all_n_draws(n):
    """With ties: the stupid twin takes the first of the best of every tuple of draws."""
    q, reward = jnp.exp(Q), jnp.array([1.0, 2.0, 1.0])
    twin = np.zeros(3)
    for draws in itertools.product(range(3), repeat=n):
        best = max(draws, key=lambda x: reward[x])
        twin[best] += math.prod(float(q[x]) for x in draws)
    log_p = optimum.best_of_n(Q, reward, n)
    np.testing.assert_allclose(jnp.exp(log_p), twin, atol=1e-6)
    bound = math.log(n) - (n - 1) / n
    assert float(optimum.divergence(log_p, Q)) <= bound + 1e-6
    if n > 1:
        assert float(optimum.divergence(log_p, Q)) < bound - 0.01


def test_best_of_n_without_ties():
    """Two thousand values: KL log n - (n - 1) / n, reward quantile n / (n + 1)."""
    size = 2000
    log_q, order = jnp.full(size, -math.log(size)), jnp.arange(size) / size
    best_of_n = jax.jit(optimum.best_of_n)
    for n in (2, 4, 16):
        log_p = best_of_n(log_q, order, n)
        exact = math.log(n) - (n - 1) / n
        # In float32 the differences of powers of sums that are almost alike err by a thousandth.
        assert float(optimum.divergence(log_p, log_q)) == pytest.approx(exact, abs=5e-3)
        assert float(jnp.exp(log_p) @ order) == pytest.approx(n / (n + 1), abs=1e-3)


def test_best_of_n_normal_rewards():
    """E of the highest of n draws of N(0, 1): .5642, 1.0294, 1.7661."""
    line = jnp.linspace(-8, 8, 2001)
    log_q = jax.nn.log_softmax(-(line**2) / 2)
    for n, expected in [(2, 0.5642), (4, 1.0294), (16, 1.7661)]:
        log_p = optimum.best_of_n(log_q, line, n)
        assert float(jnp.exp(log_p) @ line) == pytest.approx(expected, abs=2e-3)


# ----------------------------------------------------------------------------- estimators of KL

THETA = jnp.array([0.3, -0.5, 0.1])


def _true_kls(theta):
    p = jax.nn.log_softmax(theta)
    return optimum.divergence(p, Q), optimum.divergence(Q, p)


def test_means_of_the_kl_estimators():
    p = jax.nn.log_softmax(THETA)
    mean = {name: float(jnp.exp(p) @ of(Q - p)) for name, of in kl.ESTIMATORS.items()}
    exact = float(_true_kls(THETA)[0])
    assert mean["k1"] == pytest.approx(exact, abs=1e-6)
    assert mean["k3"] == pytest.approx(exact, abs=1e-6)
    assert abs(mean["k2"] - exact) > 0.005
    assert (kl.k3(Q - p) >= 0).all() and (kl.k2(Q - p) >= 0).all() and (kl.k1(Q - p) < 0).any()


def test_gradients_of_the_kl_estimators_in_a_loss():
    """On-policy, draws held still: k1 gives 0, k2 KL(p, q)'s, k3 KL(q, p)'s."""
    p = jnp.exp(jax.nn.log_softmax(THETA))
    forward, backward = (jax.grad(lambda t, k=k: _true_kls(t)[k])(THETA) for k in (0, 1))
    assert float(jnp.abs(forward - backward).max()) > 0.01
    loss = lambda of: lambda theta: p @ of(Q - jax.nn.log_softmax(theta))
    for name, expected in [("k1", 0 * forward), ("k2", forward), ("k3", backward)]:
        got = jax.grad(loss(kl.ESTIMATORS[name]))(THETA)
        np.testing.assert_allclose(got, expected, atol=1e-6, err_msg=name)


def test_k3_of_almost_equal_distributions_is_not_lost_to_rounding():
    log_r = jnp.array([1e-3, -1e-3])
    np.testing.assert_allclose(kl.k3(log_r), [5.0017e-7, 4.9983e-7], rtol=1e-3)


# --------------------------------------------------------------- the estimators, by enumeration
#
# A policy of one symbol with logits θ; every outcome of G draws is listed, and the expectation of
# the loss's gradient is a sum over outcomes.


@functools.cache
def _expectation(config, symbols):
    """(θ, r, log q or None) -> the gradient, compiled once for an estimator."""
    estimator = pg.make(config)
    outcomes = jnp.array(list(itertools.product(range(symbols), repeat=config.group)))

    def of_outcome(draws, theta, reward, log_q):
        x, log_p = draws[:, None], jax.nn.log_softmax(theta)
        known = pg.Worth(
            reward=reward[x],
            mask=jnp.ones_like(reward[x]),
            log_prob=log_p[x],
            reference=None if log_q is None else log_q[x],
        )
        judged, _, _ = estimator.judge(estimator.begin(), known)

        def loss(theta):
            return estimator.loss(jax.nn.log_softmax(theta)[x], None, known, judged)[0]

        return jnp.exp(log_p[draws].sum()) * jax.grad(loss)(theta)

    each = jax.vmap(of_outcome, (0, None, None, None))
    return jax.jit(lambda *given: -each(outcomes, *given).sum(0))


def expected_gradient(config, theta, reward, log_q=None):
    """-∇ of the loss at its first pass, in the mean over all outcomes of a group."""
    return _expectation(config, len(theta))(theta, reward, log_q)


def coin(p):
    """Logits of a coin whose success, worth 1, has the chance p: the second logit is 0."""
    return jnp.array([math.log(p / (1 - p)), 0.0]), jnp.array([1.0, 0.0])


def of_coin(p, **fields):
    theta, reward = coin(p)
    return float(expected_gradient(pg.Config(**fields), theta, reward)[0])


@pytest.mark.parametrize("p", [0.5, 0.2, 0.9])
def test_the_policy_gradient_on_a_coin(p):
    truth = p * (1 - p)
    near = lambda value: pytest.approx(value, rel=1e-4)
    assert of_coin(p, name="reinforce", group=1) == near(truth)
    assert of_coin(p, name="ppo", group=1) == near(truth)
    for G in (2, 3, 5):
        assert of_coin(p, name="leave_one_out", group=G) == near(truth)
        assert of_coin(p, name="group_relative", group=G) == near((1 - 1 / G) * truth)
    population = lambda G: of_coin(p, name="group_relative", deviation="population", group=G)
    assert population(2) == near(truth)
    sample = of_coin(p, name="group_relative", deviation="sample", group=2)
    assert sample == near(truth / math.sqrt(2))
    limit = math.sqrt(p * (1 - p))
    assert truth < population(4) < population(8) < limit


def test_the_limit_of_the_population_deviation():
    """sqrt(p (1 - p)) as G grows: for G = 400 by the binomial sum over how many of them succeed."""
    p, G = 0.3, 400
    k = np.arange(G + 1)
    log_chance = np.array([math.lgamma(G + 1) - math.lgamma(j + 1) - math.lgamma(G - j + 1)
                           for j in k]) + k * math.log(p) + (G - k) * math.log1p(-p)  # fmt: skip
    advantage = jax.vmap(lambda k: pg.group_relative(
        jnp.where(jnp.arange(G) < k, 1.0, 0.0)[None], "population")[0])(k)  # fmt: skip
    score = np.where(np.arange(G) < k[:, None], 1 - p, -p)
    mean = np.exp(log_chance) @ np.mean(np.asarray(advantage) * score, axis=1)
    assert mean == pytest.approx(math.sqrt(p * (1 - p)), rel=3e-3)


def test_a_moving_baseline_leaves_the_mean_as_it_is():
    """It is what earlier steps were worth, which these draws have no part in."""
    estimator = pg.make(pg.Config(name="reinforce", group=1, baseline=0.5))
    worth = lambda r: pg.Worth(jnp.full((4, 1), r), jnp.ones((4, 1)), jnp.zeros((4, 1)))
    memory, means = estimator.begin(), []
    for r in (1.0, 3.0, 0.0):
        means.append(float(memory.mean))
        _, memory, info = estimator.judge(memory, worth(r))
        assert float(info["baseline"]) == means[-1]
    # 0 before anything, then the debiased averages of 1 and of 1, 3.
    np.testing.assert_allclose(means, [0.0, 1.0, (0.25 * 1 + 0.5 * 3) / 0.75], rtol=1e-6)
    judged, _, _ = estimator.judge(memory, worth(2.0))
    np.testing.assert_allclose(judged.advantage, 2 - float(memory.mean), rtol=1e-6)
    none = pg.make(pg.Config(name="reinforce", group=1, baseline=0.0))
    _, memory, _ = none.judge(none.begin(), worth(5.0))
    without, _, _ = none.judge(memory, worth(2.0))
    np.testing.assert_allclose(without.advantage, 2.0)


@pytest.mark.parametrize("deviation", ["none", "population", "sample"])
@pytest.mark.parametrize("reward", [0.1, -3.3333, 1e6])
def test_a_group_of_equal_rewards_teaches_nothing(deviation, reward):
    for name, size in [("group_relative", 3), ("leave_one_out", 3), ("group_relative", 7)]:
        config = pg.Config(name=name, group=size, deviation=deviation)
        theta = jnp.array([0.3, -0.2])
        got = expected_gradient(config, theta, jnp.full(2, reward))
        np.testing.assert_array_equal(got, 0.0)


@pytest.mark.parametrize(
    ("kind", "where", "exact"),
    [
        ("k1", "reward", True),
        ("k1", "weighted", True),
        ("k2", "loss", True),
        ("k3", "weighted", True),
        ("k3", "loss", False),
        ("k3", "reward", False),
        ("k2", "reward", False),
    ],
)
def test_which_penalties_give_the_gradient_of_reward_less_kl(kind, where, exact):
    def objective(theta):
        log_p = jax.nn.log_softmax(theta)
        return jnp.exp(log_p) @ REWARD - BETA * optimum.divergence(log_p, Q)

    truth = jax.grad(objective)(THETA)
    config = pg.Config(name="leave_one_out", group=2, beta=BETA, kl=kind, kl_in=where)
    got = expected_gradient(config, THETA, REWARD, Q)
    apart = float(jnp.abs(got - truth).max())
    assert apart < 1e-5 if exact else apart > 5e-3


def test_the_gradient_of_k3_in_the_loss_is_that_of_the_other_divergence():
    config = pg.Config(name="leave_one_out", group=2, beta=BETA, kl="k3", kl_in="loss")
    got = expected_gradient(config, THETA, REWARD, Q)
    expected = jax.grad(lambda t: jnp.exp(jax.nn.log_softmax(t)) @ REWARD - BETA * _true_kls(t)[1])
    np.testing.assert_allclose(got, expected(THETA), atol=1e-5)


@pytest.mark.parametrize("name", ["reinforce", "leave_one_out", "ppo", "group_relative"])
def test_at_the_optimum_nothing_moves(name):
    """r - b log(p / q) is b log Z whatever is drawn: every advantage of a group is 0."""
    theta = optimum.optimum(Q, REWARD, BETA)[0]
    config = pg.Config(name=name, group=2, beta=BETA)
    np.testing.assert_allclose(expected_gradient(config, theta, REWARD, Q), 0, atol=1e-6)


# ------------------------------------------------------------------------- strings of two symbols


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "reinforce", "group": 1},
        {"name": "ppo", "group": 1, "decay": 1.0},
        {"name": "leave_one_out", "group": 2},
    ],
    ids=lambda fields: fields["name"],
)
def test_the_gradient_of_a_policy_of_two_symbols(fields):
    """Of all logits of all prefixes, with the penalty of a reference: T times the loss's own."""
    V, T, G = 2, 2, fields["group"]
    theta = jax.random.normal(KEY, (3, V))
    log_q = jax.nn.log_softmax(jax.random.normal(jax.random.key(1), (3, V)))
    strings = jnp.array(list(itertools.product(range(V), repeat=T)))
    reward = jnp.array([0.3, 1.0, -0.5, 2.0])

    def symbols(table, x):
        rows = jnp.stack([jnp.zeros(len(x), int), 1 + x[:, 0]], axis=1)
        return table[rows, x]

    def objective(theta):
        log_p = symbols(jax.nn.log_softmax(theta), strings).sum(1)
        return jnp.exp(log_p) @ reward - BETA * optimum.divergence(
            log_p, symbols(log_q, strings).sum(1)
        )

    estimator = pg.make(pg.Config(beta=BETA, **fields))
    log_p = symbols(jax.nn.log_softmax(theta), strings)

    def of_outcome(which):
        x, mask = strings[which], jnp.ones((G, T))
        known = pg.Worth(pg.at_end(reward[which], mask), mask, log_p[which], symbols(log_q, x))
        judged, _, _ = estimator.judge(estimator.begin(), known)
        loss = lambda t: estimator.loss(symbols(jax.nn.log_softmax(t), x), None, known, judged)[0]
        return jnp.exp(log_p[which].sum()) * jax.grad(loss)(theta)

    outcomes = jnp.array(list(itertools.product(range(len(strings)), repeat=G)))
    got = -jax.jit(jax.vmap(of_outcome))(outcomes).sum(0) * T
    np.testing.assert_allclose(got, jax.grad(objective)(theta), atol=1e-5)


# -------------------------------------------------------------------------------------- the parts


def test_generalised_advantages():
    ones, zeros = jnp.ones((1, 3)), jnp.zeros((1, 3))
    got = pg.generalised_advantages(ones, zeros, ones, 0.9, 0.5)
    np.testing.assert_allclose(got, [[1.6525, 1.45, 1.0]], rtol=1e-6)


def test_generalised_advantages_against_the_double_sum_with_an_end_of_its_own():
    rng = np.random.default_rng(0)
    reward, value = rng.normal(size=(2, 4, 5)).astype(np.float32)
    ends = [5, 3, 1, 4]
    mask = (np.arange(5) < np.array(ends)[:, None]).astype(np.float32)
    reward *= mask
    got = pg.generalised_advantages(jnp.array(reward), jnp.array(value), jnp.array(mask), 0.8, 0.6)
    for a, end in enumerate(ends):
        after = [*value[a, :end], 0.0]
        delta = [reward[a, t] + 0.8 * after[t + 1] - after[t] for t in range(end)]
        twin = [sum((0.8 * 0.6) ** (s - t) * delta[s] for s in range(t, end)) for t in range(end)]
        np.testing.assert_allclose(got[a, :end], twin, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got[a, end:], 0)


def test_a_reward_is_paid_for_the_last_symbol_that_was_chosen():
    mask = jnp.array([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1.0]])
    paid = pg.at_end(jnp.array([2.0, 3.0, 4.0]), mask)
    np.testing.assert_array_equal(paid, [[0, 0, 2, 0], [0, 0, 0, 3], [0, 0, 0, 4]])


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.0, 2.0, 2.0),
        (1.3, 2.0, 0.0),  # beyond, and pushed farther
        (0.7, 2.0, 2.0),  # beyond on the other side: it may come back
        (0.7, -2.0, 0.0),
        (1.3, -2.0, -2.0),
    ],
)
def test_beyond_the_clip_the_gradient_is_0_only_on_the_side_that_is_pushed_to(
    ratio, advantage, slope
):
    of = lambda log_ratio: pg.clipped(log_ratio, jnp.float32(advantage), 0.2)
    got = jax.grad(of)(jnp.log(jnp.float32(ratio)))
    assert float(got) == pytest.approx(slope * ratio, rel=1e-5)
    free = jax.grad(lambda r: pg.clipped(r, jnp.float32(advantage), 0.0))
    assert float(free(jnp.log(jnp.float32(ratio)))) == pytest.approx(advantage * ratio, rel=1e-5)


def test_the_loss_is_divided_by_a_constant_and_not_by_an_answers_own_length():
    """Two answers of one advantage, of one symbol and of four: each symbol weighs the same."""
    estimator = pg.make(pg.Config(name="reinforce", group=1))
    mask = jnp.array([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    known = pg.Worth(pg.at_end(jnp.ones(2), mask), mask, jnp.zeros((2, 4)))
    judged, _, _ = estimator.judge(estimator.begin(), known)
    slope = jax.grad(lambda now: estimator.loss(now, None, known, judged)[0])(jnp.zeros((2, 4)))
    np.testing.assert_allclose(slope, -mask / 8)


def test_the_first_minibatch_of_ppo():
    """Every ratio is 1, and the loss is the mean advantage but for its sign."""
    estimator = pg.make(pg.Config(name="ppo", group=1, value_weight=0.0, passes=3))
    k = jax.random.split(KEY, 3)
    now, value = jax.random.normal(k[0], (4, 5)), jax.random.normal(k[1], (4, 5))
    mask = jnp.ones((4, 5))
    known = pg.Worth(jax.random.normal(k[2], (4, 5)), mask, now, None, value)
    judged, _, _ = estimator.judge(estimator.begin(), known)
    loss, info = estimator.loss(now, value, known, judged)
    assert float(loss) == pytest.approx(-float(judged.advantage.mean()), rel=1e-6)
    assert float(info["clipped"]) == 0


def test_a_value_function_learns_the_returns():
    """½ c (V - (A + V_old))², beside a policy that it does not touch."""
    estimator = pg.make(pg.Config(name="ppo", group=1, decay=1.0, value_weight=0.5))
    mask, old = jnp.array([[1.0, 1, 0]]), jnp.array([[0.3, 0.2, 9.0]])
    known = pg.Worth(jnp.array([[1.0, 2, 0]]), mask, jnp.zeros((1, 3)), None, old)
    judged, _, _ = estimator.judge(estimator.begin(), known)
    np.testing.assert_allclose(judged.returns[0, :2], [3.0, 2.0], rtol=1e-6)
    of = lambda value: estimator.loss(jnp.zeros((1, 3)), value, known, judged)[0]
    np.testing.assert_allclose(
        jax.grad(of)(old), 0.5 * np.array([[0.3 - 3, 0.2 - 2, 0]]) / 3, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "leave_one_uot"}, "Did you mean 'leave_one_out'"),
        ({"name": "leave_one_out", "group": 1}, "set group to at least 2, got 1"),
        ({"name": "group_relative", "group": 1}, "set group to at least 2"),
        ({"kl": "k1", "kl_in": "loss"}, "hold nothing"),
        ({"beta": 0.0}, "beta should be positive"),
        ({"clip": 1.0}, r"clip should be in \[0, 1\)"),
        ({"passes": 0}, r"passes should be in \[1, 1000\]"),
    ],
)
def test_bad_estimators_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        pg.Config(**fields)
