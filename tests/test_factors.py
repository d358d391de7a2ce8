"""Variable elimination against the full joint table, for random nets, in every order."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import ConfigError
from genjax_zoo.maths.inference import factors
from genjax_zoo.maths.inference.factors import (
    Factor,
    draw,
    eliminate,
    given,
    ordering,
    product,
    sum_out,
)

NAMES = "abcdef"


def random_net(seed: int, n: int = 5) -> list[Factor]:
    """P(x_i | up to three earlier ones), with 2 or 3 values each, and a few zeros."""
    rng = np.random.default_rng(seed)
    size = {name: int(rng.integers(2, 4)) for name in NAMES[:n]}
    made = []
    for i, name in enumerate(NAMES[:n]):
        parents = [p for p in NAMES[:i] if rng.random() < 0.6][:3]
        table = rng.dirichlet(np.ones(size[name]), size=[size[p] for p in parents])
        if parents and seed % 2:
            table[(0,) * len(parents)] = np.eye(size[name])[0]
        scope = [*parents, name]
        turned = rng.permutation(len(scope))
        log = np.log(np.maximum(table, 0), where=table > 0, out=np.full(table.shape, -np.inf))
        made.append(Factor(jnp.asarray(log.transpose(turned)), tuple(scope[t] for t in turned)))
    return made


def joint(net: list[Factor]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The whole table, one entry at a time, with no help of the module."""
    size = {}
    for f in net:
        size |= dict(zip(f.scope, f.log.shape, strict=True))
    names = tuple(sorted(size))
    table = np.zeros([size[n] for n in names])
    for place in itertools.product(*(range(size[n]) for n in names)):
        at = dict(zip(names, place, strict=True))
        table[place] = math.prod(math.exp(f.log[tuple(at[n] for n in f.scope)]) for f in net)
    return table, names


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[pytest.mark.slow] if s > 2 else []) for s in range(6)]
)
def test_elimination_is_a_sum_over_the_joint_in_any_order(seed):
    net, rng = random_net(seed, 4), np.random.default_rng(seed + 100)
    table, names = joint(net)
    assert table.sum() == pytest.approx(1, abs=1e-5)
    keep = tuple(rng.permutation(names)[: 1 + seed % 3])
    others = [n for n in names if n not in keep]
    marginal = table.sum(tuple(names.index(n) for n in others))
    marginal = marginal.transpose([sorted(keep).index(k) for k in keep])
    for order in [None, *itertools.permutations(others)]:
        got = eliminate(net, keep, order)
        assert got.scope == keep
        np.testing.assert_allclose(jnp.exp(got.log), marginal, atol=1e-6)
    assert float(eliminate(net).log) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[pytest.mark.slow] if s > 2 else []) for s in range(6)]
)
def test_evidence_holds_variables_for_all_examples_at_once(seed):
    net, rng = random_net(seed), np.random.default_rng(seed + 200)
    table, names = joint(net)
    known = list(rng.permutation(names)[:2])
    size = factors.sizes(net)
    values = {n: jnp.asarray(rng.integers(0, size[n], 7)) for n in known}
    keep = next(n for n in names if n not in known)
    got = np.asarray(jnp.exp(eliminate([given(f, values) for f in net], [keep]).log))
    for b in range(7):
        index = tuple(int(values[n][b]) if n in values else slice(None) for n in names)
        rest = [n for n in names if n not in known]
        want = table[index].sum(tuple(i for i, n in enumerate(rest) if n != keep))
        np.testing.assert_allclose(got[b], want, atol=1e-6)
    # The same one variable after the other: examples in front already.
    one, two = ({n: values[n]} for n in known)
    again = eliminate([given(given(f, one), two) for f in net], [keep])
    np.testing.assert_allclose(jnp.exp(again.log), got, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_draws_have_the_joint_distribution(seed):
    net, n = random_net(seed, 4), 40_000
    table, names = joint(net)
    drawn = draw(jax.random.key(seed), net, n)
    place = np.ravel_multi_index([np.asarray(drawn[k]) for k in names], table.shape)
    counts = np.bincount(place, minlength=table.size)
    p = table.ravel() / table.sum()
    assert counts[p < 1e-12].sum() == 0
    live = p > 1e-12
    chi2 = np.sum((counts[live] - n * p[live]) ** 2 / (n * p[live]))
    free = live.sum() - 1
    assert chi2 < free + 5 * math.sqrt(2 * free)


def test_draws_given_evidence_of_their_own():
    net = random_net(1, 4)
    table, names = joint(net)
    n = 30_000
    last = jnp.arange(n) % table.shape[-1]
    drawn = draw(jax.random.key(0), [given(f, {names[-1]: last}) for f in net], n)
    for value in range(table.shape[-1]):
        rows = np.asarray(last) == value
        p = table[..., value].sum((1, 2))
        counts = np.bincount(np.asarray(drawn[names[0]])[rows], minlength=len(p))
        np.testing.assert_allclose(counts / rows.sum(), p / p.sum(), atol=0.02)


def test_the_gradient_of_log_z_counts():
    """∂ log Σ_x Π_f f / ∂ log f = p(scope of f): what the E-step of a net rests on."""
    net = random_net(0, 4)
    table, names = joint(net)
    counts = jax.grad(lambda net: eliminate(net).log)(net)
    for f, c in zip(net, counts, strict=True):
        others = tuple(i for i, n in enumerate(names) if n not in f.scope)
        kept = [n for n in names if n in f.scope]
        want = table.sum(others).transpose([kept.index(n) for n in f.scope])
        np.testing.assert_allclose(c.log, want, atol=1e-6)


def test_a_chain_is_eliminated_from_its_ends():
    scopes = [(f"x{i}", f"x{i + 1}") for i in range(50)]
    size = {f"x{i}": 10 for i in range(51)}
    order = ordering(scopes, size)
    assert sorted(order) == sorted(size)
    chain = [Factor(jnp.zeros((10, 10)), scope) for scope in scopes]
    # 10^51 joint states, and no table of more than 100 numbers.
    assert float(eliminate(chain).log) == pytest.approx(51 * math.log(10), rel=1e-5)
    assert ordering(scopes, size, ["x0"])[-1] != "x0"


def test_products_and_sums_of_nothing():
    assert product([]).scope == () and float(product([]).log) == 0
    f = Factor(jnp.zeros((2, 3)), ("a", "b"))
    assert sum_out(f, ()).scope == ("a", "b")
    assert given(f, {"c": jnp.array(0)}) is f
    np.testing.assert_allclose(sum_out(f, ("a",)).log, math.log(2), rtol=1e-6)


def test_errors_say_what_to_do():
    f = Factor(jnp.zeros((2, 3)), ("a", "b"))
    with pytest.raises(ConfigError, match="a has 2 values in one factor and 3"):
        product([f, Factor(jnp.zeros(3), ("a",))])
    with pytest.raises(ConfigError, match="'c' is not in the scope"):
        sum_out(f, ("c",))
    with pytest.raises(ConfigError, match="'c' is in no factor"):
        eliminate([f], ["c"])
    with pytest.raises(ConfigError, match="name each of a, b once, got a"):
        eliminate([f], (), ["a"])
    wide = [Factor(jnp.zeros((2, 2)), (f"x{i}", "y")) for i in range(30)]
    with pytest.raises(ConfigError, match="numbers for each of 1 examples"):
        product(wide)
    # The good order never makes that table.
    assert float(eliminate(wide).log) == pytest.approx(31 * math.log(2), rel=1e-5)
