"""The benchmark runs, counts what it should, and would notice two sides that differ."""

import importlib.util
import pathlib
import sys

import jax.numpy as jnp
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "experiments"


def load(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark():
    return load("benchmark")


def test_the_page_of_a_row_says_what_was_measured(benchmark):
    row = benchmark.Row(
        "a step", ours=0.01, theirs=0.02, compile_seconds=1.0, flops=1e9, disagreement=3e-7
    )
    page = benchmark.page([row], 200e9, 1.9, "python experiments/benchmark.py")
    assert "| a step | 100 | 50 | **2.00** | 1 | 50% | 1.0 |" in page
    assert "a step: 3.0e-07" in page


def test_any_config_is_measured_alone(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "peak", lambda: 1e11)
    monkeypatch.setattr(benchmark, "cores_present", lambda: 2.0)
    config = FOLDER.parent / "configs" / "vae.py"
    assert benchmark.main([f"--config={config}:toy", "--repeats=1"]) == 0
    assert f"| {config}:toy | " in capsys.readouterr().out


def test_the_work_of_a_step_is_that_of_its_products(benchmark):
    """A VAE's step is products: 2 for forward and 4 for backward per weight, save at the input."""
    sizes = [(64, 50), (50, 8), (4, 50), (50, 64)]
    model = benchmark.family_model(
        "vae",
        {"latents": 4, "widths": (50,), "activation": "relu", "decoder": "bernoulli"},
        benchmark.optimizers.Config("sgd"),
    )
    x = jnp.zeros((256, 64))
    ours = benchmark.Ours(model, lambda key, i: {"x": x}, 2, seed=0)
    products = 256 * (6 * sum(a * b for a, b in sizes) - 2 * 64 * 50)
    assert products < ours.flops < 1.4 * products


def narrow(normalise):
    return {
        "generator": {"name": "conv", "widths": (8, 4), "normalise": "batch"},
        "discriminator": {
            "name": "conv",
            "widths": (4, 8),
            "activation": "leaky_relu",
            "normalise": normalise,
        },
    }


SMALL = {
    # name: (fields, shape of a batch)
    "vae": ({"latents": 3, "widths": (8,)}, (8, 64)),
    "conv_vae": ({"latents": 3, "widths": (4, 6)}, (8, 8, 8, 1)),
    "flow": ({"layers": 3, "widths": (8, 6)}, (8, 10)),
    "unet": (
        {"network": {"name": "unet", "width": 8, "multiples": (1, 2), "blocks": 1}},
        (4, 7, 7, 1),
    ),
    "dcgan": ({**narrow("batch"), "latents": 5}, (8, 7, 7, 1)),
    "wgan_gp": ({**narrow("none"), "latents": 5}, (20, 7, 7, 1)),
    "rbm_cd": ({"hidden": 30}, (8, 64)),
    "gpt_small": ({"layers": 2, "width": 16, "heads": 2, "context": 8}, (3, 9)),
}


@pytest.mark.parametrize("name", SMALL)
def test_both_sides_compute_the_same(benchmark, name):
    pytest.importorskip("torch", reason="the bench extra is not installed")
    known = benchmark.workloads()[name]
    fields, shape = SMALL[name]
    workload = known._replace(fields={**known.fields, **fields}, shape=shape)
    row = benchmark.compare(workload, steps=2, repeats=1, batches=3)
    assert row.disagreement < 1e-4 and row.theirs > 0
    if name == "unet":
        row = benchmark.sampling(workload, steps=3, repeats=1)
        assert row.disagreement < 1e-4 and row.theirs > 0
    if name == "gpt_small":
        row = benchmark.decoding(workload, repeats=1)
        assert row.disagreement < 1e-4 and row.theirs > 0


def test_sides_that_differ_are_refused(benchmark):
    pytest.importorskip("torch", reason="the bench extra is not installed")
    twins = load("benchmark_torch")
    with pytest.raises(benchmark.ZooError, match="the two sides disagree"):
        twins.differ([1.0, 2.0], [1.0, 2.1], "vae")
