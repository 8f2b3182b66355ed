"""The command `qa`: what it asks by default, and what it refuses before it loads a model."""

import pytest
from qa_files import write_sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data") / "qa")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "--data nowhere is not a folder"),
        (["--set", "best"], "--set best is not known"),
        (["--system", ""], "--system '' names no system: use some of"),
        (["--system", "closed,best"], "--system best is not known"),
        (["--budgets", "0"], "--budgets 0: with no token"),
        (["--budgets", "20,0K"], "--budgets 20,0K: with no token"),
        (["--limit-s", "-1"], "--limit-s -1 is not allowed: it must be greater"),
        (["--limit-s", "nan"], "--limit-s nan is not allowed: nan is no number"),
    ],
    ids=str,
)
def test_what_can_not_be_asked_is_refused_before_a_model_is_loaded(
    run, folder, base_folder, tmp_path, monkeypatch, options, message
):
    monkeypatch.setattr("sharedllm.cli.loading.load_any", lambda *_: pytest.fail("a model is loaded"))
    code, _, err = run("qa", base_folder, "--data", folder, "-o", tmp_path / "out", *options)
    assert code == 2 and message in err and err.count("\n") == 1, err


def test_a_sharedllm_is_asked_beside_its_pieces_as_text(run, folder, tmp_path):
    """Without naming systems; of those of which no question has room a line says so."""
    options = ["--data", folder, "--set", "nq", "--length", "700", "-n", 2, "-o", tmp_path]
    code, _, err = run("qa", "tiny", *options)
    assert code == 2 and "--base is missing" in err
    code, _, err = run("qa", "tiny", "--base", "base", *options)
    assert code == 0, err
    report = (tmp_path / "report.md").read_text()
    for name in ("sharedllm", "same-pieces-text", "closed", "wrong", "oracle-text", "bm25-text"):
        assert f"| {name} | " in report
    assert "bm25-text, 512 tokens: nq-700-0: none of 2 questions could be asked: " in err
    assert "do not fit into the window of 512" in err
