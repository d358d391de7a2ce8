"""What several test files need: a tiny family, and runs of it; how tests are compiled and ordered.

Most of the tests' time goes into compiling. So XLA compiles in haste here, and what it compiled is
kept for the next run of the tests, in .pytest_cache/jax:

    JAX_COMPILATION_CACHE_DIR=DIR     keeps it elsewhere
    JAX_ENABLE_COMPILATION_CACHE=0    keeps nothing
    XLA_FLAGS=                        compiles as a user's process does, or as the flags say
"""

import dataclasses
import gc
import os
import pathlib

# Two emulated devices would change nothing but the time; tests that want more start a process.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Batched LAPACK calls that wait for each other must not run out of threads (startup.py); tests are
# too small to be slowed by many.
os.environ.setdefault("PJRT_NPROC", "16")
# Subprocesses keep what they compile too. Even what compiles in a hundredth of a second is read
# faster, and there are thousands of it.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import jax.numpy as jnp
import pytest

from genjax_zoo.contract import NOTHING, Exactness, Measure, Model
from genjax_zoo.learn.state import of_params
from genjax_zoo.learn.verbs import descend
from genjax_zoo.maths.probability.given import read_given
from genjax_zoo.models import ZOO, Family
from genjax_zoo.run.config import read
from genjax_zoo.run.devices import startup

ROOT = pathlib.Path(__file__).resolve().parents[1]
KEPT, KEPT_BYTES = ROOT / ".pytest_cache" / "jax", 10**9
"""Compiled programs, which are brought down to this size before the tests begin."""
# The newer emitters of loops make nothing here faster, and take as long as all other compiling.
# A program compiled in one part takes a tenth less of the processor: the cores are busy anyway.
HASTY = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
if "XLA_FLAGS" not in os.environ and startup.known(*(f.partition("=")[0] for f in HASTY)):
    os.environ["XLA_FLAGS"] = " ".join(HASTY)


def pytest_configure(config):
    # One of several processes of the tests finds room made.
    if not hasattr(config, "workerinput") and KEPT.is_dir():
        startup.make_room(KEPT, KEPT_BYTES)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also the tests that are marked slow")


def pytest_collection_finish(session):
    """What is imported stays: the garbage collector need not look at all of it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(config, items):
    """Leaves out what takes long and says little that other tests do not, unless asked for."""
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in set(slow)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keeps together what shares compiled functions: a file, and of the laws those of a variant."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, test = nodeid.partition("::")
            return path + test.partition("[")[2] if path.endswith("test_laws.py") else path

    return Together(config, log)


@pytest.fixture(scope="module", autouse=True)
def compiler(request):
    """Most tests compile far longer than they compute; a file with TRAINS does not, and says so.

    What a file compiled is freed: a process may hold some 65,000 maps of memory, and then dies.
    """
    hasty = not getattr(request.module, "TRAINS", False)
    jax.config.update("jax_disable_most_optimizations", hasty)
    # Processes that a test starts read it here.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(hasty)
    yield
    jax.clear_caches()
    gc.collect()


def compiled(model: Model) -> Model:
    """The same model, each of whose functions is compiled as a whole.

    Computed operation by operation, every one of them is a program to compile.
    """

    whole = lambda function: function and jax.jit(function)
    measure = lambda of: of and dataclasses.replace(of, value=whole(of.value), once=whole(of.once))
    behind = model.latents
    if behind:
        behind = behind._replace(encode=whole(behind.encode), decode=whole(behind.decode))
    draw = jax.jit(model.sample, static_argnums=2)
    return model._replace(
        init=whole(model.init),
        step=whole(model.step),
        # What is given is looked at before anything is computed.
        sample=lambda key, state, n, given=NOTHING: (
            model.sample(key, state, n, given) if given else draw(key, state, n)
        ),
        log_prob=measure(model.log_prob),
        measures={name: measure(of) for name, of in model.measures.items()},
        latents=behind,
    )


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    """A diagonal Gaussian, learnt by descent: small enough to be run a hundred times."""

    average: float = 0.9


def make_toy(config, tx):
    def init(key, batch):
        return {"mean": jnp.zeros(batch["x"].shape[1:]), "scale": jnp.ones(())}, ()

    def log_prob(key, params, batch):
        z = (batch["x"] - params["mean"]) / params["scale"]
        axes = tuple(range(1, z.ndim))
        each = -0.5 * z**2 - jnp.log(params["scale"]) - 0.5 * jnp.log(2 * jnp.pi)
        return jnp.sum(each, axes)

    def loss(key, params, memory, batch):
        # The noise makes the dice matter: a run that forgot its key would end elsewhere.
        noise = 0.01 * jax.random.normal(key, params["mean"].shape)
        noisy = {**params, "mean": params["mean"] + noise}
        return -jnp.mean(log_prob(key, noisy, batch)), (memory, {})

    def sample(key, params, n, given=NOTHING):
        read_given(given, {}, n, "toy")
        x = params["mean"] + params["scale"] * jax.random.normal(key, (n, *params["mean"].shape))
        return {"x": x}

    init_step = descend(init, loss, tx, average=config.average)
    return Model(
        *init_step,
        sample=of_params(sample),
        log_prob=Measure(of_params(log_prob), Exactness.EXACT, density=True),
    )


@pytest.fixture
def toy(monkeypatch):
    """Puts the family `toy` into the roster; returns a function that makes a run of it."""
    monkeypatch.setitem(
        ZOO, "toy", Family("toy", "descend", "A Gaussian.", lambda: (ToyConfig, make_toy))
    )

    def make(**fields):
        given = {
            "model": {"name": "toy"},
            "steps": 60,
            "data": {"source": "digits", "batch_size": 20},
            "optimizer": {"learning_rate": 0.02},
            "log_every": 10,
            "checkpoint_every": 20,
            "sample_every": 30,
            "eval_every": 20,
            "eval_examples": 100,
            "steps_per_call": 5,
        }
        return read(given | fields)

    return make
