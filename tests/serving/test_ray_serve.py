"""`sharedllm serve --ray` on a real Ray cluster of this machine: two replicas under 30 clients, while they die or are replaced."""

import json
import signal

import psutil
import pytest
from needs import needs
from rayserved import asked_by_many, get, post, replicas, serving, until, words
from starlette.testclient import TestClient

from sharedllm.cli.loading import load
from sharedllm.serving.app import application
from sharedllm.serving.memories import Memories
from sharedllm.serving.service import Service
from sharedllm.serving.worker import Worker

pytestmark = [needs("ray"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CLIENTS = 30
NAMES = ["ash", "birch", "cedar"]


@pytest.fixture(scope="module")
def memories(model_folder, tmp_path_factory):
    from served import store_of

    folder = tmp_path_factory.mktemp("memories")
    model, tokenizer = load(str(model_folder))
    for number, name in enumerate(NAMES):
        text = "".join(f"Line {i}: the {name} has {i * (number + 2)} leaves.\n" for i in range(20))
        store_of(folder / f"{name}.memory", model, tokenizer, tree=text)
    return folder


@pytest.fixture(scope="module")
def bodies():
    return [
        {
            "model": f"model:{NAMES[number % 3]}",
            "max_tokens": 24,
            "stream": number % 2 == 1,
            "messages": [{"role": "user", "content": f"How many leaves, {number % 12}?"}],
        }
        for number in range(4 * CLIENTS)
    ]


@pytest.fixture(scope="module")
def expected(memories, model_folder, bodies):
    """What one process without Ray answers."""
    model, tokenizer = load(str(model_folder))
    opened = Memories(sorted(memories.iterdir()))
    service = Service(model, tokenizer, "model", opened, Worker(4), budget=60, score="bm25")
    known: dict[str, str] = {}
    with TestClient(application(service)) as client:
        for body in bodies:
            key = f"{body['model']} {body['messages']}"
            if key not in known:
                said = client.post("/v1/chat/completions", json=body | {"stream": False})
                known[key] = said.json()["choices"][0]["message"]["content"]
    return [known[f"{body['model']} {body['messages']}"] for body in bodies]


@pytest.fixture(scope="module")
def server(memories, model_folder):
    options = ["--folder", memories, "--model", model_folder, "--budget", 60, "--score", "bm25", "--max-waiting", 64]
    with serving(*options, "--replicas", 2, "--open-memories", 2) as started:
        yield started


def all_answered(answers, bodies, expected) -> None:
    assert [status for status, _ in answers] == [200] * len(bodies), [a for a in answers if a[0] != 200][:3]
    wrong = [n for n, (_, said) in enumerate(answers) if words(bodies[n], said) != expected[n]]
    assert not wrong


def test_a_killed_replica_costs_no_answer(server, bodies, expected):
    process, url = server
    first = {one.pid for one in replicas(process)}
    assert len(first) == 2
    killed = replicas(process)[0]
    answers = asked_by_many(url, bodies, CLIENTS, killed.kill, after=20)
    all_answered(answers, bodies, expected)
    assert until(lambda: len({one.pid for one in replicas(process)} - {killed.pid}) == 2), "another one is started"
    assert until(lambda: get(url, "/metrics").count('outcome="ok"') == 2)


def test_replicas_are_replaced_without_a_lost_request(server, bodies, expected):
    process, url = server
    before = {one.pid for one in replicas(process)}

    def new() -> bool:
        return len({one.pid for one in replicas(process)} - before) == 2 and not any(map(psutil.pid_exists, before))

    process.send_signal(signal.SIGHUP)
    rounds = 0
    while not new():
        all_answered(asked_by_many(url, bodies, CLIENTS, lambda: None, after=1), bodies, expected)
        rounds += 1
        assert rounds < 60
    all_answered(asked_by_many(url, bodies, CLIENTS, lambda: None, after=1), bodies, expected)


def test_what_one_replica_changes_all_see(server):
    _, url = server
    assert post(url, {"name": "owls"}, "/v1/memories")[0] == 201
    said = post(url, {"name": "text", "text": "An owl is called Mina."}, "/v1/memories/owls/documents")
    assert said[0] == 200, said
    for _ in range(6):
        listed = {m["id"]: m for m in json.loads(get(url, "/v1/memories"))["data"]}
        assert [d["name"] for d in listed["owls"]["documents"]] == ["text"]
        assert "Mina" in json.loads(get(url, "/v1/memories/owls/documents/text"))["text"]
    assert "sharedllm" in get(url, "/") and json.loads(get(url, "/health")) == {"status": "ok"}


def test_nothing_listens_elsewhere_and_nothing_is_left(server):
    process, _ = server
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    open_to_all = [
        (one.name(), port.laddr)
        for one in family
        for port in one.net_connections("inet")
        if port.status == psutil.CONN_LISTEN and port.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    ]
    assert not open_to_all
    process.kill()
    process.wait()
    assert until(lambda: not any(one.is_running() and one.status() != "zombie" for one in family))
