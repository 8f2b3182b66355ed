"""`sharedllm doctor`: a report to paste, and a self-check that fails when something is wrong."""

import copy
import json
import re

import pytest
import torch

from sharedllm.cli import doctor
from sharedllm.installation import check, machine
from sharedllm.installation.check import STEPS, self_check
from sharedllm.utils.extras import EXTRAS
from sharedllm.utils.version import __version__


def test_all_is_well(run):
    code, out, err = run("doctor", "--json")
    report = json.loads(out)
    assert (code, err, report["ok"]) == (0, "", True)
    assert [(c["name"], c["ok"]) for c in report["checks"]] == [(name, True) for name in STEPS]
    assert sum(c["seconds"] for c in report["checks"]) > 0
    assert "48213" in report["checks"][2]["found"]
    assert report["versions"]["sharedllm"] == __version__ and report["versions"]["torch"] == torch.__version__
    assert report["processor"]["gflops"]["float32"] > 0 and report["processor"]["gflops"]["bfloat16"] > 0
    assert report["memory"]["free"] <= report["memory"]["total"]
    assert all(disk["free"] <= disk["total"] for disk in report["disk"].values())
    assert report["extras"].keys() == EXTRAS.keys()
    assert set(report["kernels"].values()) <= {"products", "shared", "grouped", "library"}


@pytest.fixture(scope="module")
def this_machine():
    return machine.describe_machine(torch.device("cpu"))


@pytest.fixture
def quick(monkeypatch, this_machine):
    """A machine that is described at once, and checks that take no time."""
    described = copy.deepcopy(this_machine)
    monkeypatch.setattr(machine, "describe_machine", lambda device: described)
    monkeypatch.setattr(
        check, "STEPS", {"one": lambda parts: (True, "found it"), "two": lambda parts: (True, "this too")}
    )
    return described


def test_the_report_is_plain_text(run, quick):
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    headings = ["versions", "machine", "kernels of attention", "extras", "self-check", "all is well"]
    assert [line for line in out.splitlines() if line and not line.startswith(" ")] == headings
    assert re.search(r"^  ok: one +found it \(0\.0 s\)$", out, re.MULTILINE) and "\x1b" not in out


def test_a_check_that_fails_is_exit_code_1(run, quick, monkeypatch):
    monkeypatch.setattr(check, "STEPS", check.STEPS | {"two": lambda parts: (False, "5, not 6")})
    code, out, err = run("doctor")
    assert (code, err) == (1, "")
    assert re.search(r"^  FAILED: two +5, not 6 \(0\.0 s\)$", out, re.MULTILINE)
    assert out.endswith("something is wrong: paste this report into an issue\n")
    code, out, _ = run("doctor", "--json")
    assert code == 1 and json.loads(out)["ok"] is False


def test_missing_extras_are_named_with_the_command(quick):
    quick["extras"]["serve"]["missing"] = ["fastapi", "uvicorn"]
    (line,) = [line for line in doctor.shown(quick) if line.startswith("  serve")]
    assert "missing fastapi, uvicorn: pip install 'sharedllm[serve]'" in line


def test_a_gpu_and_no_compiler_are_shown(quick):
    quick |= {"gpu": [{"name": "A100", "free": 30e9, "total": 40e9, "capability": "8.0"}], "compiler": None}
    text = "\n".join(doctor.shown(quick))
    assert "A100, 30.0 GB of 40.0 GB free, capability 8.0" in text and "none: torch.compile can't be used" in text


def test_one_thread_is_no_threads(quick):
    for cores, threads, said in ((1, 1, "1 core, 1 thread"), (64, 1200, "64 cores, 1,200 threads")):
        quick["processor"] |= {"name": "A CPU", "cores": cores, "threads": threads}
        (line,) = [line for line in doctor.shown(quick) if line.startswith("  processor")]
        assert line.endswith(f"A CPU, {said}")


def test_folders_below_home_name_nobody(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.Path, "home", lambda: tmp_path)
    assert machine._short(str(tmp_path / "a" / "b")) == "~/a/b"
    assert machine._short(f"{tmp_path}2/b") == f"{tmp_path}2/b" and machine._short(str(tmp_path)) == "~"


def test_an_error_in_a_check_is_its_result(monkeypatch):
    def broken(parts):
        raise ZeroDivisionError("all of it\nwent wrong")

    monkeypatch.setattr(check, "STEPS", {"one": broken, "two": check._read})
    first, second = self_check(torch.device("cpu"))
    assert not first.ok and re.fullmatch(r"ZeroDivisionError: all of it went wrong \(test_doctor.py:\d+\)", first.found)
    assert not second.ok and "an earlier check did not get so far" in second.found


def test_a_wrong_model_is_found(monkeypatch):
    """Weights that are damaged but load: the fact is forgotten."""
    load = check.load_model

    def damaged(*arguments, **options):
        model = load(*arguments, **options)
        with torch.no_grad():
            model.model.upper.layers[0].self_attn.v_proj.weight.zero_()
        return model

    monkeypatch.setattr(check, "load_model", damaged)
    monkeypatch.setattr(check, "STEPS", dict([*STEPS.items()][:3]))
    assert [c.ok for c in self_check(torch.device("cpu"))] == [True, True, False]


def test_a_wrong_fast_path_is_found(monkeypatch):
    monkeypatch.setattr(check, "reference_logits", lambda model, running, context: torch.zeros(len(running), 1))
    found = {c.name: c.ok for c in self_check(torch.device("cpu"))}
    assert not found.pop("the fast path equals the reference") and all(found.values())


def test_a_library_that_can_not_be_imported_is_one_line(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sharedllm.installation.machine", None)
    code, out, err = run("doctor")
    assert (code, out, err.count("\n")) == (2, "", 1) and "a library can't be imported" in err
