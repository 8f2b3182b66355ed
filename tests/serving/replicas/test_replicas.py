"""The front of `sharedllm serve --ray`, over replicas in this process. No Ray is started."""

import asyncio
import shutil

import pytest
from replicated import front_of
from served import ASKED
from starlette.testclient import TestClient

from sharedllm.serving.app import application
from sharedllm.serving.metrics import joined

CHAT = "/v1/chat/completions"
READ = ASKED | {"memory": "notes", "budget": 60}
SAMPLED = READ | {"temperature": 1.5, "max_tokens": 12}


@pytest.fixture
def alone(services):
    """The same server without replicas."""
    app = application(services[0])
    app.router.lifespan_context = TestClient(front_of(services)[0]).app.router.lifespan_context
    return TestClient(app)


def plain(answer: dict) -> dict:
    """An answer without what is new each time."""
    return {name: value for name, value in answer.items() if name not in ("id", "created", "created_at")}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, READ),
        ("/v1/completions", {"prompt": "The quick", "max_tokens": 8, "memory": ""}),
        (CHAT, READ | {"budget": -1}),
        (CHAT, READ | {"memory": "none"}),
        ("/v1/nothing", {}),
    ],
)
def test_answers_and_errors_are_those_of_one_server(start, alone, path, body):
    ours, theirs = (client.post(path, json=body) for client in (start()[0], alone))
    assert ours.status_code == theirs.status_code and plain(ours.json()) == plain(theirs.json())
    assert ours.headers["content-type"] == theirs.headers["content-type"] and ours.headers["x-request-id"]


def test_what_there_is(start, alone):
    client, _ = start()
    for path in ("/v1/models", "/v1/models/small", "/v1/memories", "/health", "/", "/page/main.js", "/nothing"):
        ours, theirs = client.get(path), alone.get(path)
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content), path
    passage = "/v1/memories/notes/documents/foxes?end=40"
    assert client.get(passage).json() == alone.get(passage).json()


def test_what_one_replica_changes_the_others_see(start, services):
    client, _ = start()
    assert client.post("/v1/memories", json={"name": "made"}).status_code == 201
    assert [m["id"] for m in client.get("/v1/memories").json()["data"]] == ["notes", "made"]
    assert all(service.memories.names == ["notes", "made"] for service in services)
    place = "/v1/memories/made/documents/owls"
    assert client.put(place, content=b"An owl is called Mina.").status_code == 200
    for _ in range(2):  # each replica in its turn
        assert "Mina" in client.get(place).json()["text"]
    _, made = client.get("/v1/memories").json()["data"]
    assert [d["name"] for d in made["documents"]] == ["owls"]
    shutil.rmtree(services[0].memories["made"].path)
    assert [m["id"] for m in client.get("/v1/memories").json()["data"]] == ["notes"]
    assert client.post(CHAT, json=READ | {"memory": "made"}).status_code == 404


def test_limits_are_those_of_the_front(start):
    client, replicas = start(key="hush", most=0)
    assert client.get("/v1/models").status_code == 401 and client.get("/").status_code == 200
    headers = {"Authorization": "Bearer hush"}
    said = client.post(CHAT, json=READ, headers=headers)
    assert (said.status_code, said.headers["retry-after"]) == (429, "5") and not replicas.memories
    assert client.get("/v1/models", headers=headers).status_code == 200


def test_no_replica(start):
    client, replicas = start()
    replicas.apps = ()
    assert client.get("/health").status_code == 503 and "no replica is running" in client.get("/v1/models").text


def test_a_request_waits_no_longer_than_its_time(start, monkeypatch):
    client, replicas = start(seconds=0.1)
    monkeypatch.setattr("sharedllm.serving.replicas.front._LATER", 0)

    async def never(asked, memory):
        await asyncio.sleep(60)
        yield []

    replicas.ask = never
    said = client.post(CHAT, json=READ)
    assert said.status_code == 504 and "longer than 0.1 s" in said.text


def test_metrics_have_the_name_of_their_replica(start):
    client, _ = start()
    client.post(CHAT, json=READ)
    lines = client.get("/metrics").text.splitlines()
    counts = {line for line in lines if line.startswith("sharedllm_requests_total{") and 'outcome="ok"' in line}
    assert {line.split('replica="')[1][:2] for line in counts} == {"r0", "r1"}
    assert joined({}) == ""


def test_explanations_are_found_at_the_replica_that_has_them(start):
    client, _ = start()
    asked = READ | {"explain": True}
    for _ in range(2):
        name = client.post(CHAT, json=asked).json()["sharedllm"]["explanation"]
        assert client.get(f"/v1/explanations/{name}").json()["question"]
    assert client.get("/v1/explanations/none").status_code == 404


def test_a_replica_that_hangs_hides_no_list(start, monkeypatch):
    client, replicas = start()
    asked_for = []

    async def every(asked, seconds):
        asked_for.append(seconds)
        return []

    monkeypatch.setattr(replicas, "every", every)
    assert client.get("/v1/memories").json()["data"][0]["id"] == "notes"
    assert client.get("/v1/models/small").json()["id"] == "small"
    said = client.get("/v1/explanations/none")
    assert said.status_code == 504 and "took longer than 600 s" in said.text
    assert asked_for == [10, 10, 601], "an explanation has the time of a request"
