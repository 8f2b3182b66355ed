"""Options of `sharedllm serve --ray`, and the plan made of them. No Ray is started."""

import sys
from pathlib import Path

import pytest

from sharedllm.utils.errors import UserError


@pytest.mark.parametrize(("said", "found"), [("1", (1, 1)), ("3", (3, 3)), ("1-4", (1, 4)), (" 2-2 ", (2, 2))])
def test_how_many_replicas(said, found):
    from sharedllm.cli.serve_ray import Options

    assert Options(said).range == found


@pytest.mark.parametrize("said", ["0", "4-1", "-1", "two", "", "1-", "1-4-5"])
def test_how_many_replicas_wrong(said):
    from sharedllm.cli.serve_ray import Options

    with pytest.raises(UserError, match="write 2, or 1-4"):
        _ = Options(said).range


def test_options_of_ray(run, monkeypatch):
    for option, value in (("--replicas", "2"), ("--threads", "2"), ("--gpus", "1"), ("--cluster", "auto")):
        code, out, err = run("serve", option, value)
        assert (code, out, err) == (2, "", f"error: {option} needs --ray.\n")
    code, _, err = run("serve", "--ray", "--replicas", "many")
    assert code == 2 and "--replicas many is neither a number nor a range" in err
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("serve", "--ray")
    assert (code, err) == (2, "error: ray is not installed: pip install 'sharedllm[ray]'.\n")


def test_a_plan_names_what_replicas_elsewhere_can_find(tmp_path, monkeypatch):
    from sharedllm.cli.serve_ray import Options, planned

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    limits = {"budget": 9, "score": None, "seconds": 1.0, "most_characters": 5, "most_upload": 5}
    plan = planned(Options(), "m", "m", ["a.memory", "s3://b/c"], Path("f"), 8, limits)
    assert (plan.model, plan.memories) == (str(tmp_path / "m"), (str(tmp_path / "a.memory"), "s3://b/c"))
    assert plan.folder == str(tmp_path / "f") and (plan.open, plan.threads) == (8, 1)
    assert planned(Options(), "tiny", "tiny", [], None, 8, limits).model == "tiny"
