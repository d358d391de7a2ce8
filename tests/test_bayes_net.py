"""Bayes nets against what they stand for: joint tables, dense Gaussians and counts by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import (
    BINARY,
    COUNTS,
    REAL,
    ConfigError,
    DataError,
    Exactness,
    categorical,
)
from genjax_zoo.data import densities
from genjax_zoo.learn.state import eval_params
from genjax_zoo.maths.inference.bayes_nets import do, draw, from_tables, moments, queries, query
from genjax_zoo.maths.inference.bayes_nets.evidence import of_values
from genjax_zoo.maths.inference.bayes_nets.params import families
from genjax_zoo.maths.inference.graphs import nodes_of
from genjax_zoo.models.bayes_net import Config, make, net_of

KEY = jax.random.key(0)


def random_net(seed, V=5):
    """A net in words with its tables and sizes; written children first, as often as not."""
    rng = np.random.default_rng(seed)
    names = [f"N{i}" for i in range(V)]
    size = {name: int(rng.integers(2, 4)) for name in names}
    words, tables = [], {}
    for i, name in enumerate(names):
        parents = [p for p in names[:i] if rng.random() < 0.6][:3]
        spelt = name + (f" | {', '.join(parents)}" if parents else "")
        words.append(f"P({spelt})")
        tables[spelt] = rng.dirichlet(np.ones(size[name]), size=[size[p] for p in parents])
    text = " ".join(rng.permutation(words))
    return from_tables(text, tables, ", ".join(f"{n}={k}" for n, k in size.items())), tables, size


def joint_of(tables, size):
    """The whole table over sorted names, entry by entry."""
    names = sorted(size)
    table = np.zeros([size[n] for n in names])
    for place in itertools.product(*(range(size[n]) for n in names)):
        at = dict(zip(names, place, strict=True))
        p = 1.0
        for spelt, cpt in tables.items():
            child, _, parents = spelt.partition(" | ")
            index = [at[q] for q in parents.split(", ") if q] + [at[child]]
            p *= cpt[tuple(index)]
        table[place] = p
    return table, names


def fit(config, batches, steps=1):
    """The state after `steps` rounds of the batches."""
    model = make(config)
    state = jax.jit(model.init)(KEY, batches[0])
    step = jax.jit(model.step)
    infos = []
    for _ in range(steps):
        for batch in batches:
            state, info = step(KEY, state, batch)
            infos.append(float(info["log_prob"]))
    return model, state, infos


def table_of(params, name):
    """θ of one node [*parents' states, K]."""
    for family, table in zip(families(params.net), params.tables, strict=True):
        for i, node in enumerate(family.nodes):
            if node.name == name:
                return table if node.states == 0 else np.asarray(table.p)[i]
    raise KeyError(name)


# --------------------------------------------------------------------------------- in words


def test_a_net_reads_like_the_product():
    nodes = nodes_of("lecture")
    assert [(n.name, n.parents) for n in nodes] == [
        ("A", ()),
        ("B", ()),
        ("C", ("A", "B")),
        ("D", ("A", "B", "C")),
    ]
    nodes = nodes_of("P(X|S)P(S)", "S=3, X=real")
    assert [(n.name, n.states) for n in nodes] == [("X", 0), ("S", 3)]


def test_a_pixel_has_neighbours_where_there_are_any():
    net = net_of(Config(net="grid", label="y"), (2, 3, 1))
    parents = {node.name: node.parents for node in net.nodes}
    assert net.columns[:4] == ("pixel_0_0", "pixel_0_1", "pixel_0_2", "pixel_1_0")
    assert parents["pixel_0_0"] == ("y",)
    assert parents["pixel_0_2"] == ("y", "pixel_0_1")
    assert parents["pixel_1_0"] == ("y", "pixel_0_0")
    assert parents["pixel_1_1"] == ("y", "pixel_1_0", "pixel_0_1")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"net": "P(A | B) P(B | C) P(C | A)"}, r"in a circle: .*A.* -> .*one has none|circle"),
        ({"net": "P(A | A)"}, "circle: A -> A"),
        ({"net": "P(A) P(C | B, A)"}, r"C has a parent that no factor defines.*'B'.*Add a P\(B\)"),
        ({"net": "P(A) P(B) P(A | B)"}, "A is defined twice"),
        ({"net": "P(A) P(B | A, A)"}, "names a parent twice"),
        ({"net": "lectur"}, "Did you mean 'lecture'"),
        ({"net": "P(A) and P(B)"}, "cannot read the net"),
        ({"net": "P(A) P(2B)"}, "'2B' in .* is no name"),
        ({"states": "E=3"}, "unknown node 'E'"),
        ({"states": "A=1"}, r"NAME=NUMBER of 2 \.\. 1000000"),
        ({"states": f"A={10**12}"}, r"NAME=NUMBER of 2 \.\. 1000000"),
        ({"states": "A=many"}, "NAME=NUMBER"),
        ({"states": "A=real"}, "C is discrete and its parent A is real"),
        ({"hidden": ("E",)}, "unknown node 'E'"),
        ({"hidden": ("A", "B", "C", "D")}, "all nodes are hidden"),
        ({"hidden": ("A",), "label": "A"}, "both hidden and the label"),
        ({"net": "P(A)", "states": "A=real", "label": "A"}, "should be discrete"),
        ({"net": "grid"}, "no column holds y"),
        ({"net": "P(pixel) P(y | pixel)"}, "no parent of y"),
        ({"alpha": -1.0}, "alpha should be not negative"),
        ({"keep": 2.0}, r"keep should be in \[0, 1\]"),
        ({"least_variance": 0.0}, "least_variance should be positive"),
    ],
)
def test_a_bad_description_says_what_to_do(fields, message):
    with pytest.raises(ConfigError, match=message):
        Config(**fields)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"A": [0.5, 0.6], "B | A": np.full((2, 2), 0.5)}, r"'A' should hold .* sum to 1"),
        ({"A": [1.5, -0.5], "B | A": np.full((2, 2), 0.5)}, "'A' should hold probabilities"),
        ({"A": [0.5, 0.5], "B | A": [0.5, 0.5]}, r"should have the shape \(2, 2\)"),
        ({"A": [0.5, 0.5]}, r"table of 'B \| A' is missing"),
        ({"A": [0.5, 0.5], "B": np.full((2, 2), 0.5), "C": [1, 0]}, "'C', which is no factor"),
    ],
)
def test_a_bad_table_says_what_to_do(tables, message):
    with pytest.raises(ConfigError, match=message):
        from_tables("P(A) P(B | A)", tables)


