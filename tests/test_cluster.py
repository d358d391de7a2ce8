"""How processes find each other, and what is said of those that do not come."""

import concurrent.futures
import socket

import pytest

from genjax_zoo.contract import ConfigError, ZooError
from genjax_zoo.run.devices import cluster, roll_call
from genjax_zoo.run.devices.cluster import Place, found, told


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def meeting(seconds, *who, knock=b""):
    """What each of these (process, processes) is told; None where all is well."""
    port = free_port()

    def meet(process, processes):
        try:
            return roll_call.meet(f"127.0.0.1:{port}", processes, process, seconds)
        except ZooError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = [pool.submit(meet, *each) for each in who]
        if knock:
            other = pool.submit(stranger, port, knock)
            assert other.result(20) is None
        return [each.result(20) for each in asked]


def stranger(port, knock):
    """Somebody else's program, which finds the port open."""
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as peer:
                return peer.sendall(knock)
        except (ConnectionRefusedError, ConnectionResetError):
            # Nobody listens yet, or somebody is about to.
            pass


def test_all_processes_meet_in_any_order():
    assert meeting(10, (2, 3), (0, 3), (1, 3)) == [None] * 3
    assert meeting(10, (0, 1)) == [None]


def test_a_stranger_at_the_port_is_none_of_them():
    for knock in (b"GET / HTTP/1.1\r\n\r\n", b"[1, {}]\n", b"[[], 2]\n"):
        assert meeting(10, (0, 2), (1, 2), knock=knock) == [None] * 2


def test_every_process_that_is_here_names_those_that_are_not():
    said = meeting(1, (0, 5), (3, 5))
    assert said[0] == said[1]
    assert said[0].startswith("processes 1, 2, 4 of 0 .. 4 did not come to process 0 at 127.0.0.1:")
    assert "within 1 s" in said[0] and "--distributed_seconds" in said[0]


def test_many_that_are_missing_are_counted():
    assert roll_call._named(range(1, 30)).endswith("9, 10, ... (29 of them)")
    assert roll_call._named([3]) == "process 3"


def test_without_process_0_its_address_is_named():
    (said,) = meeting(0.5, (1, 2))
    assert said.startswith("process 1 of 0 .. 1 did not reach process 0 at 127.0.0.1:")
    assert "Connection refused" in said
    assert "On several hosts, 127.0.0.1 is each one itself" in said


@pytest.mark.parametrize(
    "others, said",
    [
        ([(1, 3), (1, 3)], "two processes were told that they are number 1 of 0 .. 2"),
        ([(1, 4)], "process 1 was told of 4 processes, and process 0 of 3"),
        ([(7, 3)], "a process was told that it is number 7 of 0 .. 2"),
    ],
)
def test_processes_that_were_told_otherwise_are_told_so(others, said):
    assert all(each.startswith(said) for each in meeting(5, (0, 3), *others))


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ZooError, match=f"cannot listen on port {port}.*Address already in use"):
            roll_call.meet(f"127.0.0.1:{port}", 2, 0, 1)


# --------------------------------------------------------------------------- who tells the place

SLURM = {
    "SLURM_JOB_ID": "4097", "SLURM_STEP_NODELIST": "node[07-08],other", "SLURM_NTASKS": "6",
    "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "3",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.96.0.1,10.148.0.1:34911", "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip


@pytest.fixture
def tells(monkeypatch):
    """Lets a cluster tell of this process, by variables, and no other cluster."""

    def tell(variables):
        for name in {*SLURM, *OPEN_MPI, "JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT"}:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return tell


def test_slurm_and_open_mpi_tell_the_place(tells):
    tells(SLURM)
    assert found("auto") == Place("node07:61441", 6, 3, [1]) == found("slurm")
    tells(SLURM | {"JAX_COORDINATOR_PORT": "77"})
    assert found("auto").coordinator == "node07:77"
    tells(OPEN_MPI)
    assert found("auto") == Place("10.96.0.1:61442", 4, 2, [0])
    # An Open MPI job within an allocation of SLURM's.
    tells(OPEN_MPI | SLURM)
    assert found("auto").processes == 4 and found("slurm").processes == 6


@pytest.mark.parametrize(
    "variables, refused",
    [
        (SLURM | {"SLURM_STEP_NODELIST": "localhost"}, True),
        (SLURM | {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}, False),
        (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "8192.0;tcp://127.0.0.1:34911"}, True),
        (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "8192.0;tcp6://[::1]:34911"}, True),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "127.0.1.1:5"}, True),
    ],
)
def test_a_loopback_coordinator_of_several_hosts_is_refused(tells, variables, refused):
    tells(variables)
    if not refused:
        assert found("auto").process == 3
        return
    with pytest.raises(ConfigError, match=r"which to each host is itself, and the \d processes"):
        found("auto")


def test_no_cluster_half_a_cluster_and_an_unknown_one_say_so(tells):
    tells({})
    with pytest.raises(ConfigError, match="--distributed=auto: jax finds no cluster"):
        found("auto")
    with pytest.raises(ConfigError, match=r"unknown value of --distributed: 'slrum'. Did you mean"):
        found("slrum")
    half = {name: value for name, value in OPEN_MPI.items() if name != "OMPI_COMM_WORLD_SIZE"}
    tells(half)
    with pytest.raises(ConfigError, match=r"KeyError 'OMPI_COMM_WORLD_SIZE'. Start it by srun"):
        found("auto")


def test_three_flags_tell_the_place_or_say_what_is_missing():
    assert told("host:1", 2, 1) == Place("host:1", 2, 1)
    for place in ((None, 2, 1), ("host:1", None, 1), ("host:1", 2, None), ("host:1", 2, 2)):
        with pytest.raises(ConfigError, match="several processes need all of --coordinator"):
            told(*place)
    for odd in ("host", "host:x", ":5", "host:0"):
        with pytest.raises(ConfigError, match=f"--coordinator={odd} is no HOST:PORT"):
            told(odd, 2, 1)


def test_one_process_of_one_joins_nobody(monkeypatch):
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *a, **k: joined.append((a, k)))
    cluster.join(Place("127.0.0.1:1", 1, 0), 9)
    assert joined == [(("127.0.0.1:1", 1, 0, None), {"initialization_timeout": 9})]
