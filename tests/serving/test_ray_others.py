"""`sharedllm serve --ray --cluster` on a real cluster that others started, and on which they serve something, too."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
from clusters import cluster
from needs import needs
from rayserved import PATIENCE, post, replicas, serving, until

pytestmark = [needs("ray"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
BODY = {"messages": [{"role": "user", "content": "What jumps?"}], "max_tokens": 12, "temperature": 0}
# Another user of the cluster at an address, who begins to serve, or only looks: says what is served there.
OTHER = """
import sys, ray
from ray import serve
ray.init(sys.argv[1], log_to_driver=False)
if sys.argv[2] == "begin":
    serve.start(http_options={"location": "NoServer"})
    other = serve.deployment(ray_actor_options={"num_cpus": 0})(type("Other", (), {}))
    serve.run(other.bind(), name="other", route_prefix=None)
print(*sorted(serve.status().applications))
"""


def served(address: str, do: str = "look") -> list[str]:
    said = subprocess.run([sys.executable, "-c", OTHER, address, do], capture_output=True, text=True, timeout=PATIENCE)
    assert said.returncode == 0, said.stderr[-2000:]
    return said.stdout.splitlines()[-1].split()


def ours() -> list[psutil.Process]:
    """Replicas of the model on the cluster's machines, which this process has started."""
    return replicas(psutil.Process(os.getpid()))


@pytest.fixture(scope="module")
def address():
    with cluster(2) as made:
        assert served(made.address, "begin") == ["other"]
        yield made.address


def test_a_server_leaves_only_what_others_serve(address, model_folder):
    """Its replicas are on the cluster's machines, and one that dies there costs no answer; the other application stays."""
    options = ["--model", model_folder, "--replicas", 2, "--cluster", address]
    with serving(*options) as (process, url):
        assert len(ours()) == 2 and not replicas(process)
        status, first = post(url, BODY)
        assert status == 200
        killed = ours()[0]
        killed.kill()
        for _ in range(6):
            status, said = post(url, BODY)
            assert status == 200 and json.loads(said)["choices"] == json.loads(first)["choices"]
        assert until(lambda: len({one.pid for one in ours()} - {killed.pid}) == 2), "another one is started"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert until(lambda: not ours())
    assert served(address) == ["other"]


def test_after_a_killed_server_the_same_command_takes_over_its_replicas(address, model_folder):
    options = ["--model", model_folder, "--replicas", 2, "--cluster", address]
    with serving(*options) as (process, url):
        left = {one.pid for one in ours()}
        process.kill()
        process.wait(PATIENCE)
    assert len(left) == 2 and {one.pid for one in ours()} == left, "they stay"
    with serving(*options, port=int(url.rpartition(":")[2])) as (_, again):
        assert again == url and post(url, BODY)[0] == 200
        assert until(lambda: not left & {one.pid for one in ours()} and len(ours()) == 2), "they are replaced"
        assert len(served(address)) == 2, "one application of the server, and the other one"
    assert until(lambda: not ours())
    assert served(address) == ["other"]
