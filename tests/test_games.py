"""The dynamics against dense Jacobians, the bilinear game and the Dirac-GAN's closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths import games

KEY = jax.random.key(0)


def _game(loss_x, loss_y):
    """A game of two scalars as the losses of two players, who carry the usual names."""

    def losses(key, params, memory, batch):
        x, y = params["generator"], params["discriminator"]
        return {"generator": loss_x(x, y), "discriminator": loss_y(x, y)}, (memory, {})

    return losses


BILINEAR = _game(lambda x, y: x * y, lambda x, y: -x * y)


def _direction(losses, dynamics, params, key=KEY, batch=None):
    """d of θ ← θ - h d(θ), read off one step of plain gradient descent with h = 1."""
    begin, move = dynamics(losses, optax.sgd(1.0))
    after, *_ = move(key, params, (), begin(params), batch)
    return jax.tree.map(jnp.subtract, params, after)


def _run(losses, dynamics, params, h, steps):
    """The trajectory [steps + 1, 2] of plain gradient descent."""
    begin, move = dynamics(losses, optax.sgd(h))

    def one(carry, _):
        params, optimizer = carry
        params, _, optimizer, _ = move(KEY, params, (), optimizer, None)
        return (params, optimizer), ravel_pytree(params)[0]

    path = jax.lax.scan(one, (params, begin(params)), None, steps)[1]
    return np.concatenate([ravel_pytree(params)[0][None], path])


def _at(x, y):
    return {"generator": jnp.asarray(x), "discriminator": jnp.asarray(y)}


# A game of two small networks, with noise, so that nothing about it is symmetric.


def _networks(key):
    k = jax.random.split(key, 4)
    return {
        "generator": {"W": jax.random.normal(k[0], (3, 2)), "b": jax.random.normal(k[1], (2,))},
        "discriminator": {"U": jax.random.normal(k[2], (2, 4)), "v": jax.random.normal(k[3], (4,))},
    }


def _adversarial(key, params, memory, batch):
    g, d = params["generator"], params["discriminator"]
    fake = jnp.tanh(jax.random.normal(key, (len(batch), 3)) @ g["W"] + g["b"])
    logit = lambda x: jnp.tanh(x @ d["U"]) @ d["v"]
    L_D = jnp.mean(jax.nn.softplus(-logit(batch)) + jax.nn.softplus(logit(fake)))
    L_G = jnp.mean(jax.nn.softplus(-logit(fake)))
    return {"generator": L_G, "discriminator": L_D}, (memory, {})


BATCH = jax.random.normal(jax.random.key(5), (8, 2))


def _own_gradients(params, key=KEY, batch=None):
    """The field, stupidly: one gradient a player, each of its own loss alone."""
    return {
        player: jax.grad(
            lambda own, player=player: _adversarial(
                key, {**params, player: own}, (), BATCH if batch is None else batch
            )[0][player]
        )(params[player])
        for player in params
    }


def test_the_field_is_each_players_own_gradient():
    params = _networks(jax.random.key(1))
    g, (_, info) = games.field(_adversarial)(KEY, params, (), BATCH)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), g, _own_gradients(params)
    )
    values = _adversarial(KEY, params, (), BATCH)[0]
    assert info["loss_generator"] == values["generator"]
    assert info["loss_discriminator"] == values["discriminator"]


def test_simultaneous_moves_along_the_field():
    params = _networks(jax.random.key(2))
    d = _direction(_adversarial, games.simultaneous(), params, batch=BATCH)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, d, _own_gradients(params))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 10.0])
def test_consensus_moves_along_g_plus_gamma_times_the_dense_jacobian_transposed_g(gamma):
    params = _networks(jax.random.key(3))
    flat, unravel = ravel_pytree(params)
    g = lambda theta: ravel_pytree(_own_gradients(unravel(theta)))[0]
    J = jax.jacfwd(g)(flat)
    # d = g + γ Jᵀ g, whose second term is the gradient of the whole scalar ½‖g‖²
    expected = g(flat) + gamma * J.T @ g(flat)
    whole = g(flat) + gamma * jax.grad(lambda t: jnp.sum(g(t) ** 2) / 2)(flat)
    np.testing.assert_allclose(whole, expected, rtol=1e-3, atol=1e-5)
    d = ravel_pytree(_direction(_adversarial, games.consensus(gamma), params, batch=BATCH))[0]
    np.testing.assert_allclose(d, expected, rtol=1e-3, atol=2e-5)
    if gamma:
        # Neither player's own block alone would do: the rotation lives off the diagonal.
        first = jnp.arange(len(flat)) < len(ravel_pytree(params["discriminator"])[0])
        blocks = jnp.where(first[:, None] == first, J, 0)
        assert not np.allclose(d, g(flat) + gamma * blocks.T @ g(flat), rtol=1e-2, atol=1e-3)


def test_consensus_tells_the_fields_norm():
    params = _networks(jax.random.key(4))
    begin, move = games.consensus(1.0)(_adversarial, optax.sgd(0.1))
    *_, info = move(KEY, params, (), begin(params), BATCH)
    flat = ravel_pytree(_own_gradients(params))[0]
    assert abs(info["field_norm"] - jnp.linalg.norm(flat)) < 1e-5


def test_alternating_shows_each_player_the_last_ones_move():
    h, params = 0.1, _networks(jax.random.key(6))
    begin, move = games.alternating(k=2)(_adversarial, optax.sgd(h))
    after, *_ = move(KEY, params, (), begin(params), BATCH)
    # Each move of the first player sees a half of the batch of its own.
    for turn, (player, part) in enumerate(
        [("discriminator", 0), ("discriminator", 1), ("generator", 0)]
    ):
        seen = BATCH[part::2]
        g = _own_gradients(params, jax.random.fold_in(KEY, turn), seen)[player]
        params = {**params, player: jax.tree.map(lambda p, d: p - h * d, params[player], g)}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, after, params)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_symplectic_adjustment_moves_along_g_plus_the_antisymmetric_part_transposed_g(gamma, align):
    params = _networks(jax.random.key(8))
    flat, unravel = ravel_pytree(params)
    g = lambda theta: ravel_pytree(_own_gradients(unravel(theta)))[0]
    xi, J = g(flat), jax.jacfwd(g)(flat)
    adjustment = (J - J.T).T @ xi / 2
    sign = np.sign((xi @ J.T @ xi) * (adjustment @ J.T @ xi) / len(xi) + 0.1) if align else 1
    d = ravel_pytree(_direction(_adversarial, games.symplectic(gamma, align), params, batch=BATCH))[
        0
    ]
    np.testing.assert_allclose(d, xi + sign * gamma * adjustment, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, -1.0)])
def test_the_sign_criterion_pulls_to_stable_and_pushes_from_unstable_fixed_points(sign, expected):
    # x² and y² make the origin stable, -x² and -y² unstable; the bilinear term turns about it.
    losses = _game(
        lambda x, y: sign * 5 * x**2 + 20 * x * y, lambda x, y: sign * 5 * y**2 - 20 * x * y
    )
    params = _at(1.0, 1.0)
    begin, move = games.symplectic(1.0)(losses, optax.sgd(0.1))
    *_, info = move(KEY, params, (), begin(params), None)
    assert info["adjustment_sign"] == expected


def test_extragradient_moves_by_the_field_a_step_ahead():
    h, params = 0.1, _networks(jax.random.key(9))
    begin, move = games.extragradient()(_adversarial, optax.sgd(h))
    after, *_ = move(KEY, params, (), begin(params), BATCH)
    ahead = jax.tree.map(lambda p, g: p - h * g, params, _own_gradients(params))
    expected = jax.tree.map(lambda p, g: p - h * g, params, _own_gradients(ahead))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, after, expected)


@pytest.mark.parametrize("tx", [optax.sgd(0.1), optax.adam(0.05)], ids=["sgd", "adam"])
def test_optimism_doubles_this_update_and_takes_the_last_one_back(tx):
    losses, params = BILINEAR, _at(0.6, -0.8)
    begin, move = games.optimistic()(losses, tx)
    state, path = begin(params), [ravel_pytree(params)[0]]
    for _ in range(4):
        params, _, state, _ = move(KEY, params, (), state, None)
        path.append(ravel_pytree(params)[0])
    # By hand, from Daskalakis et al. 2018, algorithm 1.
    theta, own, last = path[0], None, None
    unravel = ravel_pytree(params)[1]
    for expected in path[1:]:
        at = unravel(theta)
        g = games.field(losses)(KEY, at, (), None)[0]
        own = own or {player: tx.init(at[player]) for player in at}
        u = {}
        for player in at:
            u[player], own[player] = tx.update(g[player], own[player], at[player])
        u = ravel_pytree(u)[0]
        theta = theta + 2 * u - (u if last is None else last)
        last = u
        np.testing.assert_allclose(theta, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["extragradient", "optimistic", "symplectic"])
def test_bilinear_games_are_settled_by_what_looks_ahead(name):
    path = _run(BILINEAR, games.make(games.Config(name, gamma=1.0)), _at(0.6, -0.8), 0.2, 1000)
    assert np.linalg.norm(path[-1]) < 1e-3


def test_players_may_have_optimizers_of_their_own():
    params = _networks(jax.random.key(10))
    tx = {"generator": optax.sgd(0.1), "discriminator": optax.sgd(0.0)}
    begin, move = games.simultaneous()(_adversarial, tx)
    after, *_ = move(KEY, params, (), begin(params), BATCH)
    assert jnp.all(after["discriminator"]["U"] == params["discriminator"]["U"])
    assert jnp.any(after["generator"]["W"] != params["generator"]["W"])


def test_each_player_remembers_its_own_moves():
    def losses(key, params, memory, batch):
        lowered, (_, info) = BILINEAR(key, params, (), batch)
        return lowered, ({player: count + 1 for player, count in memory.items()}, info)

    params, memory = _at(0.6, -0.8), {"generator": jnp.zeros(()), "discriminator": jnp.zeros(())}
    begin, move = games.alternating(k=3)(losses, optax.sgd(0.1))
    _, memory, _, info = move(KEY, params, memory, begin(params), {"x": jnp.zeros((6, 1))})
    assert memory == {"generator": 1, "discriminator": 3}
    assert set(info) == {"loss_generator", "loss_discriminator"}


@pytest.mark.parametrize("dynamics", games.DYNAMICS)
def test_every_player_has_its_own_optimizer_state_and_trees_stay_as_they_are(dynamics):
    params = _networks(jax.random.key(7))
    begin, move = games.make(games.Config(dynamics))(_adversarial, optax.adam(1e-2))
    optimizer = begin(params)
    after, memory, kept, info = move(KEY, params, (), optimizer, BATCH)
    assert jax.tree.structure(after) == jax.tree.structure(params) and memory == ()
    assert jax.tree.structure(kept) == jax.tree.structure(optimizer)
    # Extragradient's look ahead goes through the optimizer as well.
    moves = {"extragradient": 2}.get(dynamics, 1)
    own = kept.get("own", kept)
    assert own["generator"][0].count == own["discriminator"][0].count == moves
    assert {"loss_generator", "loss_discriminator"} <= set(info)


# The bilinear game, min_x max_y x y, whose only equilibrium is the origin.


def test_bilinear_simultaneous_spirals_out_by_exactly_its_modulus():
    h, steps = 0.1, 200
    path = _run(BILINEAR, games.simultaneous(), _at(0.6, -0.8), h, steps)
    radius = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(radius[1:] / radius[:-1], np.sqrt(1 + h**2), rtol=1e-5)
    assert radius[-1] > 2.5


def test_bilinear_consensus_arrives():
    # d = (y + γ x, -x + γ y), so that the modulus is |1 - h γ + i h|
    h, gamma = 0.1, 1.0
    path = _run(BILINEAR, games.consensus(gamma), _at(0.6, -0.8), h, 200)
    radius = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(radius[1:] / radius[:-1], abs(1 - h * gamma + 1j * h), rtol=1e-4)
    assert radius[-1] < 1e-4


def test_bilinear_alternating_stays_on_an_ellipse():
    h = 0.1
    path = _run(BILINEAR, games.alternating(), _at(0.6, -0.8), h, 2000)
    # In turn, y first: x² + y² + h x y is what the two moves together leave unchanged.
    y, x = path.T
    conserved = x**2 + y**2 + h * x * y
    np.testing.assert_allclose(conserved, conserved[0], rtol=1e-3)
    radius = np.linalg.norm(path, axis=1)
    assert radius.min() > 0.9 and radius.max() < 1.1


# The Dirac-GAN (Mescheder, Geiger & Nowozin 2018): data at 0, G makes θ, the logit of D is ψ x,
# and f(t) = -log(1 + exp(-t)), so that f'(0) = 1/2 and f''(0) = -1/4. Equilibrium at (0, 0).

_f = lambda t: -jnp.logaddexp(0.0, -t)
DIRAC = {
    "gan": _game(lambda x, y: _f(-x * y), lambda x, y: -_f(0.0) - _f(-x * y)),
    "non_saturating": _game(lambda x, y: -_f(x * y), lambda x, y: -_f(0.0) - _f(-x * y)),
    "wgan": _game(lambda x, y: -x * y, lambda x, y: x * y),
}


def _eigenvalues(losses, dynamics):
    """Of the Jacobian of v = -d at the equilibrium, by increasing imaginary part."""
    flat, unravel = ravel_pytree(_at(0.0, 0.0))
    v = lambda theta: -ravel_pytree(_direction(losses, dynamics, unravel(theta)))[0]
    values = np.linalg.eigvals(np.asarray(jax.jacobian(v)(flat), np.float64))
    return values[np.argsort(values.imag)]


@pytest.mark.parametrize(
    ("loss", "dynamics", "expected"),
    [
        ("gan", games.simultaneous(), 0.5j),
        ("non_saturating", games.simultaneous(), 0.5j),
        ("wgan", games.simultaneous(), 1j),
        *[("gan", games.consensus(g), -g / 4 + 0.5j) for g in (0.3, 1.0, 4.0)],
        *[("non_saturating", games.consensus(g), -g / 4 + 0.5j) for g in (0.3, 1.0, 4.0)],
    ],
)
def test_dirac_gan_eigenvalues_are_the_closed_forms(loss, dynamics, expected):
    values = _eigenvalues(DIRAC[loss], dynamics)
    np.testing.assert_allclose(values, [np.conj(expected), expected], atol=1e-6)


def test_dirac_gan_simultaneous_at_a_fifth_has_the_known_modulus():
    values = 1 + 0.2 * _eigenvalues(DIRAC["gan"], games.simultaneous())
    np.testing.assert_allclose(np.abs(values), 1.00499, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "consensu"}, "Did you mean 'consensus'"),
        ({"name": "consensus", "gamma": -1.0}, "dynamics: gamma should be not negative, got -1"),
        ({"name": "alternating", "k": 0}, r"dynamics: k should be in \[1, 1000\], got 0"),
        ({"name": "symplectic", "gamma": -1.0}, "dynamics: gamma should be not negative"),
    ],
)
def test_bad_dynamics_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        games.Config(**fields)


def test_parts_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ConfigError, match=r"5 moves .* batch of 8"):
        games.part_of({"x": jnp.zeros((8, 2))}, 0, 5)
