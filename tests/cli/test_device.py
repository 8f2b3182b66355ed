"""`--device` may stand anywhere."""

import os

import pytest

from sharedllm.cli import _device_first


@pytest.mark.parametrize(
    "arguments",
    [
        ["--device", "nosuch", "ask", "a.txt", "When?"],
        ["ask", "--device", "nosuch", "a.txt", "When?"],
        ["ask", "a.txt", "When?", "--device", "nosuch"],
        ["ask", "a.txt", "--device=nosuch", "When?"],
    ],
    ids=" ".join,
)
def test_a_device_anywhere(run, tmp_path, monkeypatch, arguments):
    monkeypatch.setenv("SHAREDLLM_DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("It burnt in 1907.")
    code, _, err = run(*arguments)
    assert (code, os.environ["SHAREDLLM_DEVICE"]) == (2, "nosuch") and "is 'nosuch', which this machine" in err


def test_what_is_no_option_stays():
    for arguments in (["ask", "a", "--", "--device", "x"], ["ask", "a", "--device"], ["ask", "a", "device"]):
        assert _device_first(arguments) == arguments
    assert _device_first(["ask", "--device", "cpu", "--", "--device"]) == ["--device", "cpu", "ask", "--", "--device"]
