"""One step over many devices and processes: the same numbers to rounding."""

import json
import os
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_zoo.contract import CheckpointError, ConfigError
from genjax_zoo.run.devices import Devices, sharding, startup
from genjax_zoo.run.record import checkpoint
from tests.conftest import ROOT

COMMAND = [
    *(sys.executable, "-m", "genjax_zoo.main", "train", "--config=configs/vae.py:digits"),
    *("--config.steps=20", "--config.log_every=5", "--config.checkpoint_every=10"),
    *("--config.eval_every=10", "--config.eval_examples=64", "--config.sample_every=10"),
    *("--config.data.batch_size=64", "--config.model.importance_samples=5"),
    "--config.optimizer.schedule=constant",
]


def train(folder, devices, *more, **variables):
    environment = os.environ | {
        "XLA_FLAGS": " ".join(
            [os.environ.get("XLA_FLAGS", ""), f"--xla_force_host_platform_device_count={devices}"]
        ),
        "JAX_PLATFORMS": "cpu",
        **variables,
    }
    return subprocess.Popen(
        [*COMMAND, f"--workdir={folder}", *more],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process, seconds=300):
    told, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, told
    return told


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return np.array([value for line in lines for _, value in sorted(line.items())])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    finish(train(folder, 1))
    return metrics(folder)


@pytest.mark.parametrize(
    "devices, more",
    [
        pytest.param(2, (), marks=pytest.mark.slow),
        pytest.param(8, (), marks=pytest.mark.slow),
        (8, ("--config.devices.fsdp=4", "--config.devices.min_split=64")),
    ],
)
def test_same_run_on_several_devices_agrees_to_rounding(tmp_path, alone, devices, more):
    finish(train(tmp_path, devices, *more))
    np.testing.assert_allclose(metrics(tmp_path), alone, rtol=2e-4)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def by_hand(port, process):
    return [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={process}"], {}


def by_slurm(port, process):
    return ["--distributed=auto"], slurm(process) | {"JAX_COORDINATOR_PORT": str(port)}


def slurm(process, nodes="localhost", count=1):
    return {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": nodes, "SLURM_STEP_NUM_NODES": str(count),
        "SLURM_NTASKS": "2", "SLURM_PROCID": str(process), "SLURM_LOCALID": str(process),
    }  # fmt: skip


def test_two_processes_train_checkpoint_and_resume_together(tmp_path, alone):
    for steps, found in ((10, by_hand), (20, by_slurm)):
        port = free_port()
        pair = []
        for p in range(2):
            flags, variables = found(port, p)
            more = [*flags, f"--config.steps={steps}", "--allow_config_change"]
            pair.append(train(tmp_path, 1, *more, **variables))
        said = [finish(process) for process in pair]
        assert (
            f"2 processes are here; process 0 is at {'localhost' if steps > 10 else ''}" in said[0]
        )
    runs = json.loads((tmp_path / "run.json").read_text())
    assert [run["first_step"] for run in runs] == [0, 10]
    np.testing.assert_allclose(metrics(tmp_path), alone, rtol=2e-4)


SILENT = """
import sys, time, jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from genjax_zoo.run.record import checkpoint
jax.devices()
if sys.argv[2] == "1":
    time.sleep(60)
began = time.time()
try:
    checkpoint.barrier("meeting point", seconds=3)
except Exception as error:
    print(type(error).__name__, error, flush=True)
print(f"waited {time.time() - began:.0f}", flush=True)
import os
os._exit(0)
"""


def test_a_silent_process_does_not_hold_the_others():
    port = free_port()
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", SILENT, f"127.0.0.1:{port}", str(p)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for p in range(2)
    ]  # fmt: skip
    began = time.time()
    told, _ = pair[0].communicate(timeout=50)
    pair[1].kill()
    assert "CheckpointError" in told and "'meeting point'" in told, told
    assert time.time() - began < 45


def test_barrier_of_one_process_is_no_wait():
    checkpoint.barrier("alone", seconds=1)
    assert issubclass(checkpoint.Damaged, CheckpointError)


