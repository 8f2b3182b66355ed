"""The front of `sharedllm serve --ray`, over replicas in this process that die when a test says so. No Ray is started."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import pytest
from helpers import byte_tokenizer
from replicated import front_of
from served import ASKED, TEXT, TOOLS_TEMPLATE, small_model, store_of, streamed
from starlette.testclient import TestClient

from sharedllm.serving.app import application
from sharedllm.serving.identity import Identity
from sharedllm.serving.memories import Memories
from sharedllm.serving.metrics import joined
from sharedllm.serving.replicas.asking import ATTEMPTS
from sharedllm.serving.replicas.played import Asked, played
from sharedllm.serving.replicas.played import joined as joined_messages
from sharedllm.serving.replicas.routing import is_list, memory_named, repeatable
from sharedllm.serving.replicas.sharing import Leases
from sharedllm.serving.service import Service
from sharedllm.serving.worker import Worker
from sharedllm.utils.errors import UserError

CHAT = "/v1/chat/completions"
READ = ASKED | {"memory": "notes", "budget": 60}
SAMPLED = READ | {"temperature": 1.5, "max_tokens": 12}


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def services(model, tmp_path_factory):
    """Two, over one folder on disk."""
    folder = tmp_path_factory.mktemp("served")
    path = store_of(folder / "notes.memory", model, byte_tokenizer(), foxes=TEXT).folder
    options = {"budget": 60, "score": "bm25"}
    made = [
        Service(model, byte_tokenizer(), "small", Memories([path], folder=folder), Worker(9, 4), **options)
        for _ in range(2)
    ]
    yield made
    for service in made:
        service.worker.stop()


@pytest.fixture
def start(services):
    clients = []

    def begin(**options):
        app, replicas = front_of(services, **options)
        clients.append(TestClient(app).__enter__())
        return clients[-1], replicas

    yield begin
    for client in clients:
        client.__exit__(None, None, None)


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


@pytest.mark.parametrize("body", [READ, SAMPLED, SAMPLED | {"n": 2}])
@pytest.mark.parametrize("dies", [[0], [0, 0]])
def test_a_request_is_asked_again(start, body, dies):
    client, replicas = start()
    replicas.deaths = list(dies)
    answer = client.post(CHAT, json=body)
    assert answer.status_code == 200 and len(replicas.memories) == 1 + len(dies)
    assert replicas.memories[0] == "notes" and answer.json()["choices"][0]["message"]["content"] is not None


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("after", [1, 300, 900])
@pytest.mark.parametrize("sampled", [{}, {"temperature": 1.5}])
def test_a_stream_goes_on_at_another_replica(start, path, after, sampled):
    client, replicas = start()
    body = {"stream": True, "memory": "notes"} | sampled
    asked = {"messages": ASKED["messages"], "max_tokens": 12}
    if path != CHAT:
        asked = {"prompt": "jumps", "max_tokens": 12}
    if path == "/v1/responses":
        asked = {"input": "What jumps?", "max_output_tokens": 12}
    replicas.deaths = [after]
    said = client.post(path, json=asked | body)
    assert said.status_code == 200 and len(replicas.memories) == 2
    events = [json.loads(line[6:]) for line in said.text.split("\n") if line.startswith("data: {")]
    assert not any("error" in event and event["error"] for event in events), events
    if path == "/v1/responses":
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert events[-1]["type"] in ("response.completed", "response.incomplete")
    else:
        assert said.text.endswith("data: [DONE]\n\n") and len({event["id"] for event in events}) == 1
        assert events[-1]["choices"][0]["finish_reason"]


def test_a_call_of_a_tool_goes_on_at_another_replica(model):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOLS_TEMPLATE
    service = Service(model, tokenizer, "small", Memories([]), Worker(9, 4), budget=60)
    tool = {
        "type": "function",
        "function": {"name": "paint", "description": "Paints.", "parameters": {"type": "object"}},
    }
    asked = ASKED | {"tools": [tool], "tool_choice": "required", "max_tokens": 200, "n": 2, "stream": True}
    app, replicas = front_of([service, service])
    with TestClient(app) as client:
        # It dies with all of the answer but its end.
        replicas.deaths = [len(client.post(CHAT, json=asked).content) - 10]
        events = streamed(client.post(CHAT, json=asked))
    assert len(replicas.memories) == 3 and not any("error" in event for event in events), events[-1]
    calls = [one["id"] for e in events for choice in e["choices"] for one in choice["delta"].get("tool_calls", [])]
    assert len(set(calls)) == 2 and all(name.startswith("call_") for name in calls)


def test_a_stream_that_another_replica_writes_otherwise_ends_in_an_error(start, services, monkeypatch):
    client, replicas = start()
    for path, asked in ((CHAT, READ), ("/v1/responses", {"input": "What jumps?"})):
        with monkeypatch.context() as patch:
            count = iter(range(100))
            patch.setattr(Identity, "named", property(lambda self: {"id": f"other{next(count)}", "created": 0}))  # noqa: B023
            replicas.deaths = [600]
            said = client.post(path, json=asked | {"stream": True})
        last = [json.loads(line[6:]) for line in said.text.split("\n") if line.startswith("data: {")][-1]
        message = last["message"] if path == "/v1/responses" else last["error"]["message"]
        assert "another one writes it otherwise" in message
        if path == CHAT:
            assert said.text.endswith("data: [DONE]\n\n")
        else:
            assert (last["type"], last["sequence_number"]) == ("error", said.text.count("\n\n") - 1)


def test_a_request_that_kills_replicas_is_given_up(start):
    client, replicas = start()
    replicas.deaths = [0] * 9
    said = client.post(CHAT, json=READ)
    assert said.status_code == 503 and f"{ATTEMPTS} replicas died" in said.text and len(replicas.deaths) == 9 - ATTEMPTS
    replicas.deaths = [0] * 9
    said = client.post(CHAT, json=READ | {"stream": True})
    assert said.status_code == 503, "nothing was sent yet"
    replicas.deaths = [600] * 9
    events = streamed(client.post(CHAT, json=READ | {"stream": True}))
    assert "replicas died" in events[-1]["error"]["message"]


def test_a_change_is_not_asked_twice(start):
    client, replicas = start()
    replicas.deaths = [0]
    said = client.put("/v1/memories/notes/documents/more", content=b"Some words.")
    assert said.status_code == 503 and "look whether it was done" in said.text and replicas.memories == ["notes"]


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


def test_a_memory_that_was_opened_without_a_lease_is_let_go(services):
    memories = Memories([services[0].memories["notes"].path], closed=True)
    leases = Leases(memories)
    lease = leases.take("notes")
    leases.asked("notes")
    assert not memories["notes"].closed, "it is leased"
    del lease  # Ray Serve takes it back while a request waits
    assert memories["notes"].closed and not leases.names
    memories.current("notes")  # the request begins
    leases.asked("notes")
    assert memories["notes"].closed
    leases.asked("")


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (CHAT, {"memory": "a", "model": "small:b"}, "a"),
        (CHAT, {"memory": "", "model": "small:b"}, ""),
        (CHAT, {"memory": None, "model": "small:b"}, "b"),
        ("/v1/responses", {"model": "small:b"}, "b"),
        (CHAT, {"model": "small"}, ""),
        (CHAT, {"model": ["small:b"], "memory": 3}, ""),
        (CHAT, [1], ""),
        (CHAT, "no JSON", ""),
        ("/v1/memories/a/documents/x/y", {"memory": "b"}, "a"),
        ("/v1/memories", {"name": "a"}, ""),
    ],
)
def test_the_memory_that_a_request_names(path, body, named):
    content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    assert memory_named(path, content, "small") == named


def test_what_may_be_asked_twice_and_what_all_can_say():
    assert all(repeatable("POST", path) for path in (CHAT, "/v1/completions", "/v1/responses"))
    assert repeatable("GET", "/v1/memories/a/documents/b")
    assert not any(repeatable(method, "/v1/memories/a/documents/b") for method in ("PUT", "POST", "DELETE"))
    assert is_list("GET", "/v1/models") and is_list("GET", "/v1/models/a:b") and is_list("GET", "/v1/memories")
    assert not is_list("POST", "/v1/memories") and not is_list("GET", "/v1/memories/a/documents/b")


def test_secrets_do_not_reach_replicas():
    headers = [(b"Authorization", b"Bearer hush"), (b"host", b"x"), (b"accept", b"*/*"), (b"cookie", b"a")]
    asked = Asked.of({"method": "GET", "path": "/", "query_string": b"", "headers": headers}, b"")
    assert asked.headers == ((b"accept", b"*/*"),)


def test_an_application_that_fails_or_is_left():
    ended = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/fails":
            raise RuntimeError("no")
        assert (await receive())["type"] == "http.disconnect"
        ended.append(scope["path"])

    async def left(path: str) -> None:
        said = played(app, Asked("GET", path, b"", (), b"", Identity()))
        assert (await anext(said))[0]["status"] == 200
        if path == "/fails":
            with pytest.raises(RuntimeError, match="no"):
                await anext(said)
        await said.aclose()

    asyncio.run(left("/fails"))
    asyncio.run(left("/left"))
    assert ended == ["/left"]


def test_parts_that_follow_each_other_are_sent_as_one():
    part = {"type": "http.response.body", "body": b"a", "more_body": True}
    start, end = {"type": "http.response.start"}, {"type": "http.response.body"}
    said = joined_messages([start, part, part, end])
    assert said == [start, {"type": "http.response.body", "body": b"aa", "more_body": False}]


def test_a_memory_is_let_go_and_opened_again(services, model):
    path = services[0].memories["notes"].path
    memories = Memories([path], closed=True)
    assert memories["notes"].closed and memories.listed() == services[0].memories.listed()
    memories.refresh()
    assert memories["notes"].closed, "looking does not open it"
    assert memories.current("notes").tokens >= len(TEXT) and not memories["notes"].closed
    memories.close("notes")
    assert memories["notes"].closed and memories.meant(None) == "notes"
    memories.close("none")


@pytest.mark.parametrize(("said", "found"), [("1", (1, 1)), ("3", (3, 3)), ("1-4", (1, 4)), (" 2-2 ", (2, 2))])
def test_how_many_replicas(said, found):
    from sharedllm.cli.serve_ray import Options

    assert Options(said).range == found


@pytest.mark.parametrize("said", ["0", "4-1", "-1", "two", "", "1-", "1-4-5"])
def test_how_many_replicas_wrong(said):
    from sharedllm.cli.serve_ray import Options

    with pytest.raises(UserError, match="write 2, or 1-4"):
        _ = Options(said).range


def test_options_of_ray(run, monkeypatch):
    for option, value in (("--replicas", "2"), ("--threads", "2"), ("--gpus", "1"), ("--cluster", "auto")):
        code, out, err = run("serve", option, value)
        assert (code, out, err) == (2, "", f"error: {option} needs --ray.\n")
    code, _, err = run("serve", "--ray", "--replicas", "many")
    assert code == 2 and "--replicas many is neither a number nor a range" in err
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run("serve", "--ray")
    assert (code, err) == (2, "error: ray is not installed: pip install 'sharedllm[ray]'.\n")


def test_a_plan_names_what_replicas_elsewhere_can_find(tmp_path, monkeypatch):
    from sharedllm.cli.serve_ray import Options, planned

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    limits = {"budget": 9, "score": None, "seconds": 1.0, "most_characters": 5, "most_upload": 5}
    plan = planned(Options(), "m", "m", ["a.memory", "s3://b/c"], Path("f"), 8, limits)
    assert (plan.model, plan.memories) == (str(tmp_path / "m"), (str(tmp_path / "a.memory"), "s3://b/c"))
    assert plan.folder == str(tmp_path / "f") and (plan.open, plan.threads) == (8, 1)
    assert planned(Options(), "tiny", "tiny", [], None, 8, limits).model == "tiny"
