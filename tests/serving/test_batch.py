"""Requests that are answered together: each gets what it gets alone, at any time and beside any others."""

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import byte_tokenizer
from served import TEXT, TOOLS_TEMPLATE, clients_of, small_model, store_of

from sharedllm.decoding import Group
from sharedllm.serving.answering import Answered
from sharedllm.serving.app import Service
from sharedllm.serving.choice import Piece
from sharedllm.serving.errors import ServingError
from sharedllm.serving.memories import Memories
from sharedllm.serving.requests import CompletionRequest
from sharedllm.serving.steering import Steering
from sharedllm.serving.worker import Cancelled, Job, Worker

ASK = {"messages": [{"role": "user", "content": "What jumps?"}], "memory": "notes"}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"]},
    },
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
# Prompts of different lengths, memories, ways to choose tokens and to end.
REQUESTS = [
    ("chat/completions", ASK | {"max_tokens": 30}),
    ("chat/completions", ASK | {"max_tokens": 25, "temperature": 1.2, "seed": 5, "top_p": 0.9}),
    ("chat/completions", ASK | {"max_tokens": 40, "memory": "", "presence_penalty": 2, "frequency_penalty": 1}),
    ("chat/completions", ASK | {"max_tokens": 20, "budget": 9, "n": 3, "temperature": 1.5, "seed": 1}),
    ("chat/completions", ASK | {"max_tokens": 60, "response_format": SCHEMA, "temperature": 1, "seed": 2}),
    ("chat/completions", ASK | {"max_tokens": 30, "tools": [TOOL], "tool_choice": "required", "memory": "other"}),
    ("completions", {"prompt": "The quick", "max_tokens": 35, "memory": "other", "logprobs": 3}),
    ("completions", {"prompt": "x", "max_tokens": 50, "memory": "", "stop": ["e", "a"], "temperature": 1.9, "seed": 9}),
    ("completions", {"prompt": TEXT[:300], "max_tokens": 130, "memory": "", "logit_bias": {"65": 3}}),
    ("completions", {"prompt": TEXT[5:60], "max_tokens": 1, "memory": "notes"}),
]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture
def service(model, tmp_path):
    """Makes services over the memories "notes" and "other"; their workers are stopped at the end."""
    tokenizer, made = byte_tokenizer(), []
    tokenizer.chat_template = TOOLS_TEMPLATE
    texts = {"notes": TEXT, "other": "The night owl is called Mina. She sleeps by day.\n" * 4}
    folders = [store_of(tmp_path / f"{n}.memory", model, tokenizer, text=t).folder for n, t in texts.items()]

    def make(rows: int = 8) -> Service:
        memories = Memories(folders)
        made.append(Service(model, tokenizer, "small", memories, Worker(32, rows), budget=60, score="bm25"))
        return made[-1]

    yield make
    for one in made:
        one.worker.stop()