def test_bad_data_are_refused_where_they_are_seen():
    model = make(Config(net="P(A) P(B | A)"))
    with pytest.raises(DataError, match=r"has 2 nodes .*\(A, B\), and an example has 3"):
        model.init(KEY, {"x": jnp.zeros((4, 3))})
    with pytest.raises(DataError, match=r"B has the states 0 .. 1, and the data hold 2"):
        model.init(KEY, {"x": jnp.array([[0.0, 2.0]])})
    with pytest.raises(DataError, match=r"A holds NaN; set model\.missing"):
        model.init(KEY, {"x": jnp.array([[jnp.nan, 1.0]])})
    state = model.init(KEY, {"x": jnp.zeros((4, 2))})
    x = jnp.array([[0.0, 1.0], [0.5, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    nats = jax.jit(model.log_prob.value)(KEY, state, {"x": x})
    np.testing.assert_allclose(nats, [-math.log(4), -np.inf, -np.inf, -np.inf], rtol=1e-6)
    _, info = jax.jit(model.step)(KEY, state, {"x": x})
    assert math.isnan(info["outside"])


def test_the_support_is_that_of_the_columns():
    assert make(Config()).spaces["x"] == BINARY
    assert make(Config(states="A=3")).spaces["x"] == COUNTS.of(3)
    assert make(Config(states="A=3", hidden=("A",))).spaces["x"] == BINARY
    assert make(Config(net="P(X)", states="X=real")).spaces["x"] == REAL
    assert make(Config(missing=True)).spaces["x"] == BINARY._replace(missing=True)
    assert make(Config()).latents is None
    assert make(Config()).log_prob.exactness is Exactness.EXACT


# ---------------------------------------------------------------------------------- queries


@pytest.mark.parametrize("seed", range(5))
def test_a_query_is_a_ratio_of_sums_over_the_joint(seed, monkeypatch):
    # By the joint table, and by an elimination for what is known.
    monkeypatch.setattr(queries, "SMALL", queries.SMALL * (seed % 2))
    net, tables, size = random_net(seed)
    joint, names = joint_of(tables, size)
    rng = np.random.default_rng(seed)
    for known in (0, 1, 2):
        mixed = list(rng.permutation(names))
        evidence = {n: int(rng.integers(size[n])) for n in mixed[:known]}
        wanted = mixed[known : known + 2]
        index = tuple(evidence.get(n, slice(None)) for n in names)
        rest = [n for n in names if n not in evidence]
        p = joint[index].sum(tuple(i for i, n in enumerate(rest) if n not in wanted))
        p = p.transpose([sorted(wanted).index(n) for n in wanted]) / p.sum()
        np.testing.assert_allclose(query(net, wanted, evidence), p, atol=1e-6)


def test_all_questions_to_a_small_net_are_one_program():
    net, _, size = random_net(1)
    a, b, *rest = size
    compiled = [queries._joint, queries._eliminated]
    query(net, a)
    before = [f._cache_size() for f in compiled]
    for name in rest:
        query(net, a, {name: 1})
        query(net, name, {a: 0, b: 1})
        query(net, (b, name))
    assert [f._cache_size() for f in compiled] == before


def test_the_sprinkler_explains_the_rain_away():
    net = from_tables(
        "sprinkler",
        {
            "cloudy": [0.5, 0.5],
            "sprinkler": [[0.5, 0.5], [0.9, 0.1]],
            "rain": [[0.8, 0.2], [0.2, 0.8]],
            "wet": [[[1, 0], [0.1, 0.9]], [[0.1, 0.9], [0.01, 0.99]]],
        },
    )
    # Murphy 1998
    assert float(query(net, "sprinkler", {"wet": 1})[1]) == pytest.approx(0.430, abs=5e-4)
    assert float(query(net, "rain", {"wet": 1})[1]) == pytest.approx(0.708, abs=5e-4)
    away = query(net, "sprinkler", {"wet": 1, "rain": 1})[1]
    assert float(away) == pytest.approx(0.1945, abs=5e-4)
    # To turn the sprinkler on says nothing of the clouds; to see it on does.
    assert float(query(do(net, {"sprinkler": 1}), "cloudy")[1]) == pytest.approx(0.5)
    assert float(query(net, "cloudy", {"sprinkler": 1})[1]) == pytest.approx(1 / 6, abs=1e-6)
    # P(wet | do(s)) = Σ_c P(c) Σ_r P(r | c) P(wet | s, r)
    wet = query(do(net, {"sprinkler": 1}), "wet")[1]
    assert float(wet) == pytest.approx(0.5 * 0.9 + 0.5 * 0.99, abs=1e-6)
    x = np.array(list(itertools.product((0, 1), repeat=4)))
    density = densities.make("sprinkler")
    # Columns C, S, R, W in the order of the product.
    joint = query(net, "cloudy, sprinkler, rain, wet").ravel()
    np.testing.assert_allclose(joint, np.exp(density.log_prob(jnp.asarray(x))), atol=1e-6)


def test_a_factor_over_two_nodes_is_taken_apart_by_the_chain_rule():
    rng = np.random.default_rng(0)
    block = rng.dirichlet(np.ones(6), size=(2, 2)).reshape(2, 2, 2, 3)
    block[0, 1] = [[0.25, 0.75, 0], [0, 0, 0]]
    tables = {"A": [0.7, 0.3], "B": [0.4, 0.6], "C, D | A, B": block}
    net = from_tables("lecture", tables, "D=3")
    want = np.einsum("a,b,abcd->abcd", tables["A"], tables["B"], block)
    np.testing.assert_allclose(query(net, "A, B, C, D"), want, atol=1e-6)
    np.testing.assert_allclose(query(net, "D, A"), want.sum((1, 2)).T, atol=1e-6)


def test_questions_that_cannot_be_answered():
    net = from_tables(
        "P(A) P(X | A)", {"A": [1, 0], "X": ([0, 1], np.zeros((2, 0)), [1, 1])}, "X=real"
    )
    with pytest.raises(ConfigError, match="unknown node 'Z'"):
        query(net, "Z")
    with pytest.raises(ConfigError, match="both wanted and given"):
        query(net, "A", {"A": 0})
    with pytest.raises(ConfigError, match="ask for its moments"):
        query(net, "X")
    with pytest.raises(ConfigError, match="use query"):
        moments(net, "A")
    with pytest.raises(ConfigError, match="only discrete nodes are set"):
        do(net, {"X": 0})
    with pytest.raises(DataError, match="has probability 0"):
        moments(net, "X", {"A": 1})
    with pytest.raises(DataError, match=r"a state 0 \.\. 1 of A, got 2"):
        moments(net, "X", {"A": 2})


# ---------------------------------------------------------------------------------- samples


def chi_squared(counts, p):
    n, live = counts.sum(), p > 0
    assert counts[~live].sum() == 0
    chi2 = np.sum((counts[live] - n * p[live]) ** 2 / (n * p[live]))
    free = live.sum() - 1
    return (chi2 - free) / math.sqrt(2 * free)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("known", [(), ("N0",), ("N3",), ("N1", "N4")])
def test_samples_have_the_exact_conditional_distribution(seed, known):
    net, tables, size = random_net(seed)
    joint, names = joint_of(tables, size)
    evidence = dict.fromkeys(known, 1)
    drawn = draw(jax.random.key(seed), net, 20_000, evidence)
    for name, value in evidence.items():
        assert jnp.all(drawn[name] == value)
    rest = [n for n in names if n not in evidence]
    p = joint[tuple(evidence.get(n, slice(None)) for n in names)]
    place = np.ravel_multi_index([np.asarray(drawn[n], int) for n in rest], p.shape)
    assert chi_squared(np.bincount(place, minlength=p.size), p.ravel() / p.sum()) < 5


def test_evidence_may_differ_from_sample_to_sample():
    net, tables, size = random_net(1)
    joint, _ = joint_of(tables, size)
    n = 20_000
    last = np.arange(n) % size["N4"]
    drawn = draw(KEY, net, n, {"N4": last, "N2": 0})
    for value in range(size["N4"]):
        p = joint[:, :, 0, :, value].sum((1, 2))
        own = np.bincount(np.asarray(drawn["N0"], int)[last == value], minlength=len(p))
        assert chi_squared(own, p / p.sum()) < 5


def test_what_has_no_probability_is_not_drawn():
    net = from_tables(
        "P(A) P(B | A)", {"A": [0, 1, 0], "B": [[1, 0, 0], [0, 0, 1], [0, 1, 0]]}, "A=3, B=3"
    )
    drawn = draw(KEY, net, 5000)
    assert jnp.all(drawn["A"] == 1) and jnp.all(drawn["B"] == 2)


# ------------------------------------------------------------------------------ closed form


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_tables_are_counts_and_minibatches_add_up(alpha):
    x = np.random.default_rng(0).integers(0, 2, (60, 3)).astype(np.float32)
    x[:, 2] = np.where(x[:, 0] == 0, 0, x[:, 2])
    x = x[(x[:, 0] == 0) | (x[:, 1] == 0)]
    config = Config(net="P(A) P(B | A) P(C | A, B)", alpha=alpha)
    batches = [{"x": jnp.asarray(part)} for part in (x[:20], x[20:])]
    _, state, _ = fit(config, batches)
    params = eval_params(state)
    for a, b in itertools.product((0, 1), repeat=2):
        here = x[(x[:, 0] == a) & (x[:, 1] == b)]
        counts = np.array([np.sum(here[:, 2] == c) for c in (0, 1)]) + alpha
        want = counts / counts.sum() if counts.sum() else [0.5, 0.5]
        np.testing.assert_allclose(table_of(params, "C")[a, b], want, rtol=1e-6)
    want = (np.bincount(x[:, 0].astype(int)) + alpha) / (len(x) + 2 * alpha)
    np.testing.assert_allclose(table_of(params, "A"), want, rtol=1e-6)
    _, whole, _ = fit(config, [{"x": jnp.asarray(x)}])
    for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_a_grid_of_pixels_is_the_product_written_out():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2, (80, 3, 3, 1)).astype(np.float32)
    label = rng.integers(0, 2, 80).astype(np.int32)
    batch = {"x": jnp.asarray(x), "label": jnp.asarray(label)}
    model, state, _ = fit(Config(net="grid", label="y"), [batch])
    joint = np.zeros((2, len(x)))
    for y in (0, 1):
        joint[y] = math.log((np.sum(label == y) + 1) / (len(x) + 2))
        for r, c in itertools.product(range(3), repeat=2):
            near = lambda z, r=r, c=c: (
                z[:, r, c - 1, 0] if c else 0 * z[:, 0, 0, 0],
                z[:, r - 1, c, 0] if r else 0 * z[:, 0, 0, 0],
            )
            for i, (left, above) in enumerate(zip(*near(x), strict=True)):
                alike = (label == y) & (near(x)[0] == left) & (near(x)[1] == above)
                same = np.sum(alike & (x[:, r, c, 0] == x[i, r, c, 0]))
                joint[y, i] += math.log((same + 1) / (alike.sum() + 2))
    nats = jax.jit(model.log_prob.value)(KEY, state, batch)
    np.testing.assert_allclose(nats, np.logaddexp(*joint), rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(model.measures["log_joint"].value)(KEY, state, batch),
        np.choose(label, joint),
        rtol=1e-5,
    )
    np.testing.assert_array_equal(
        jax.jit(model.measures["error"].value)(KEY, state, batch), joint.argmax(0) != label
    )
    np.testing.assert_allclose(
        model.latents.encode(KEY, state, batch)["y"][:, 1],
        1 / (1 + np.exp(joint[0] - joint[1])),
        rtol=1e-4,
    )
    with pytest.raises(DataError, match="this batch has no label"):
        model.measures["error"](KEY, state, {"x": batch["x"]})


def test_half_an_image_is_completed_exactly():
    x = np.random.default_rng(2).integers(0, 2, (40, 2, 2, 1)).astype(np.float32)
    label = jnp.asarray(x[:, 0, 0, 0], jnp.int32)
    model, state, _ = fit(Config(net="grid", label="y"), [{"x": jnp.asarray(x), "label": label}])
    sample = jax.jit(lambda key, below: model.sample(key, state, 20_000, below))
    drawn = sample(KEY, {"pixel_1_0": 1.0, "pixel_1_1": 0.0})["x"].reshape(-1, 4)
    all_ = np.array(list(itertools.product((0, 1), repeat=4)), np.float32)
    p = np.exp(model.log_prob(KEY, state, {"x": jnp.asarray(all_.reshape(-1, 2, 2, 1))}))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    p = p.reshape(2, 2, 2, 2)[:, :, 1, 0].ravel()
    place = np.asarray(drawn[:, 0] * 2 + drawn[:, 1], int)
    assert chi_squared(np.bincount(place, minlength=4), p / p.sum()) < 5
    assert model.sample(KEY, state, 5, {"label": 1})["label"].tolist() == [1] * 5
    assert model.sample(KEY, state, 5, {"y": 1})["label"].tolist() == [1] * 5
    with pytest.raises(DataError, match=r"pixel_1_0 should be counts 0 \.\. 1, .* 2 is none"):
        model.sample(KEY, state, 5, {"pixel_1_0": 2})
    with pytest.raises(DataError, match=r"Did you mean 'pixel_1_[01]'"):
        model.sample(KEY, state, 5, {"pixel_1_9": 0})
    with pytest.raises(DataError, match="the label is the node y; give one of the two"):
        model.sample(KEY, state, 5, {"y": 1, "label": 1})


# ------------------------------------------------------------------------------------- EM


def em_by_hand(prior, tables, x):
    """One step of EM for a hidden class with independent children; p(c), [p(x_d = 1 | c)]."""
    joint = np.array(
        [
            [
                prior[c]
                * math.prod(
                    1.0 if np.isnan(v) else (t[c] if v else 1 - t[c])
                    for v, t in zip(row, tables, strict=True)
                )
                for c in range(len(prior))
            ]
            for row in x
        ]
    )
    r = joint / joint.sum(1, keepdims=True)
    new = []
    for d, t in enumerate(tables):
        seen = ~np.isnan(x[:, d])
        # A missing value counts as what is expected of it.
        ones = np.where(seen[:, None], np.nan_to_num(x[:, d])[:, None], t[None])
        new.append((r * ones).sum(0) / r.sum(0))
    return r.mean(0), np.array(new), np.log(joint.sum(1))


@pytest.mark.parametrize("lost", [0.0, 0.3])
def test_em_is_that_of_a_mixture_and_never_decreases(lost):
    rng = np.random.default_rng(3)
    z = rng.random(200) < 0.4
    x = (rng.random((200, 3)) < np.where(z[:, None], 0.85, 0.2)).astype(np.float32)
    x[rng.random(x.shape) < lost] = np.nan
    config = Config(
        net="P(A | H) P(B | H) P(C | H) P(H)",
        hidden=("H",),
        alpha=0.0,
        keep=0.0,
        missing=lost > 0,
    )
    model = make(config)
    batch = {"x": jnp.asarray(x)}
    state = jax.jit(model.init)(KEY, batch)
    step, log_prob, likelihood = jax.jit(model.step), jax.jit(model.log_prob.value), []
    for _ in range(30):
        params = eval_params(state)
        prior = table_of(params, "H")
        tables = np.array([table_of(params, name)[:, 1] for name in "ABC"])
        prior, tables, nats = em_by_hand(prior.astype(float), tables.astype(float), x)
        own = log_prob(KEY, state, batch)
        np.testing.assert_allclose(own, nats, rtol=1e-4, atol=1e-5)
        state, info = step(KEY, state, batch)
        np.testing.assert_allclose(table_of(eval_params(state), "H"), prior, atol=1e-5)
        got = [table_of(eval_params(state), name)[:, 1] for name in "ABC"]
        np.testing.assert_allclose(got, tables, atol=1e-5)
        likelihood.append(float(info["log_prob"]))
        assert likelihood[-1] == pytest.approx(nats.mean(), abs=1e-5)
    assert np.all(np.diff(likelihood) > -1e-6)
    assert likelihood[-1] > likelihood[0] + 0.05


def test_two_hidden_nodes_and_their_posteriors():
    rng = np.random.default_rng(4)
    x = rng.integers(0, 2, (100, 3)).astype(np.float32)
    config = Config(
        net="P(G) P(H | G) P(A | G) P(B | G, H) P(C | H, A)",
        states="H=3",
        hidden=("G", "H"),
        alpha=0.0,
        keep=0.0,
    )
    model, state, infos = fit(config, [{"x": jnp.asarray(x)}], steps=20)
    assert np.all(np.diff(infos) > -1e-6)
    params = eval_params(state)
    found = jax.jit(model.latents.encode)(KEY, state, {"x": jnp.asarray(x)})
    for i in range(5):
        seen = dict(zip("ABC", x[i], strict=True))
        np.testing.assert_allclose(found["H"][i], query(params, "H", seen), atol=1e-5)
        np.testing.assert_allclose(found["G"][i], query(params, "G", seen), atol=1e-5)


# ---------------------------------------------------------------------------------- decoding


def test_decode_is_the_mean_of_p_of_x_given_what_is_hidden():
    """By the whole joint of a random net, whose hidden nodes have children and parents."""
    net, tables, size = random_net(2)
    joint, names = joint_of(tables, size)
    text = " ".join(f"P({spelt})" for spelt in tables)
    states = ", ".join(f"{n}={k}" for n, k in size.items())
    config = Config(net=text, states=states, hidden=("N3", "N1"), label="N0")
    x = jnp.zeros((4, 2))
    model = make(config)
    state = jax.jit(model.init)(KEY, {"x": x, "label": jnp.zeros(4, jnp.int32)})
    own = state.params
    filled = []
    for family, table in zip(families(own.net), own.tables, strict=True):
        each = [table_of(net, node.name) for node in family.nodes]
        filled.append(table.replace(p=jnp.stack([jnp.asarray(p) for p in each])))
    state = state.replace(params=own.replace(tables=tuple(filled)))
    decode = jax.jit(model.latents.decode)
    kept = ("N0", "N1", "N3")
    rest = tuple(i for i, n in enumerate(names) if n not in kept)
    p = joint.transpose(*(names.index(n) for n in kept), *rest)
    p = p / p.sum((3, 4), keepdims=True)
    means = np.stack([p.sum(4) @ np.arange(p.shape[3]), p.sum(3) @ np.arange(p.shape[4])], -1)
    places = np.array(list(itertools.product(*(range(size[n]) for n in kept))))
    one_hot = {n: jax.nn.one_hot(places[:, i], size[n]) for i, n in enumerate(kept)}
    order = [[names[i] for i in rest].index(n) for n in own.net.columns]
    found = decode(KEY, state, one_hot)["x"]
    np.testing.assert_allclose(found, means.reshape(-1, 2)[:, order], atol=1e-5)
    # Of probabilities it is the mean over the hidden nodes, drawn by them.
    q = {n: jnp.asarray(np.random.default_rng(3).dirichlet(np.ones(size[n]), 6)) for n in kept}
    mixed = np.einsum("ba,bc,bd,acdx->bx", q["N0"], q["N1"], q["N3"], means)[:, order]
    np.testing.assert_allclose(decode(KEY, state, q)["x"], mixed, atol=1e-5)
    assert model.latents.space == categorical()


def test_decode_puts_real_hidden_nodes_at_their_values():
    tables, states, dense = mixed_net(2)
    config = Config(net=MIXED, states=states, hidden=("S", "Y"))
    with jax.enable_x64(True):
        model = make(config)
        x = jnp.zeros((3, 4)).at[:, 1].set(jnp.arange(3.0))
        state = jax.jit(model.init)(KEY, {"x": x})
        net = from_tables(MIXED, tables, states)
        own = state.params
        # The same families in another order; the centre of a real column is taken off its bias.
        by_name = {f.nodes[0].name: t for f, t in zip(families(net.net), net.tables, strict=True)}
        filled = tuple(by_name[f.nodes[0].name] for f in families(own.net))
        state = state.replace(params=own.replace(tables=filled, centre=jnp.zeros(4)))
        y, q = np.array([0.3, -1.0]), np.array([[0.2, 0.8], [1.0, 0.0]])
        found = jax.jit(model.latents.decode)(
            KEY, state, {"S": jnp.asarray(q), "Y": jnp.asarray(y)}
        )
    # Columns T, X, Z, U; X, Y, Z, U are the dense Gaussian's 0 .. 3.
    want = np.zeros((2, 4))
    for b in range(2):
        for s in range(2):
            weight, mean = np.zeros(3), np.zeros((3, 3))
            for t in range(3):
                p, mu, C = dense[s, t]
                weight[t] = p * np.exp(gaussian_log_density(y[b : b + 1], mu[1:2], C[1:2, 1:2]))
                mean[t] = (mu + C[:, 1] / C[1, 1] * (y[b] - mu[1]))[[0, 2, 3]]
            weight /= weight.sum()
            want[b] += q[b, s] * np.array([weight @ np.arange(3), *(weight @ mean)])
    np.testing.assert_allclose(found["x"], want, atol=1e-9)


def test_the_picture_of_a_class_is_the_mean_of_its_draws():
    x = np.random.default_rng(2).integers(0, 2, (60, 3, 3, 1)).astype(np.float32)
    label = jnp.asarray(x[:, 1, 1, 0], jnp.int32)
    model, state, _ = fit(Config(net="grid", label="y"), [{"x": jnp.asarray(x), "label": label}])
    picture = jax.jit(model.latents.decode)(KEY, state, {"y": jnp.eye(2)})["x"]
    assert picture.shape == (2, 3, 3, 1)
    for y in (0, 1):
        drawn = model.sample(jax.random.key(y), state, 20_000, {"label": y})["x"]
        np.testing.assert_allclose(drawn.mean(0), picture[y], atol=0.02)


# ------------------------------------------------------------------------- linear Gaussians

MIXED = "P(S) P(T | S) P(X | S) P(Y | T, X) P(Z | X, Y) P(U | S)"


def mixed_net(seed=0):
    """A net in float64, and the dense Gaussian [4] of X, Y, Z, U for each S, T."""
    rng = np.random.default_rng(seed)
    b = {
        "X": rng.normal(size=2),
        "Y": rng.normal(size=3),
        "Z": rng.normal(),
        "U": rng.normal(size=2),
    }
    w = {"Y": rng.normal(size=(3, 1)), "Z": rng.normal(size=2)}
    v = {"X": rng.random(2) + 0.1, "Y": rng.random(3) + 0.1, "Z": 0.3, "U": rng.random(2) + 0.1}
    p_s, p_ts = rng.dirichlet(np.ones(2)), rng.dirichlet(np.ones(3), size=2)
    tables = {
        "S": p_s,
        "T": p_ts,
        "X": (b["X"], np.zeros((2, 0)), v["X"]),
        "Y": (b["Y"], w["Y"], v["Y"]),
        "Z": (b["Z"], w["Z"], v["Z"]),
        "U": (b["U"], np.zeros((2, 0)), v["U"]),
    }
    states = "T=3, X=real, Y=real, Z=real, U=real"
    dense = {}
    for s, t in itertools.product(range(2), range(3)):
        W = np.zeros((4, 4))
        W[1, 0], W[2, 0], W[2, 1] = w["Y"][t, 0], *w["Z"]
        inverse = np.linalg.inv(np.eye(4) - W)
        bias = np.array([b["X"][s], b["Y"][t], b["Z"], b["U"][s]])
        noise = np.diag([v["X"][s], v["Y"][t], v["Z"], v["U"][s]])
        dense[s, t] = p_s[s] * p_ts[s, t], inverse @ bias, inverse @ noise @ inverse.T
    return tables, states, dense


def gaussian_log_density(x, mean, covariance):
    d = x - mean
    _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
    return -0.5 * (d @ np.linalg.solve(covariance, d) + log_det)


def test_linear_gaussian_nodes_are_one_dense_gaussian_for_each_configuration():
    tables, states, dense = mixed_net()
    with jax.enable_x64(True):
        net = from_tables(MIXED, tables, states)
        evidence = {"Z": 0.7, "U": -0.2}
        known, wanted = [2, 3], [1, 0]
        weight, mean, covariance = np.zeros((2, 3)), np.zeros((2, 3, 2)), np.zeros((2, 3, 2, 2))
        for (s, t), (p, mu, C) in dense.items():
            at = np.array([0.7, -0.2])
            weight[s, t] = p * np.exp(gaussian_log_density(at, mu[known], C[np.ix_(known, known)]))
            gain = C[np.ix_(wanted, known)] @ np.linalg.inv(C[np.ix_(known, known)])
            mean[s, t] = mu[wanted] + gain @ (at - mu[known])
            covariance[s, t] = C[np.ix_(wanted, wanted)] - gain @ C[np.ix_(known, wanted)]
        weight /= weight.sum()
        np.testing.assert_allclose(query(net, "S, T", evidence), weight, atol=1e-10)
        eliminated = queries._eliminated(net, of_values(net.net, evidence), ("S", "T"))
        summed = queries._log_table(net, of_values(net.net, evidence), ("S", "T"))
        np.testing.assert_allclose(summed, eliminated, atol=1e-10)
        got = moments(net, "Y, X", evidence)
        # The scope in the order of the real nodes' parents: S of X, T of Y.
        assert got.scope == ("S", "T")
        np.testing.assert_allclose(got.weight, weight, atol=1e-10)
        np.testing.assert_allclose(got.mean, mean, atol=1e-8)
        np.testing.assert_allclose(got.covariance, covariance, atol=1e-8)
        # Discrete evidence keeps its axis, and has all of the weight.
        one = moments(net, "Y, X", {**evidence, "T": 1}).weight
        np.testing.assert_allclose(one[:, 1], weight[:, 1] / weight[:, 1].sum(), atol=1e-10)
        assert np.asarray(one)[:, [0, 2]].max() == 0


def test_samples_of_real_nodes_given_real_ones():
    tables, states, _ = mixed_net()
    net = from_tables(MIXED, tables, states)
    for evidence in ({}, {"Z": 0.7}, {"S": 1}, {"S": 1, "Z": -0.5, "T": 2}):
        drawn = draw(jax.random.key(5), net, 40_000, evidence)
        reals = [n for n in ("X", "Y", "Z", "U") if n not in evidence]
        x = np.stack([drawn[n] for n in reals], -1)
        m = moments(net, reals, evidence)
        w = np.asarray(m.weight).ravel()
        means = np.asarray(m.mean).reshape(-1, len(reals))
        mean = w @ means
        second = np.asarray(m.covariance).reshape(-1, len(reals), len(reals))
        second = np.einsum("m,mij->ij", w, second + means[:, :, None] * means[:, None, :])
        np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
        np.testing.assert_allclose(x.T @ x / len(x), second, rtol=0.05, atol=0.06)


def real_data(seed, n=300):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 2, n)
    x = rng.normal(size=n) + 50 + 2 * s
    y = np.where(s, 2 * x - 60, -x) + 0.5 * rng.normal(size=n)
    return np.stack([s, x, y], -1)


def test_real_nodes_are_fitted_by_least_squares():
    data = real_data(0)
    config = Config(net="P(S) P(X | S) P(Y | S, X)", states="X=real, Y=real")
    with jax.enable_x64(True):
        batches = [{"x": jnp.asarray(part)} for part in (data[:100], data[100:])]
        _, state, _ = fit(config, batches)
        params = eval_params(state)
        table, centre = table_of(params, "Y"), np.asarray(params.centre)
        np.testing.assert_allclose(centre[1:], data[:100, 1:].mean(0))
        for s in (0, 1):
            rows = data[data[:, 0] == s]
            z = np.stack([np.ones(len(rows)), rows[:, 1]], -1)
            beta, residual, _, _ = np.linalg.lstsq(z, rows[:, 2], rcond=None)
            np.testing.assert_allclose(table.weight[0, s, 0], beta[1], rtol=1e-8)
            # b about the centre: y - c_y = b + w (x - c_x)
            bias = table.bias[0, s] + centre[2] - table.weight[0, s, 0] * centre[1]
            np.testing.assert_allclose(bias, beta[0], rtol=1e-6)
            np.testing.assert_allclose(table.variance[0, s], residual[0] / len(rows), rtol=1e-8)
    # In float32, far from the origin, nearly the same.
    _, single, _ = fit(config, [{"x": jnp.asarray(data, jnp.float32)}])
    np.testing.assert_allclose(
        table_of(eval_params(single), "Y").variance, table.variance, rtol=5e-3
    )


@pytest.mark.parametrize("lost", [0.0, 0.25])
def test_em_with_hidden_and_missing_numbers_never_decreases(lost):
    data = real_data(1).astype(np.float64)
    rng = np.random.default_rng(2)
    data[rng.random(data.shape) < lost] = np.nan
    data = data[~np.isnan(data).all(1)]
    config = Config(
        net="P(S) P(H | S) P(X | S, H) P(Y | S, X)",
        states="H=2, X=real, Y=real",
        hidden=("H",),
        alpha=0.0,
        keep=0.0,
        missing=lost > 0,
    )
    with jax.enable_x64(True):
        _, _, infos = fit(config, [{"x": jnp.asarray(data)}], steps=30)
    assert np.all(np.diff(infos) > -1e-9)
    assert infos[-1] > infos[1]


def test_missing_numbers_are_integrated_out_in_float64():
    tables, states, dense = mixed_net(1)
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(0, 2, (12, 1)), rng.integers(0, 3, (12, 1))], 1)
    x = np.concatenate([x, rng.normal(size=(12, 4))], 1)
    x[rng.random(x.shape) < 0.4] = np.nan
    with jax.enable_x64(True):
        net = from_tables(MIXED, tables, states)
        model = make(Config(net=MIXED, states=states, missing=True))
        state = jax.jit(model.init)(KEY, {"x": jnp.asarray(x)})
        state = state.replace(params=net)
        nats = jax.jit(model.log_prob.value)(KEY, state, {"x": jnp.asarray(x)})
    for row, got in zip(x, nats, strict=True):
        p, known = 0.0, ~np.isnan(row[2:])
        for (s, t), (weight, mu, C) in dense.items():
            if all(np.isnan(v) or v == k for v, k in zip(row[:2], (s, t), strict=True)):
                own = C[np.ix_(known, known)]
                p += weight * np.exp(gaussian_log_density(row[2:][known], mu[known], own))
        assert float(got) == pytest.approx(math.log(p), abs=1e-8)


