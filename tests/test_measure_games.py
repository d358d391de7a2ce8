"""The numerics of games against closed forms: bilinear, quadratic, and the Dirac-GANs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_zoo import nets
from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.maths import games
from genjax_zoo.maths.games import objectives
from genjax_zoo.measure import games as numerics
from genjax_zoo.models import gan

KEY = jax.random.key(0)


def two(x, y, loss_x, loss_y):
    """The field of a game of two scalars at (x, y); vectors are (y, x), discriminator first."""
    return numerics.flatten(*_two(x, y, loss_x, loss_y))


def _two(x, y, loss_x, loss_y):
    def losses(key, params, memory, batch):
        x, y = params["generator"], params["discriminator"]
        return {"generator": loss_x(x, y), "discriminator": loss_y(x, y)}, (memory, {})

    at = {"generator": jnp.asarray(float(x)), "discriminator": jnp.asarray(float(y))}
    return losses, KEY, at, (), {}


BILINEAR = _two(0, 0, lambda x, y: x * y, lambda x, y: -x * y)


def pair(z):
    """z and its conjugate, the upper one first."""
    return np.array([z, np.conj(z)])


def moved(game, dynamics, h):
    losses, *rest = game
    return numerics.update(losses, dynamics, h, *rest)


def same(values, expected, atol=1e-4):
    """As sets."""
    values, expected = list(np.asarray(values)), np.asarray(expected)
    assert len(values) == len(expected)
    for z in expected:
        nearest = min(values, key=lambda w: abs(w - z))
        assert abs(nearest - z) < atol, f"{z} is not among {values}"
        values.remove(nearest)


# The bilinear game min_x max_y x y: v = (-y, x), v' has the eigenvalues ± i.


def test_bilinear_field_and_eigenvalues():
    flat = two(3, 2, lambda x, y: x * y, lambda x, y: -x * y)
    np.testing.assert_allclose(flat.at, [2, 3])  # the discriminator is y
    np.testing.assert_allclose(flat.function(flat.at), [3, -2])
    assert flat.ranges == {"discriminator": slice(0, 1), "generator": slice(1, 2)}
    np.testing.assert_allclose(numerics.jacobian(flat), [[0, 1], [-1, 0]])
    same(numerics.eigenvalues(flat), pair(1j))


@pytest.mark.parametrize("h", [0.1, 0.5])
@pytest.mark.parametrize(
    ("dynamics", "multipliers"),
    [
        # μ = 1 + h λ, of modulus √(1 + h²)
        (games.simultaneous(), lambda h: pair(1 + 1j * h)),
        # (y, then x): [[1, h], [-h, 1 - h²]], of determinant 1: a pair on the unit circle while
        # the trace 2 - h² > -2
        (games.alternating(), lambda h: pair(1 - h**2 / 2 + 1j * h * np.sqrt(1 - h**2 / 4))),
        # 1 + h λ (1 + h λ) = 1 - h² + i h, of modulus √(1 - h² + h⁴)
        (games.extragradient(), lambda h: pair(1 - h**2 + 1j * h)),
        # -d = v - γ ∇½‖v‖², whose eigenvalues are -γ ± i
        (games.consensus(0.6), lambda h: pair(1 - 0.6 * h + 1j * h)),
        # Aᵀg = JᵀJθ as in consensus, for J is antisymmetric here; at 0 the sign is +
        (games.symplectic(0.6), lambda h: pair(1 - 0.6 * h + 1j * h)),
        # θ' = θ + 2 h λ θ - u, u' = h λ θ:  μ² = μ (1 + 2 h λ) - h λ  for λ = ± i
        (
            games.optimistic(),
            lambda h: np.concatenate(
                [np.roots([1, -(1 + 2j * s * h), 1j * s * h]) for s in (1, -1)]
            ),
        ),
    ],
    ids=["simultaneous", "alternating", "extragradient", "consensus", "symplectic", "optimistic"],
)
def test_bilinear_maps_of_every_dynamics(dynamics, multipliers, h):
    flat = moved(BILINEAR, dynamics, h)
    same(numerics.eigenvalues(flat), multipliers(h), atol=1e-6)
    # The map is the move itself, from anywhere.
    begin, move = dynamics(BILINEAR[0], optax.sgd(h))
    params = {"generator": jnp.asarray(0.3), "discriminator": jnp.asarray(-1.2)}
    once, _, optimizer, _ = move(KEY, params, (), begin(params), {})
    twice, *_ = move(KEY, once, (), optimizer, {})
    real = [x for x in jax.tree.leaves(optimizer) if x.dtype == jnp.float32]
    vector = jnp.stack([once["discriminator"], once["generator"], *real])
    np.testing.assert_allclose(
        flat.function(vector)[:2], [twice["discriminator"], twice["generator"]], rtol=1e-6
    )


def test_bilinear_moduli_are_the_known_ones_and_decide():
    h = 0.3
    radius = lambda d: numerics.spectral_radius(numerics.eigenvalues(moved(BILINEAR, d, h)))
    cases = {
        "simultaneous": (radius(games.simultaneous()), np.sqrt(1 + h**2), numerics.DIVERGES),
        "alternating": (radius(games.alternating()), 1.0, numerics.NEITHER),
        "extragradient": (
            radius(games.extragradient()),
            np.sqrt(1 - h**2 + h**4),
            numerics.CONVERGES,
        ),
    }
    for value, expected, verdict in cases.values():
        assert value == pytest.approx(expected, abs=1e-6)
        assert numerics.verdict(np.array([value])) == verdict
    assert radius(games.optimistic()) < 1  # h < 1 / √3
    assert numerics.convergence(pair(1j), h).verdict == numerics.DIVERGES
    assert numerics.convergence(pair(1j), h).largest_step == 0


# Quadratic games: player p lowers ½ θ_pᵀ A_pp θ_p + Σ_q θ_pᵀ A_pq θ_q, so that g = A θ for any A
# with symmetric diagonal blocks, and v' = -A.


def _quadratic(A, sizes=(3, 4)):
    A, n = jnp.asarray(A, jnp.float32), sizes[0]

    def losses(key, params, memory, batch):
        x, y = params["discriminator"], params["generator"]
        L_x = x @ A[:n, :n] @ x / 2 + x @ A[:n, n:] @ y
        L_y = y @ A[n:, n:] @ y / 2 + y @ A[n:, :n] @ x
        return {"discriminator": L_x, "generator": L_y}, (memory, {})

    at = {"discriminator": jnp.zeros(n), "generator": jnp.zeros(sizes[1])}
    return losses, KEY, at, (), {}


def _random_matrix(seed, sizes=(3, 4), antisymmetric=1.0, shift=0.0):
    """S + a R + shift I: symmetric and antisymmetric part, the latter off the blocks only."""
    n, N = sizes[0], sum(sizes)
    M = np.random.default_rng(seed).normal(size=(N, N)) / np.sqrt(N)
    S, R = (M + M.T) / 2, (M - M.T) / 2
    R[:n, :n] = R[n:, n:] = 0
    return S + antisymmetric * R + shift * np.eye(N)


@pytest.mark.parametrize("antisymmetric", [0.0, 1.0, 5.0])
def test_quadratic_jacobian_is_the_matrix(antisymmetric):
    A = _random_matrix(1, antisymmetric=antisymmetric)
    flat = numerics.flatten(*_quadratic(A))
    np.testing.assert_allclose(numerics.jacobian(flat), -A, atol=1e-6)
    # Nothing moves the Jacobian of a quadratic game.
    elsewhere = jnp.arange(7.0)
    np.testing.assert_allclose(numerics.jacobian(flat, elsewhere), -A, atol=1e-6)
    values = numerics.eigenvalues(flat)
    same(values, np.linalg.eigvals(-A), atol=1e-5)
    assert (np.abs(values[:-1]) >= np.abs(values[1:]) - 1e-6).all()
    if antisymmetric == 0:
        np.testing.assert_allclose(values.imag, 0, atol=1e-6)


@pytest.mark.parametrize("dynamics", ["simultaneous", "consensus", "extragradient", "alternating"])
def test_quadratic_verdict_is_what_the_dynamics_does(dynamics):
    A = _random_matrix(2, antisymmetric=3.0, shift=1.0)
    game = _quadratic(A)
    h = {"consensus": 0.05}.get(dynamics, 0.2)
    rule = games.make(games.Config(dynamics, gamma=1.0))
    flat = moved(game, rule, h)
    expected = {
        "simultaneous": np.eye(7) - h * A,
        "consensus": np.eye(7) - h * (A + A.T @ A),
        "extragradient": np.eye(7) - h * A @ (np.eye(7) - h * A),
        "alternating": _second_after_first(A, h, 3),
    }[dynamics]
    np.testing.assert_allclose(numerics.jacobian(flat), expected, atol=1e-5)
    multipliers = numerics.eigenvalues(flat)
    vector = jnp.ones(7)
    for _ in range(300):
        vector = flat.function(vector)
    size, radius = float(jnp.linalg.norm(vector)), numerics.spectral_radius(multipliers)
    assert abs(radius - 1) > 0.02, "the example should be one in which 300 moves decide"
    assert (size < 0.1) == (numerics.verdict(multipliers) == numerics.CONVERGES)
    assert (size > 10) == (numerics.verdict(multipliers) == numerics.DIVERGES)


def _second_after_first(A, h, n):
    """I - h A of the first player alone, and then of the second alone."""
    first, second = A.copy(), A.copy()
    first[n:], second[:n] = 0, 0
    return (np.eye(len(A)) - h * second) @ (np.eye(len(A)) - h * first)


def test_largest_step_is_where_the_spectral_radius_passes_1():
    A = _random_matrix(2, antisymmetric=3.0, shift=2.0)
    game = _quadratic(A)
    largest = numerics.convergence(numerics.eigenvalues(numerics.flatten(*game)), 0.1).largest_step
    assert 0 < largest < 1
    for factor, verdict in ((0.95, numerics.CONVERGES), (1.05, numerics.DIVERGES)):
        multipliers = numerics.eigenvalues(moved(game, games.simultaneous(), factor * largest))
        assert numerics.verdict(multipliers) == verdict
        found = numerics.convergence(-np.linalg.eigvals(A), factor * largest)
        assert found.verdict == verdict
        np.testing.assert_allclose(sorted(found.moduli), sorted(np.abs(multipliers)), atol=1e-5)


def test_one_eigenvalue_on_the_axis_allows_no_step():
    assert numerics.convergence(np.array([-1, 0]), 0.1).largest_step == 0
    assert numerics.convergence(np.array([-1, 0]), 0.1).verdict == numerics.NEITHER
    assert numerics.convergence(np.array([-1, -2]), 0.1).largest_step == pytest.approx(1)


# The Dirac-GANs (Mescheder, Geiger & Nowozin 2018): data at 0, G makes θ, a(x) = ψ x + b with b
# fixed. Equilibrium at θ = ψ = 0. There v' = [[-q, -c], [c, 0]] in (ψ, θ): c is how fast a(G) pulls
# either player, q the discriminator's own curvature. So λ² + q λ + c² = 0:
#
#     λ = -q/2 ± √(q²/4 - c²)
#
# f(t) = -log(1 + exp(-t)), f'(0) = ½, f''(0) = -¼:
#   minimax, non-saturating    D lowers -f(0) - f(-ψθ), G lowers f(-ψθ) or -f(ψθ); the slopes are
#                              f'(0) θ and -f'(0) ψ: c = ½
#   wasserstein                D lowers ψθ, G lowers -ψθ: c = 1
#   hinge                      D lowers relu(1 - 0) + relu(1 + ψθ), within the margins as
#                              wasserstein: c = 1
#   least squares              D lowers ½ (b - 1)² + ½ (ψθ + b)², G lowers ½ (ψθ + b - 1)²: slopes
#                              (ψθ + b) θ and (ψθ + b - 1) ψ. Only for b = ½, the a of a
#                              discriminator that cannot tell, do the players pull alike: c = ½.
#                              With b = 0 v' = [[0, 0], [1, 0]], and both eigenvalues are 0.
# What adds to q:
#   a zero-centred penalty γ/2 (∂a/∂x)² = γ/2 ψ²:   q = γ. Hence `adversarial`'s ½ E‖∇a‖² with the
#                                                   weight γ.
#   instance noise of variance s² on data and samples: in D's loss a is ψ ε and ψ (θ + ε'), so that
#     q = s² (curvature of the loss of data + of samples):  s²/2 for the first two, 2 s² of least
#     squares, 0 where the loss is straight
# Consensus adds -γ v'ᵀv' = -γ c² I to v':  λ = -γ c² ± i c.

SLOPE = {
    "minimax": 0.5,
    "non_saturating": 0.5,
    "least_squares": 0.5,
    "wasserstein": 1.0,
    "hinge": 1.0,
}
NOISE_CURVATURE = {"minimax": 0.5, "non_saturating": 0.5, "least_squares": 2.0}
EVEN = {"least_squares": 0.5}  # b: what a says where it cannot tell


def dirac(objective, noise=0.0, b=None, at=(0.0, 0.0)):
    """The Dirac-GAN of any objectives.Config; `noise` is s², `at` is (θ, ψ)."""
    b = EVEN.get(objective.name, 0.0) if b is None else b
    # Noise of two points, ± s: of the noise only its variance matters here.
    epsilon = np.sqrt(noise) * jnp.array([[1.0], [-1.0]])

    def losses(key, params, memory, batch):
        theta, psi = params["generator"], params["discriminator"]
        critic = lambda x: psi * x[:, 0] + b
        real, fake = epsilon, theta + epsilon
        lowered, info = objective.losses(key, critic, (critic(real), critic(fake)), (real, fake))
        return lowered, (memory, info)

    params = {"generator": jnp.asarray(at[0]), "discriminator": jnp.asarray(at[1])}
    return losses, KEY, params, (), {}


def roots(q, c):
    return np.roots([1, q, c**2])


def test_every_objective_has_its_closed_form_below():
    assert set(SLOPE) == set(objectives.OBJECTIVES)


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_dirac_gan_turns(name):
    game, c = dirac(objectives.Config(name)), SLOPE[name]
    flat = numerics.flatten(*game)
    np.testing.assert_allclose(flat.function(flat.at), 0, atol=1e-7)
    same(numerics.eigenvalues(flat), pair(1j * c))
    found = numerics.convergence(numerics.eigenvalues(flat), 0.2)
    assert found.verdict == numerics.DIVERGES and found.largest_step == 0
    np.testing.assert_allclose(found.moduli, np.sqrt(1 + (0.2 * c) ** 2), atol=1e-6)
    assert numerics.nash(flat).verdict == numerics.UNDECIDED


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
@pytest.mark.parametrize("penalty", ["r1", "r2", "interpolated"])
@pytest.mark.parametrize("weight", [0.3, 4.0])
def test_dirac_gan_with_a_zero_centred_penalty_converges(name, penalty, weight):
    game = dirac(objectives.Config(name, **{penalty: weight}))
    values = numerics.eigenvalues(numerics.flatten(*game))
    same(values, roots(weight, SLOPE[name]))
    assert numerics.convergence(values, 0.05).verdict == numerics.CONVERGES
    if SLOPE[name] == 0.5:  # as REFERENCES states it: -g/2 ± √(g²/4 - 1/4)
        root = np.sqrt(complex(weight**2 / 4 - 1 / 4))
        same(values, [-weight / 2 + root, -weight / 2 - root])


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
@pytest.mark.parametrize("variance", [0.3, 3.0])
def test_dirac_gan_with_instance_noise(name, variance):
    b = 0.0 if name == "hinge" else None
    values = numerics.eigenvalues(numerics.flatten(*dirac(objectives.Config(name), variance, b)))
    q = NOISE_CURVATURE.get(name, 0.0) * variance
    same(values, roots(q, SLOPE[name]))
    if name in ("minimax", "non_saturating"):  # -s²/4 ± √(s⁴/16 - 1/4)
        root = np.sqrt(complex(variance**2 / 16 - 1 / 4))
        same(values, [-variance / 4 + root, -variance / 4 - root])


@pytest.mark.parametrize("name", objectives.OBJECTIVES)
@pytest.mark.parametrize("gamma", [0.3, 4.0])
def test_dirac_gan_with_consensus(name, gamma):
    h, c = 0.1, SLOPE[name]
    flat = moved(dirac(objectives.Config(name)), games.consensus(gamma), h)
    # λ = (μ - 1) / h
    same((numerics.eigenvalues(flat) - 1) / h, pair(-gamma * c**2 + 1j * c))


def test_least_squares_at_an_uneven_discriminator_does_not_turn_at_first_order():
    flat = numerics.flatten(*dirac(objectives.Config("least_squares"), b=0.0))
    np.testing.assert_allclose(numerics.jacobian(flat), [[0, 0], [1, 0]], atol=1e-7)
    same(numerics.eigenvalues(flat), [0, 0])


def test_wgan_gp_stays_near_and_never_arrives():
    # The one-centred penalty g (|ψ| - 1)² has no slope at ψ = 0: beside it v_ψ holds
    # ∓ 2 g (1 - |ψ|), which pushes away on either side. Automatic differentiation takes the norm as
    # constant at 0 itself, calls the origin a fixed point and knows nothing of the penalty, so that
    # its eigenvalues there say nothing of the dynamics; the trajectory does.
    weight, h = 0.3, 0.02
    objective = objectives.Config("wasserstein", gradient=weight)
    at_origin = numerics.flatten(*dirac(objective))
    same(numerics.eigenvalues(at_origin), pair(1j))
    for psi in (1e-3, -1e-3):
        flat = numerics.flatten(*dirac(objective, at=(0.0, psi)))
        v_psi = flat.function(flat.at)[0]
        assert v_psi == pytest.approx(np.sign(psi) * 2 * weight * (1 - 1e-3), rel=1e-4)
    flat = moved(dirac(objective, at=(0.5, 0.5)), games.simultaneous(), h)
    path = jax.lax.scan(lambda p, _: (flat.function(p),) * 2, flat.at, None, 20_000)[1]
    radius = np.linalg.norm(path, axis=1)[10_000:]
    # It circles for ever, through points far from the equilibrium, and goes no farther.
    assert radius.max() > 0.5 and np.linalg.norm(path, axis=1).max() < 3
    late, earlier = radius[-5000:].max(), radius[:5000].max()
    assert late == pytest.approx(earlier, rel=0.02)


# Arnoldi against the dense Jacobian.


@functools.cache
def networks():
    """The field of a game of two small networks with noise: nothing about it is symmetric."""
    k = jax.random.split(jax.random.key(1), 6)
    params = {
        "generator": {
            "W": jax.random.normal(k[0], (3, 8)),
            "b": jax.random.normal(k[1], (8,)),
            "V": jax.random.normal(k[2], (8, 2)) / 2,
        },
        "discriminator": {
            "U": jax.random.normal(k[3], (2, 16)),
            "v": jax.random.normal(k[4], (16,)) / 2,
        },
    }
    batch = {"x": jax.random.normal(k[5], (32, 2))}

    def losses(key, params, memory, batch):
        g, d = params["generator"], params["discriminator"]
        z = jax.random.normal(key, (32, 3))
        fake = jnp.tanh(z @ g["W"] + g["b"]) @ g["V"]
        a = lambda x: jnp.tanh(x @ d["U"]) @ d["v"]
        return objectives.non_saturating(a(batch["x"]), a(fake)), (memory, {})

    return numerics.flatten(losses, KEY, params, (), batch)


def _convolutions():
    """A game of players whose convolutions know no forward mode."""
    k = jax.random.split(jax.random.key(2), 4)
    params = {
        "generator": jax.random.normal(k[0], (2, 16)),
        "discriminator": {
            "kernel": jax.random.normal(k[1], (3, 3, 1, 3)) / 3,
            "out": jax.random.normal(k[2], (48,)) / 4,
        },
    }
    batch = {"x": jax.random.uniform(k[3], (8, 4, 4, 1))}

    def losses(key, params, memory, batch):
        d = params["discriminator"]
        fake = jax.nn.sigmoid(jax.random.normal(key, (8, 2)) @ params["generator"])
        a = lambda x: jnp.tanh(nets.conv(x, d["kernel"])).reshape(8, -1) @ d["out"]
        lowered = objectives.non_saturating(a(batch["x"]), a(fake.reshape(8, 4, 4, 1)))
        return lowered, (memory, {})

    return losses, KEY, params, (), batch


def agree(flat, k, which):
    dense = numerics.eigenvalues(flat)
    arnoldi = numerics.leading_eigenvalues(flat, k, which)
    assert arnoldi.shape == (k,)
    key = {"LM": np.abs, "LR": np.real, "LI": lambda z: np.abs(np.imag(z))}[which]
    expected = np.sort(key(dense))[::-1][:k]
    np.testing.assert_allclose(np.sort(key(arnoldi))[::-1], expected, atol=1e-3)
    # Each is an eigenvalue, not only of the right size.
    for z in arnoldi:
        assert np.abs(dense - z).min() < 1e-3


@pytest.mark.parametrize("which", ["LM", "LR", "LI"])
def test_arnoldi_finds_the_dense_eigenvalues(which):
    agree(networks(), 4, which)


def test_a_game_without_forward_mode():
    flat = numerics.flatten(*_convolutions())
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(flat.function, (flat.at,), (flat.at,))
    agree(flat, 3, "LM")


@pytest.mark.parametrize("penalty", [{}, {"r1": 1.0}], ids=["plain", "r1"])
def test_arnoldi_of_a_gan_as_the_zoo_makes_it(penalty):
    small = nets.Network(widths=(6,), activation="tanh")
    config = gan.Config(
        objectives.Config(**penalty), generator=small, discriminator=small, latents=2
    )
    init, losses = gan.game(config)
    batch = {"x": jax.random.normal(KEY, (16, 2))}
    params, memory = init(KEY, batch)
    flat = numerics.flatten(losses, KEY, params, memory, batch)
    assert flat.ranges["generator"].stop == len(flat.at) == 57  # 25 + 32
    agree(flat, 3, "LM")


def test_arnoldi_of_a_map():
    A = _random_matrix(3, sizes=(20, 20), antisymmetric=2.0)
    agree(moved(_quadratic(A, (20, 20)), games.optimistic(), 0.1), 3, "LM")


# The path angle.


def test_path_angle_about_a_centre_is_a_bump():
    flat = numerics.flatten(*BILINEAR)
    # A line that passes the centre (the origin) at the distance .1, at α = 1.
    path = numerics.path_angle(flat, [1.0, 0.1], [0.0, 0.1], np.linspace(0.5, 1.5, 101))
    # v = (x, -y): along (-1, 0), v is across except near the centre.
    x, y = 1 - path.alpha, 0.1
    np.testing.assert_allclose(path.norm, np.hypot(x, y), rtol=1e-5)
    np.testing.assert_allclose(path.cosine, -y / np.hypot(x, y), atol=1e-5)
    assert np.abs(path.cosine).argmax() == 50 and np.abs(path.cosine).max() > 0.99
    assert (path.cosine < 0).all() and abs(path.cosine[0]) < 0.3


def test_path_angle_through_a_minimum_switches_sign():
    flat = two(0, 0, lambda x, y: x**2, lambda x, y: y**2)
    path = numerics.path_angle(flat, [3.0, 1.0], [0.0, 0.0], np.array([0.0, 0.5, 0.9, 1.1, 2.0]))
    np.testing.assert_allclose(path.cosine, [1, 1, 1, -1, -1], atol=1e-5)


# Local Nash points.


def test_nash_strict_and_not():
    strict = numerics.nash(two(0, 0, lambda x, y: x**2 + x * y, lambda x, y: y**2 - x * y))
    assert strict.verdict == numerics.STRICT
    assert strict.players["generator"].smallest == pytest.approx(2)
    # Somebody has a slope.
    assert numerics.nash(two(1, 0, lambda x, y: x**2, lambda x, y: y**2)).verdict == numerics.NOT


def test_a_fixed_point_of_the_conservative_field_need_not_be_nash():
    # x sits on its own maximum. v pushes x away; -∇½‖v‖² = -v'ᵀv pulls everything to the origin.
    game = _two(0, 0, lambda x, y: -(x**2) / 2 + x * y, lambda x, y: y**2 / 2 - x * y)
    flat = numerics.flatten(*game)
    assert numerics.nash(flat).verdict == numerics.NOT
    assert numerics.nash(flat).players["generator"].smallest == pytest.approx(-1)
    J = np.asarray(numerics.jacobian(flat))
    conservative = jax.jacobian(
        lambda t: -jax.grad(lambda t: jnp.sum(flat.function(t) ** 2) / 2)(t)
    )(flat.at)
    np.testing.assert_allclose(conservative, -J.T @ J, atol=1e-6)
    assert (np.linalg.eigvals(conservative).real < 0).all() or np.linalg.det(J) == 0


def test_nash_of_networks_is_that_of_dense_blocks(monkeypatch):
    flat = networks()
    J = np.asarray(numerics.jacobian(flat), np.float64)
    for largest_dense in (256, 4):  # the latter goes through ARPACK
        monkeypatch.setattr(numerics, "DENSE", largest_dense)
        found = numerics.nash(flat)
        for player, own in flat.ranges.items():
            H = -J[own, own]
            values = np.linalg.eigvalsh((H + H.T) / 2)
            np.testing.assert_allclose(found.players[player].smallest, values[0], atol=1e-3)
            np.testing.assert_allclose(found.players[player].largest, values[-1], atol=1e-3)
        assert found.verdict == numerics.NOT


# Bad input


def test_bad_input_is_refused():
    flat = numerics.flatten(*BILINEAR)
    with pytest.raises(ConfigError, match=r"1 to N - 2 = 0 .* got k = 1"):
        numerics.leading_eigenvalues(flat, 1)
    quadratic = numerics.flatten(*_quadratic(_random_matrix(1)))
    with pytest.raises(ConfigError, match="which should be"):
        numerics.leading_eigenvalues(quadratic, 1, "SM")
    with pytest.raises(ConfigError, match="h > 0, got h = 0"):
        numerics.convergence(np.array([-1.0]), 0)
    with pytest.raises(ConfigError, match="h > 0, got h = -1"):
        moved(BILINEAR, games.simultaneous(), -1.0)
    _, key, params, *rest = BILINEAR
    with pytest.raises(ConfigError, match=r"losses are of .*generator.* parameters of"):
        numerics.flatten(lambda *a: ({"generator": jnp.zeros(())}, ((), {})), key, params, *rest)
    with pytest.raises(ConfigError, match="moves a player 'critic'"):
        moved(BILINEAR, games.alternating(order=("critic", "generator")), 0.1)
    with pytest.raises(ConfigError, match="start and end are the same"):
        numerics.path_angle(flat, [1.0, 1.0], [1.0, 1.0], np.ones(2))


def test_arnoldi_that_does_not_converge_says_so():
    # Eigenvalues evenly spread, and one step of Arnoldi: too little to tell them apart.
    flat = numerics.flatten(*_quadratic(np.diag(np.linspace(-1, 1, 400)), (200, 200)))
    with pytest.raises(ZooError, match=r"Arnoldi found \d of the 5 .* did not converge"):
        numerics.leading_eigenvalues(flat, 5, "LR", iterations=1, tolerance=1e-9)


@pytest.mark.parametrize(
    ("eigenvalue", "h", "expected"),
    [(0.5j, 1e-3, numerics.DIVERGES), (-0.001 + 0j, 1e-4, numerics.CONVERGES)],
)
def test_a_small_step_is_judged_as_well(eigenvalue, h, expected):
    assert numerics.convergence(np.array([eigenvalue, np.conj(eigenvalue)]), h).verdict == expected
