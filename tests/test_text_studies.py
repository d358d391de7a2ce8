"""The studies of texts: their own statistics, and each of them whole, as small as it goes."""

import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "experiments"))

import from_counting_to_attention
import samplers_of_text as sampling
import scaling

ROOT = pathlib.Path(__file__).resolve().parents[1]
TRUTH = scaling.Fit(E=1.0, A=20.0, B=300.0, alpha=0.4, beta=0.45)


def runs(noise=0.0, seed=0):
    """Fifteen runs whose losses are those of `TRUTH`, but for so much of log L."""
    rng = np.random.default_rng(seed)
    N, D = np.meshgrid([1e3, 4e3, 2e4, 1e5, 4e5], [1e5, 3e5, 9e5], indexing="ij")
    loss = TRUTH(N, D) * np.exp(noise * rng.normal(size=N.shape))
    return [
        scaling.Point((1, 1, 1), int(n), int(d), float(one), 0.0, 0.0)
        for n, d, one in zip(N.ravel(), D.ravel(), loss.ravel(), strict=True)
    ]


def test_the_law_that_runs_follow_is_found():
    points = runs()
    N, D, L = (np.array([getattr(p, name) for p in points], float) for name in ("N", "D", "loss"))
    start = [(2.0, 5.0, 0.2, 0.3, 0.3)]
    np.testing.assert_allclose(scaling.fitted(N, D, L, start), TRUTH, rtol=0.02)
    assert TRUTH.towards_size == pytest.approx(0.45 / 0.85)


def test_intervals_hold_the_truth_and_the_sixth_size():
    """Of a few worlds: an exponent's interval, and that of a run beyond all others."""
    held = []
    for seed in range(2):
        points = runs(0.003, seed)
        best, fits = scaling.bootstrap(points, 20, seed)
        low, high = scaling.interval([fit.alpha for fit in fits])
        value, least, most = scaling.foretold(best, fits, points, 8e5, 9e5)
        held.append((low <= TRUTH.alpha <= high, least <= float(TRUTH(8e5, 9e5)) <= most))
        assert least < value < most
    assert np.all(held)


def test_the_front_is_what_no_other_run_beats():
    point = lambda N, D, loss: scaling.Point((1, 1, 1), N, D, loss, 0.0, 0.0)
    cheap, dear, beaten = point(1, 1, 3.0), point(2, 2, 2.0), point(2, 1, 3.5)
    assert scaling.front([dear, beaten, cheap]) == [cheap, dear]


def test_distinct_grams_known_words_and_copies_are_counted():
    assert sampling.distinct(["abab", "abab"], 2) == pytest.approx(2 / 6)
    assert sampling.distinct(["abcd"], 2) == 1
    # The ends of a string may be cut, and are left out.
    assert sampling.known_words(["xx the lord zz sai"], {"the", "lord"}) == pytest.approx(2 / 3)
    assert sampling.copied(["abcdxx"], "zabcdz", 2) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    strings = ["".join(rng.choice(list("abc"), 40)) for _ in range(64)]
    halves = [sampling.distinct(list(rng.permutation(strings)[:32])) for _ in range(50)]
    assert sampling.spread(strings, 0) == pytest.approx(np.std(halves) / 2**0.5, rel=0.4)


def row(bits, distinct, error=0.01):
    return sampling.Row("", bits, error, distinct, 0.001, 0.0, 0.0, "")


def test_a_sweep_is_read_between_its_rows():
    rows = [row(1.0, 0.2), row(2.0, 0.6)]
    assert sampling.at(1.5, rows) == pytest.approx(0.4)
    assert np.isnan(sampling.at(2.5, rows))
    alone = {"as it says": row(3.0, 0.9), "greedy": row(0.5, 0.1)}
    swept = {"temperature": rows, "top-k": [row(1.1, 0.25), row(2.0, 0.61)]}
    said = sampling.claims(row(1.6, 0.8), alone, swept)
    assert all(" holds" in sentence for sentence in said), said
    swept["top-k"] = [row(1.1, 0.7), row(2.0, 0.61)]
    said = sampling.claims(row(3.5, 0.8), alone, swept)
    assert all("does NOT hold" in sentence for sentence in said), said
    assert "but for top-k" in said[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "words"),
    [
        (from_counting_to_attention, ["--steps=5", "--batch-size=4", "--capacity=65536"]),
        (sampling, ["--steps=5", "--strings=6", "--capacity=65536"]),
        (scaling, ["--tokens=100,200,400", "--batch-size=4"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_study_runs_and_writes_its_page(module, words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    module.main(["--small", "--source=text:CONTRIBUTING.md", f"--out={tmp_path}", *words])
    page = (tmp_path / f"{module.__name__}.md").read_text()
    assert page.startswith("# ")
    assert "Claim 2" in page
    assert "python experiments/" in page
    assert (tmp_path / f"{module.__name__}.png").stat().st_size > 5000