@pytest.fixture
def serve(model, tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOLS_TEMPLATE
    with clients_of(model, tokenizer, tmp_path) as start:
        store_of(tmp_path / "other.memory", model, tokenizer, text="The night owl is called Mina.\n" * 6)
        yield start


def post(client, path: str, body: dict) -> dict:
    return client.post(f"/v1/{path}", json=body).json()


def alike(said, other) -> bool:
    """Whether two answers are the same, but for names and times by design, and logarithms, which differ in their last digits."""
    if isinstance(said, dict):
        return said.keys() == other.keys() and all(
            alike(v, other[k]) for k, v in said.items() if k not in ("id", "created")
        )
    if isinstance(said, list):
        return len(said) == len(other) and all(map(alike, said, other))
    return said == (pytest.approx(other, abs=1e-4) if isinstance(said, float) else other)


def with_other(client, tmp_path):
    client.service.memories._opened |= Memories([tmp_path / "other.memory"])._opened
    return client


@pytest.mark.slow
def test_many_clients_get_what_one_gets(serve, tmp_path, monkeypatch):
    """Eight threads of clients in different orders, each answer compared with that of a server that was asked it alone."""
    rows = 5
    client = with_other(serve(rows=rows, waiting=64), tmp_path)
    sizes, own = [], Group.step

    def step(group: Group) -> None:
        sizes.append(len(client.service.worker._batch.rows))
        own(group)

    alone = [post(client, *request) for request in REQUESTS]
    assert all("choices" in said for said in alone), alone
    monkeypatch.setattr(Group, "step", step)

    def talk(seed: int) -> list[tuple[int, dict]]:
        order = [seed % len(REQUESTS), *random.Random(seed).sample(range(len(REQUESTS)), 3)]
        return [(i, post(client, *REQUESTS[i])) for i in order]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(talk, range(2, 10)):
            for i, said in answers:
                assert alike(said, alone[i]), REQUESTS[i]
    assert 1 < max(sizes) <= rows and (client.service.worker.running, client.service.worker.waiting) == (0, 0)


def asked(prompt: str, tokens: int, **more) -> CompletionRequest:
    return CompletionRequest(prompt=prompt, max_tokens=tokens, memory="notes", **more)


async def followed(service: Service, requests: list[CompletionRequest], then=lambda i, event, jobs: None) -> list:
    """What becomes of requests that are submitted together: the answer or the error of each."""
    jobs = [Job(lambda job, r=request: service.answer(r, job), 60) for request in requests]
    for job in jobs:
        service.worker.submit(job)

    async def follow(i: int):
        try:
            async for event in jobs[i].events():
                then(i, event, jobs)
                if isinstance(event, Answered):
                    return event
        except Exception as error:
            return error

    return await asyncio.gather(*(follow(i) for i in range(len(jobs))))


def texts(answers: list) -> list:
    return [answer.choices[0].text if isinstance(answer, Answered) else type(answer) for answer in answers]


def test_streams_start_before_others_end(service):
    served, order = service(), []
    requests = [asked(f"Prompt {i}", 25 - 5 * i, temperature=1, seed=i) for i in range(4)]
    alone = [texts(asyncio.run(followed(served, [request])))[0] for request in requests]
    answers = asyncio.run(
        followed(served, requests, lambda i, event, _: order.append(i) if isinstance(event, Piece) else None)
    )
    assert texts(answers) == alone and len(set(alone)) == 4
    first, last = {i: order.index(i) for i in range(4)}, {i: len(order) - order[::-1].index(i) for i in range(4)}
    assert all(first[i] < min(last.values()) for i in range(4)), "each has begun before one has ended"
    assert last[3] < last[0], "the shortest does not wait for the longest"


def test_a_client_that_leaves_takes_its_row_along(service):
    served = service(rows=2)
    requests = [asked("A long one", 2**20), *(asked(f"Prompt {i}", 15) for i in range(3))]
    alone = [texts(asyncio.run(followed(served, [request])))[0] for request in requests[1:]]
    pieces = []

    def leave(i, event, jobs):
        pieces.append(i)
        if pieces.count(0) == 6:
            jobs[0].cancel()

    answers = asyncio.run(followed(served, requests, leave))
    assert texts(answers) == [Cancelled, *alone]
    assert (served.worker.running, served.worker._batch.rows) == (0, [])


def test_an_answer_that_fails_is_the_only_one(service, monkeypatch):
    served = service()
    requests = [asked(f"Prompt {i}", 12, presence_penalty=0.5 * i) for i in range(4)]
    requests[2] = asked("Prompt 2", 12, n=2)
    alone = [texts(asyncio.run(followed(served, [request])))[0] for request in requests]
    own, taken = Steering.took, []

    def fails(steering, token):
        taken.append(steering.presence)
        if steering.presence == 0.5 and taken.count(0.5) == 4:
            raise RuntimeError("this row fails")
        own(steering, token)

    monkeypatch.setattr(Steering, "took", fails)
    answers = asyncio.run(followed(served, requests))
    assert texts(answers) == [alone[0], RuntimeError, *alone[2:]] and len(answers[2].choices) == 2
    # The server goes on.
    assert texts(asyncio.run(followed(served, requests[:1]))) == alone[:1]


def test_a_time_limit_ends_one_row(service):
    served = service()

    async def talk():
        late = Job(lambda job: served.answer(asked("A long one", 2**20), job), 0.2)
        served.worker.submit(late)
        others = asyncio.create_task(followed(served, [asked("Prompt", 10)]))
        with pytest.raises(ServingError, match="the request took longer"):
            async for _ in late.events():
                pass
        return await others

    (answer,) = asyncio.run(talk())
    assert answer.choices[0].tokens == 10


def test_answers_go_on_while_a_document_is_read(service):
    """Between two steps of reading; the reading goes on too, however much is asked."""
    served, seen = service(), []
    worker, done = served.worker, threading.Event()

    def reads(job: Job) -> int:
        steps = 0
        while not done.is_set() and steps < 10_000:
            time.sleep(0.001)  # a step of reading takes its time; without it all 10,000 pass before the loop wakes up
            worker.between()
            seen.append(worker.running)
            steps += 1
        return steps

    async def talk():
        document = Job(reads, 60, changes=True)
        before = asyncio.create_task(followed(served, [asked("Before", 30)]))
        await asyncio.sleep(0)
        worker.submit(document)
        later = await followed(served, [asked(f"Prompt {i}", 20) for i in range(3)])
        before = await before
        done.set()
        steps = [event async for event in document.events()][-1]
        return before + later, steps

    answers, steps = asyncio.run(talk())
    assert [answer.choices[0].tokens for answer in answers] == [30, 20, 20, 20]
    assert 1 < steps < 10_000 and max(seen) > 1


def test_a_batch_has_rows(run):
    code, _, error = run("serve", "--batch", "0")
    assert code == 2 and "--batch" in error
