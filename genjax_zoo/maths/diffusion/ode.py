"""Ordinary differential equations dx/dt = f(t, x), and the density that they carry along.

Floor 1. A field f moves every point of a density p_0; along a path the density changes by

    d log p_t(x_t) / dt = -∇·f(t, x_t)                              the continuity equation

(Chen, Rubanova, Bettencourt & Duvenaud, Neural ordinary differential equations, 2018, theorem 1).
The trace ∇·f takes D derivatives, or one with a random probe ε of covariance I:

    ∇·f = E[εᵀ (∂f/∂x) ε]                                           Hutchinson 1989

(Grathwohl et al., FFJORD, 2019, section 3.1: one probe serves a whole path).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from genjax_zoo.contract import Array, Key
from genjax_zoo.maths.probability.distributions import flat, gaussian
from genjax_zoo.typed import choose

Field = Callable[[Array, Array], Array]
"""(t [], x [B, ...]) -> dx/dt [B, ...]; no example sees another."""
Rate = Callable[[Array, Any], Any]
"""(t [], y) -> dy/dt, of any pytree y."""


def _along(y: Any, h: Array, *slopes: tuple[float, Any]) -> Any:
    """y + h Σ_i w_i k_i."""
    move = lambda y, *k: y + h * sum(w * k for (w, _), k in zip(slopes, k, strict=True))
    return jax.tree.map(move, y, *(k for _, k in slopes))


def _euler(f: Rate, t: Array, s: Array, y: Any) -> Any:
    return _along(y, s - t, (1.0, f(t, y)))


def _heun(f: Rate, t: Array, s: Array, y: Any) -> Any:
    h = s - t
    k1 = f(t, y)
    k2 = f(s, _along(y, h, (1.0, k1)))
    return _along(y, h, (0.5, k1), (0.5, k2))


def _rk4(f: Rate, t: Array, s: Array, y: Any) -> Any:
    h, middle = s - t, (s + t) / 2
    k1 = f(t, y)
    k2 = f(middle, _along(y, h, (0.5, k1)))
    k3 = f(middle, _along(y, h, (0.5, k2)))
    k4 = f(s, _along(y, h, (1.0, k3)))
    return _along(y, h, (1 / 6, k1), (1 / 3, k2), (1 / 3, k3), (1 / 6, k4))


FIXED = {"euler": _euler, "heun": _heun, "rk4": _rk4}
"""One step of a Runge-Kutta method, (rate, t, s, y at t) -> y at s, by name."""
ADAPTIVE = ("dopri5",)
"""Methods that choose their own steps (diffrax)."""
METHODS = FIXED | dict.fromkeys(ADAPTIVE)
"""All of them, by the names that configs use."""


def integrate(
    rate: Rate,
    start: Any,
    times: Array,
    method: str = "rk4",
    tolerance: float = 1e-5,
    remember: bool = True,
) -> Any:
    """y at the last of `times` [n + 1], from y = `start` at the first.

    Args:
      rate: (t, y) -> dy/dt.
      start: y at times[0], a pytree.
      times: the grid of a fixed method; an adaptive one uses its ends alone. May run backwards.
      method: a name in FIXED, or "dopri5" of Dormand & Prince with steps chosen to `tolerance`.
      tolerance: relative and absolute, of the adaptive method.
      remember: of a fixed method's gradient: keeps what is needed of every step, or computes
        each step again on the way back, for the memory of one.

    Raises:
      ConfigError: for a method of another name.
    """
    if method in ADAPTIVE:
        return _adaptive(rate, start, times, tolerance)
    one = choose(method, METHODS, "method of integration")
    assert one is not None

    def step(y: Any, ends: tuple[Array, Array]) -> tuple[Any, None]:
        return one(rate, *ends, y), None

    body = step if remember else jax.checkpoint(step)
    return jax.lax.scan(body, start, (times[:-1], times[1:]))[0]


def _adaptive(rate: Rate, start: Any, times: Array, tolerance: float) -> Any:
    # Here, and not above: a family that takes fixed steps pays nothing for the library.
    import diffrax

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: rate(jnp.asarray(t), y)),
        diffrax.Dopri5(),
        times[0],
        times[-1],
        (times[-1] - times[0]) / 20,
        start,
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=4096,
    )
    return jax.tree.map(lambda leaf: leaf[0], solution.ys)


def probes_of(key: Key, probes: int, shape: tuple[int, ...]) -> Array:
    """Hutchinson's ε, of independent signs: [probes, *shape]. Its trace errs least (variance)."""
    return jax.random.rademacher(key, (probes, *shape), jnp.float32)


def with_divergence(field: Field, probes: Array | None = None) -> Callable[..., Any]:
    """(t, x [B, ...]) -> (dx/dt [B, ...], ∇·f [B]).

    Args:
      field: f.
      probes: ε [K, B, ...], of Hutchinson's estimate; None takes the exact trace, by D products.
    """

    def rate(t: Array, x: Array) -> tuple[Array, Array]:
        # From the left, εᵀJ, and not Jε: our convolutions have derivatives of that kind only.
        v, pull = jax.vjp(lambda x: field(t, x), x)
        inner = lambda e: jnp.sum(flat(e * pull(e)[0]), -1)
        if probes is not None:
            return v, jax.vmap(inner)(probes.astype(x.dtype)).mean(0)
        size = x[0].size
        if size <= _UNROLLED:
            units = jnp.eye(size).reshape(size, 1, *x.shape[1:])
            return v, jax.vmap(lambda e: inner(jnp.broadcast_to(e, x.shape)))(units).sum(0)

        def add(i: Array, total: Array) -> Array:
            unit = jax.nn.one_hot(i, size).reshape(1, *x.shape[1:])
            return total + inner(jnp.broadcast_to(unit, x.shape))

        return v, jax.lax.fori_loop(0, size, add, jnp.zeros(len(x)))

    return rate


_UNROLLED = 16
"""Dimensions whose derivatives are taken at once; more of them go one by one, to save memory."""


def transport(
    field: Field,
    x: Array,
    times: Array,
    probes: Array | None = None,
    method: str = "rk4",
    tolerance: float = 1e-5,
) -> tuple[Array, Array]:
    """x [B, ...] carried from times[0] to times[-1], and log |det ∂x(end)/∂x(start)| [B] nats.

    The log-determinant is ∫ ∇·f(t, x_t) dt: Grathwohl et al. 2019, equations 4 and 5.
    """
    both = with_divergence(field, probes)

    def rate(t: Array, y: tuple[Array, Array]) -> tuple[Array, Array]:
        return both(t, y[0])

    return integrate(rate, (x, jnp.zeros(len(x))), times, method, tolerance)


def log_density(
    key: Key,
    field: Field,
    x: Array,
    times: Array,
    log_std: Array | float = 0.0,
    probes: int = 0,
    method: str = "rk4",
    tolerance: float = 1e-5,
) -> Array:
    """log N(x(end); 0, σ²) + ∫ ∇·f dt [B] nats, of x [B, ...] at the first of `times`.

    Args:
      log_std: log σ, of the Gaussian at the last time.
      probes: K of Hutchinson's trace, drawn by the key for the whole path; 0 takes the exact one.
    """
    drawn = probes_of(key, probes, x.shape) if probes else None
    end, log_det = transport(field, x, times, drawn, method, tolerance)
    return gaussian(flat(end), 0.0, log_std) + log_det
