"""--debug adds the traceback, and changes nothing else."""

import pytest


@pytest.mark.parametrize(
    "arguments",
    [["info", "nosuch.memory"], ["ask", "nosuch.txt", "?"], ["read"], ["read", "x", "-o", "y.memory"], ["nosuch"]],
)
def test_debug_keeps_the_exit_code_and_the_line(run, arguments):
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ")
    code, out, traced = run("--debug", *arguments)
    assert (code, out) == (2, "") and traced.startswith("Traceback") and traced.endswith(err)


def test_a_fault_of_the_program_keeps_its_traceback(run, monkeypatch):
    monkeypatch.setattr("sharedllm.store.look", None)
    for arguments in (["info", "tiny"], ["--debug", "info", "tiny"]):
        assert run(*arguments)[0] == 0
    monkeypatch.setattr("sharedllm.store.is_memory", None)
    with pytest.raises(TypeError):
        run("info", "tiny")
