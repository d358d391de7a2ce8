"""The script for a GPU runs, in its small sizes, on a CPU; both sides compute the same."""

import importlib.util
import json
import pathlib
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "experiments"


@pytest.fixture(scope="module")
def device():
    spec = importlib.util.spec_from_file_location("device", FOLDER / "device.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["device"] = module
    spec.loader.exec_module(module)
    module.benchmark.peak = lambda size=0: 1e11
    return module


@pytest.fixture(scope="module")
def workloads(device):
    return device.workloads(tiny=True)


def test_there_are_the_twelve(device, workloads):
    assert list(workloads) == [
        *("vae", "rbm", "dcgan", "wgan_gp", "unet", "dit", "pixelcnn", "gpt", "decoding"),
        *("flow", "ais", "kalman"),
    ]


# The others are those of the benchmark, whose test shows both sides the same.
@pytest.mark.parametrize(
    "name",
    [
        *("vae", "gpt", "ais", "kalman"),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("dit", "pixelcnn", "decoding")),
    ],
)
def test_both_sides_compute_the_same(device, workloads, name):
    pytest.importorskip("torch", reason="the bench extra is not installed")
    told = []
    row = device.measure(
        workloads[name], ("ours", "eager"), 2, 1, lambda row: told.append(dict(row["seconds"]))
    )
    assert row["failed"] == {} and row["disagreement"] < (5 if name == "ais" else 2e-3)
    assert row["seconds"].keys() == {"ours", "eager"} and min(row["seconds"].values()) > 0
    assert [list(each) for each in told] == [["ours"], ["ours", "eager"]]
    assert row["work"] > 0 and row["memory"]["ours"] > 0
    assert row["counted"] == ("by formula" if name in ("gpt", "decoding") else "XLA")


def test_a_side_that_fails_is_told_of_and_one_that_differs_ends_it(device, workloads):
    pytest.importorskip("torch", reason="the bench extra is not installed")
    own = workloads["kalman"]

    def broken(handed):
        raise RuntimeError("no such kernel\nand more")

    row = device.measure(own._replace(theirs=broken), ("ours", "eager"), 2, 1)
    assert row["failed"] == {"eager": "RuntimeError: no such kernel"}
    assert list(row["seconds"]) == ["ours"]

    def other(handed):
        step, check = own.theirs(handed + 1)
        return step, check

    with pytest.raises(device.ZooError, match="the two sides disagree"):
        device.measure(own._replace(theirs=other), ("ours", "eager"), 2, 1)


def test_the_work_of_a_gpt_is_six_operations_a_parameter_and_token(device):
    """And attention's: of the published count, less norms, biases, positions, more padding."""
    fields = device.gpt_fields(tiny=False)
    small = device.parameters(fields)
    assert small == 124_439_808 - 1024 * 768 - 12 * 13 * 768 - 2 * 768 + 47 * 768
    tiny = device.gpt_fields(tiny=True)
    each = 6 * device.parameters(tiny) + 12 * 2 * 16 * 8
    assert device.work_of(tiny, rows=3) == 3 * tiny["context"] * each


@pytest.mark.parametrize(
    ("name", "dtype", "most"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989.5e12),
        ("NVIDIA H100 80GB HBM3", "float32", 494.5e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H200", "bfloat16", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA A10G", "bfloat16", 1e11),
        ("Tesla T4", "float32", 8.1e12),
        ("cpu", "float32", 1e11),
    ],
)
def test_the_peak_of_a_card_is_its_own(device, name, dtype, most):
    assert device.peak(dtype, name)[0] == most
    where = device.peak(dtype, name)[1]
    assert ("measured" in where) == (most == 1e11)


ROW = {
    **{"title": "a step", "unit": "steps", "dtype": "bfloat16", "work": 2e9, "counted": "XLA"},
    **{"peak": 1e12, "peak_source": "a card", "disagreement": 1e-6},
    **{"seconds": {"ours": 0.01, "eager": 0.02}, "compile": {"ours": 3.0, "eager": 0.0}},
    **{"memory": {"ours": 5e6, "eager": None}, "failed": {"compile": "no compiler"}},
}


def test_the_page_says_what_was_measured_and_what_was_not(device):
    page = device.page(
        {
            **{"device": "Some card", "rows": {"x": ROW}, "missing": {"y": "its time was over"}},
            **{"asked": 2, "minutes": 1.5, "command": "python experiments/device.py"},
            "laws": {
                **{"held": 40, "failed": ["tests/test_laws.py::test_a[b]"], "ended": False},
                **{"variants": ["vae:digits]"], "trouble": ""},
            },
            "long": {
                **{"command": "genjax_zoo.main train", "published": 1.4697, "unit": "nats"},
                **{"seconds": 120.0, "ended": False, "trouble": ""},
                "entries": [{"measure": "log_prob", "value": 1.5, "kind": "exact", "step": 3}],
            },
        }
    )
    assert "# The zoo on Some card" in page and "1 of 2 workloads" in page
    assert "| a step | 100 steps | 50 |  | **2.00** |  | 2, XLA | 20.0% | 3.0 | 5 |  |" in page
    assert "a step: compile was not measured: no compiler" in page
    assert "y (its time was over)" in page
    assert "40 laws held and 1 failed; then the time was over. Variants: vae:digits." in page
    assert "- failed: `tests/test_laws.py::test_a[b]`" in page
    assert "published: 1.4697 nats" in page and "log_prob 1.5000" in page


def test_the_script_writes_its_page_of_a_process_each(device, tmp_path, capsys):
    out = tmp_path / "device.md"
    words = ["--tiny", "--parts=speed", "--only=kalman", "--sides=ours", "--repeats=1"]
    assert device.main([*words, f"--out={out}"]) == 0
    assert "1 of 1 workloads" in out.read_text() and "Kalman filter, 4 series" in out.read_text()
    with pytest.raises(SystemExit):
        device.main(["--only=nothing"])
    assert "--only knows vae, rbm" in capsys.readouterr().err


def test_laws_are_counted_and_what_takes_too_long_is_ended(device):
    found = device.laws(120, ("what_lies_in_a_space",))
    assert (found["held"], found["failed"], found["ended"]) == (1, [], True)
    import subprocess

    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert not device._wait(sleeper, 0.1) and sleeper.returncode is not None


def test_cards_say_where_their_numbers_are_from(device):
    entries = json.loads(device.CARDS.read_text())
    assert {e["dtype"] for e in entries} == {"bfloat16", "tensorfloat32", "float32"}
    assert all("datasheet" in e["source"] for e in entries)
