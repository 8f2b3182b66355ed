"""A user's mistake is reported in one line; a fault of the program keeps its traceback."""

import pytest

from sharedllm.cli import info, main
from sharedllm.utils.errors import UserError, clipped, first_of, shown


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


def test_a_wrong_value_is_shown_as_far_as_a_line_has_room():
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    assert clipped("a" * 100) == "a" * 100 and clipped("a" * 101) == "a" * 99 + "…"
    assert shown("it's") == '"it\'s"' and shown("a" * 600, 5) == "'aaaa…'" and shown([1, 2]) == "[1, 2]"
    assert len(shown(list(range(100)))) == 100 and shown(deep) == "a list of 1"


def test_the_first_names_begin_with_those_that_resemble_a_wrong_one():
    names = [f"papers/{name}.txt" for name in ("owl", "crane", "heron", "badger", "falcon", "captain")]
    assert first_of(names[:5]) == ", ".join(names[:5]) and first_of([]) == ""
    assert first_of(names, 2) == "papers/owl.txt, papers/crane.txt, …"
    assert first_of(names, 1, like="papers/captian.txt") == "papers/captain.txt, …"
    assert first_of(["a" * 200]) == "a" * 99 + "…"
