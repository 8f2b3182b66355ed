"""A cluster of Ray says nothing of its own where a command writes its answers."""

import os
import subprocess
import sys

import pytest

from sharedllm.utils.clusters import without_core

# As Ray's thread for errors of its processes prints them; Ray reads its settings when it is imported.
SAYS = """
import sys
from sharedllm.utils.clusters import connect
from sharedllm.utils.errors import UserError
try:
    connect("127.0.0.1:1", 1)
except UserError:
    from ray._private.worker import print_to_stdstream
    for is_err in (False, True):
        for lines in (["Task ServeController.listen_for_change failed."], ["", "one\\ntwo"]):
            print_to_stdstream({"lines": lines, "pid": "raylet", "is_err": is_err}, ignore_prefix=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [None, "^nothing$"], ids=["by default", "unless it is asked for"])
def test_lines_of_rays_processes_are_left_out(chosen):
    pytest.importorskip("ray")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_DEDUP_LOGS_SKIP_REGEX"}
    environment |= {} if chosen is None else {"RAY_DEDUP_LOGS_SKIP_REGEX": chosen}
    done = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, env=environment, check=True)
    assert ("(raylet)" in done.stdout + done.stderr) == (chosen is not None), done.stdout + done.stderr


def test_what_is_not_python_is_left_out_of_stderr(capfd):
    with without_core():
        os.write(2, b"Ray's core\n")
        print("ours", file=sys.stderr)
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "ours\nlater\n"