def test_a_hidden_real_node_is_factor_analysis():
    """x = b + w h + ε with h ~ N(b_h, v_h): one dense Gaussian, fitted by EM."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(400, 1))
    x = h @ np.array([[1.0, -2.0, 0.5]]) + 0.3 * rng.normal(size=(400, 3)) + 1
    config = Config(
        net="P(h) P(X | h) P(Y | h) P(Z | h)",
        states="h=real, X=real, Y=real, Z=real",
        hidden=("h",),
        keep=0.0,
    )
    with jax.enable_x64(True):
        batch = {"x": jnp.asarray(x)}
        model, state, infos = fit(config, [batch], steps=60)
        assert np.all(np.diff(infos) > -1e-9)
        m = moments(eval_params(state), "X, Y, Z")
        nats = jax.jit(model.log_prob.value)(KEY, state, batch)
        want = [
            gaussian_log_density(row, np.asarray(m.mean), np.asarray(m.covariance)) for row in x
        ]
        np.testing.assert_allclose(nats, want, atol=1e-8)
        # One factor and three noises fit any covariance of three.
        np.testing.assert_allclose(m.mean, x.mean(0), atol=1e-6)
        np.testing.assert_allclose(m.covariance, np.cov(x.T, bias=True), atol=5e-3)
        first = dict(zip("XYZ", x[0], strict=True))
        mean = moments(eval_params(state), "h", first).mean
        np.testing.assert_allclose(
            model.latents.encode(KEY, state, batch)["h"][0], mean[0], atol=1e-8
        )


# ------------------------------------------------------------------- the densities made of nets


@pytest.mark.parametrize("name", ["lecture_net", "sprinkler"])
def test_a_table_sums_to_one_and_its_samples_are_of_it(name):
    density = densities.make(name)
    x = jnp.array(list(itertools.product((0.0, 1.0), repeat=4)))
    p = np.exp(density.log_prob(x).astype(float))
    assert p.sum() == pytest.approx(1, abs=1e-5)
    live = p[p > 0]
    assert -np.sum(live * np.log(live)) == pytest.approx(density.entropy, abs=1e-5)
    drawn = density.sample(KEY, 50_000)
    assert drawn.shape == (50_000, 4) and drawn.dtype == jnp.float32
    place = np.asarray(drawn @ jnp.array([8.0, 4.0, 2.0, 1.0]), int)
    assert chi_squared(np.bincount(place, minlength=16), p) < 5
    assert jnp.all(jnp.isneginf(density.log_prob(jnp.array([[0.5, 0, 0, 0], [0, 2, 0, 0]]))))


def test_the_lectures_net_is_learnt_to_its_entropy():
    density = densities.make("lecture_net")
    keys = jax.random.split(KEY, 4)
    model, state, _ = fit(Config(), [{"x": density.sample(key, 5000)} for key in keys])
    x = jnp.array(list(itertools.product((0.0, 1.0), repeat=4)))
    p = np.exp(np.asarray(density.log_prob(x), float))
    gap = np.sum(p * (np.log(p) - np.asarray(model.log_prob(KEY, state, {"x": x}), float)))
    # KL of about (free parameters) / 2n = 14 / 40000
    assert 0 <= gap < 1.5e-3


def test_values_that_are_no_states_are_refused_under_jit_too():
    net = from_tables("P(A) P(B | A)", {"A": [1.0, 0.0], "B": [[1, 0], [0, 1]]})
    for value in (7, 0.5, -1, "one", [0, 1, 0], np.nan):
        with pytest.raises(DataError, match=r"expected a state 0 \.\. 1 of B"):
            query(net, "A", {"B": value})
        with pytest.raises(DataError, match=r"expected a state 0 \.\. 1 of B"):
            jax.jit(lambda key, v=value: draw(key, net, 4, {"B": v}))(KEY)
    with pytest.raises(DataError, match=r"expected a state 0 \.\. 1 of B"):
        do(net, {"B": 7})
    with pytest.raises(DataError, match="probability 0; there is nothing to draw"):
        draw(KEY, net, 4, {"B": 1})
    for table in ([np.nan, 0.2], [1.2, -0.2]):
        with pytest.raises(ConfigError, match="probabilities that sum to 1"):
            from_tables("P(A)", {"A": table})
