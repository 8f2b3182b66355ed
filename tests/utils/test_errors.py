"""A user's mistake is reported in one line; a fault of the program keeps its traceback."""

import pytest

from sharedllm.cli import info, main
from sharedllm.utils.errors import UserError


@pytest.mark.parametrize(("error", "code"), [(UserError("field=1: use 2."), 2), (PermissionError("no entry"), 2)])
def test_a_users_mistake_is_one_line(monkeypatch, run, error, code):
    def fails(_):
        raise error

    monkeypatch.setattr(info, "describe_model", fails)
    assert run("info") == (code, "", f"error: {error}\n")


@pytest.mark.parametrize("error", [ValueError("from torch"), RuntimeError("broken")])
def test_a_fault_of_the_program_is_not_hidden(monkeypatch, error):
    def fails(_):
        raise error

    monkeypatch.setattr(info, "describe_model", fails)
    with pytest.raises(type(error), match=str(error)):
        main(["info"])
