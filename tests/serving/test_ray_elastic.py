"""`sharedllm serve --ray` on real Ray: replicas come and go with the load, and clients leave."""

import json
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from helpers import byte_tokenizer, tiny_base, tiny_shared
from needs import needs
from rayserved import PATIENCE, get, post, replicas, serving, until

pytestmark = [needs("ray"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
# Bytes of an answer that nobody should wait for.
LONG = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model over bytes, which writes up to its limit."""
    made = tmp_path_factory.mktemp("models") / "long"
    base = tiny_base("llama", vocab_size=256, max_position_embeddings=2 * LONG)
    tiny_shared("llama", base=base, window=2 * LONG, injection="joint", encoding="chunk").save_pretrained(made)
    byte_tokenizer().save_pretrained(made)
    return made


def asking(tokens: int, **more) -> dict:
    return {"messages": [{"role": "user", "content": "What jumps?"}], "max_tokens": tokens} | more


@pytest.fixture(scope="module")
def server(folder):
    """One replica, or two under load, which the second one outlives by seconds."""
    calm = "from sharedllm.serving.replicas import cluster; cluster._CALM = 5"
    options = ["--model", folder, "--replicas", "1-2", "--max-waiting", 64, "--batch", 4]
    with serving(*options, before=calm) as started:
        yield started


def counted(url: str, name: str) -> float:
    """A metric of all replicas together."""
    return sum(float(line.rpartition(" ")[2]) for line in get(url, "/metrics").splitlines() if re.match(name, line))


CANCELLED = r'sharedllm_requests_total\{.*outcome="cancelled"'


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_its_answer_at_the_replica(server, stream):
    _, url = server
    cancelled, written = counted(url, CANCELLED), counted(url, "sharedllm_generated_tokens_total")
    body = json.dumps(asking(LONG, stream=stream)).encode()
    where = urlsplit(url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((where.hostname, where.port), timeout=PATIENCE) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            assert b"data: {" in client.recv(2**16) + client.recv(2**16)
        else:
            assert until(lambda: counted(url, "sharedllm_requests_running") == 1)
    assert until(lambda: counted(url, CANCELLED) == cancelled + 1)
    assert counted(url, "sharedllm_requests_running") == 0
    assert counted(url, "sharedllm_generated_tokens_total") < written + LONG, "it stopped before its end"


def test_replicas_come_and_go_with_the_load(server):
    process, url = server
    assert len(replicas(process)) == 1
    enough, codes = threading.Event(), []

    def client(_) -> None:
        while not enough.is_set():
            codes.append(post(url, asking(200))[0])

    with ThreadPoolExecutor(12) as pool:
        loading = [pool.submit(client, number) for number in range(12)]
        try:
            assert until(lambda: get(url, "/metrics").count("sharedllm_requests_running{") == 2), "a second one answers"
        finally:
            enough.set()
        [one.result() for one in loading]
    assert until(lambda: len(replicas(process)) == 1), "without load the second one ends"
    codes += [post(url, asking(5))[0] for _ in range(4)]
    assert set(codes) == {200}