def test_mesh_that_does_not_fit_says_so():
    with pytest.raises(
        ConfigError, match=r"3 x 1 x 1 = 3 devices, but .* has 1; set all three to 1"
    ):
        sharding.lay_out(Devices(data=3), 6)
    with pytest.raises(ConfigError, match="devices: fsdp should be at least 1, got 0"):
        Devices(fsdp=0)
    for data in (0, -2):
        with pytest.raises(ConfigError, match="devices: data should be at least"):
            Devices(data=data)


def test_state_rule_splits_the_longest_axis_that_divides():
    rules = sharding.rules_of(Devices(), jax.sharding.AbstractMesh((2, 4, 1), sharding.MESH_AXES))
    shapes = {
        "wide": jax.ShapeDtypeStruct((30, 64), jnp.float32),
        "tall": jax.ShapeDtypeStruct((128, 64), jnp.float32),
        "odd": jax.ShapeDtypeStruct((33, 35), jnp.float32),
        "small": jax.ShapeDtypeStruct((8,), jnp.float32),
    }
    specs = {k: tuple(v.spec) for k, v in sharding.of_state(rules, shapes, 100).items()}
    assert specs == {"wide": (None, "fsdp"), "tall": ("fsdp",), "odd": (), "small": ()}


# --------------------------------------------------------------------- compiled programs are kept

KEPT = """
import jax, sys
from genjax_zoo.run.devices import startup
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
startup.keep_compiled()
print(jax.jit(lambda x: jax.numpy.sin(x) @ x.T)(jax.numpy.ones((3, 3))).sum())
print(hits.count("/jax/compilation_cache/cache_hits"))
"""


def kept(**variables):
    """What two processes print, one after the other, with these environment variables."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    run = lambda: subprocess.run(
        [sys.executable, "-c", KEPT], cwd=ROOT, env=environment | variables, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    return run(), run()


def test_what_one_process_compiles_the_next_one_finds(tmp_path):
    first, second = kept(XDG_CACHE_HOME=str(tmp_path))
    assert first.stdout.split()[0] == second.stdout.split()[0]
    assert first.stdout.split()[1] == "0" and int(second.stdout.split()[1]) > 0
    assert list((tmp_path / "genjax_zoo" / "compiled").glob("*-cache"))
    assert first.stderr == second.stderr == ""


@pytest.fixture
def updates(monkeypatch):
    """What jax is asked to do, without doing it."""
    made = {}
    monkeypatch.setattr(type(jax.config), "update", lambda self, name, to: made.update({name: to}))
    return made


def test_where_compiled_programs_are_kept_is_the_users_to_say(tmp_path, monkeypatch, updates):
    monkeypatch.setenv("HOME", str(tmp_path))
    default = tmp_path / ".cache" / "genjax_zoo" / "compiled"
    assert startup.keep_compiled({}) == default and default.is_dir()
    assert updates["jax_compilation_cache_dir"] == str(default)
    assert startup.keep_compiled({"GENJAX_ZOO_CACHE": "~/mine"}) == tmp_path / "mine"
    assert list((tmp_path / "mine").iterdir()) == []
    updates.clear()
    assert startup.keep_compiled({"GENJAX_ZOO_CACHE": "off"}) is None
    assert startup.keep_compiled({"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}) is None
    assert updates == {}


def test_a_folder_that_cannot_be_written_is_one_line_and_no_failure(tmp_path, capsys, updates):
    (tmp_path / "file").write_text("")
    assert startup.keep_compiled({"GENJAX_ZOO_CACHE": str(tmp_path / "file" / "below")}) is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "compiled programs are not kept, for" in said
    assert "set GENJAX_ZOO_CACHE to another folder, or to off" in said and updates == {}


def test_what_was_not_used_for_longest_makes_room(tmp_path):
    for age, name in enumerate("abcde"):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - age, 500))
    (tmp_path / "other").write_bytes(bytes(10_000))
    startup.make_room(tmp_path, 250)
    assert {p.name for p in tmp_path.iterdir()} == {"a-cache", "b-cache", "other"}
    startup.make_room(tmp_path, 250)
    assert len(list(tmp_path.iterdir())) == 3
