"""The server: OpenAI's formats, answers equal to the model's own, and refused requests."""

import gzip
import json
import random
from dataclasses import replace

import pytest
from combined import combined
from helpers import byte_tokenizer
from served import ASKED, TEMPLATE, TEXT, clients_of, small_model, store_of, streamed
from starlette.testclient import TestClient

from sharedllm import SharedLLMForCausalLM, bundled_model
from sharedllm.answering.ask import ask
from sharedllm.answering.stream import AnswerStream, Decoder
from sharedllm.data.synthetic import make_needles
from sharedllm.demo.sources import library_text
from sharedllm.serving import answering
from sharedllm.serving.app import Service, application
from sharedllm.serving.memories import Memories
from sharedllm.serving.worker import Worker
from sharedllm.utils.checkpoints import load_tokenizer
from sharedllm.utils.errors import UserError
from sharedllm.utils.text import tokenize


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def serve(model, tokenizer, tmp_path):
    with clients_of(model, tokenizer, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def client(model, tokenizer, tmp_path_factory):
    """One server for requests that change nothing."""
    with clients_of(model, tokenizer, tmp_path_factory.mktemp("memories")) as start:
        yield start()


def test_what_there_is(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["small", "small:notes"]
    (notes,) = client.get("/v1/memories").json()["data"]
    assert (notes["id"], notes["tokens"], notes["documents"][0]["name"]) == ("notes", len(TEXT), "foxes")
    assert notes["bytes"] > len(TEXT)


@pytest.mark.parametrize("length", [20, *(pytest.param(n, marks=pytest.mark.slow) for n in (128, 700))])
def test_a_completion_is_what_the_model_generates(client, model, tokenizer, length):
    """For prompts of any length, also beyond the window."""
    prompt = (TEXT * 2)[:length]
    ids = tokenize(tokenizer, prompt)
    for new in (5, 112):
        expected = model.generate(ids, max_new_tokens=new, do_sample=False)[0, ids.shape[1] :]
        said = client.post(
            "/v1/completions", json={"model": "small", "prompt": prompt, "max_tokens": new, "memory": ""}
        ).json()
        (choice,) = said["choices"]
        assert (choice["text"], choice["finish_reason"]) == (tokenizer.decode(expected), "length")
        assert said["usage"] == {"prompt_tokens": length, "completion_tokens": new, "total_tokens": length + new}
        assert (said["object"], said["model"], "sharedllm" in said) == ("text_completion", "small", False)


@pytest.mark.parametrize(
    ("more", "template"),
    combined([{}, {"memory": "notes", "budget": 40}, {"temperature": 0.9, "top_p": 0.8, "seed": 5}], [None, TEMPLATE]),
    ids=str,
)
def test_streaming_equals_not_streaming(serve, template, more):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    client = serve(tokenizer=tokenizer)
    turns = [{"role": "system", "content": "Be brief."}, *ASKED["messages"], {"role": "assistant", "content": "A fox."}]
    turns.append({"role": "user", "content": [{"type": "text", "text": "Is it "}, {"type": "text", "text": "quick?"}]})
    body = {"messages": turns, "max_completion_tokens": 10, **more}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert client.post("/v1/chat/completions", json=body).json()["choices"] == whole["choices"]
    events = streamed(
        client.post("/v1/chat/completions", json=body | {"stream": True, "stream_options": {"include_usage": True}})
    )
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(event["choices"][0]["delta"].get("content", "") for event in events[:-1])
    assert said == whole["choices"][0]["message"]["content"]
    assert events[-2]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert (events[-1]["choices"], events[-1]["usage"]) == ([], whole["usage"])
    assert events[-2].get("sharedllm") == whole.get("sharedllm")
    if "memory" in more:
        assert whole["sharedllm"]["selected_tokens"] <= 40 == whole["sharedllm"]["budget"]
        for source in whole["sharedllm"]["sources"]:
            start, end = source["characters"]
            assert source["document"] == "foxes" and TEXT[start:end] == source["text"] != ""
    if template is None:
        form = "Be brief.\n\nQuestion: What jumps?\nAnswer: A fox.\nQuestion: Is it quick?\nAnswer:"
    else:
        form = "[system]Be brief.\n[user]What jumps?\n[assistant]A fox.\n[user]Is it quick?\n[bot]"
    assert whole["usage"]["prompt_tokens"] == len(form)


@pytest.mark.slow
def test_a_long_prompt_and_a_long_answer_over_a_memory(serve, model, tokenizer):
    """Text that does not fit into the window is appended to the selection, as in `generate`."""
    client = serve()
    client.post("/v1/memories/notes/documents", json={"name": "owls", "text": "The night owl is called Mina.\n" * 3})
    turns = [{"role": "system", "content": TEXT[:333]}, {"role": "user", "content": "Who is called Mina?"}]
    body = {"messages": turns, "max_tokens": 300, "memory": "notes", "budget": 50, "stop": "\n"}
    said = client.post("/v1/chat/completions", json=body).json()
    store, question = client.service.memories["notes"].memory, "\nQuestion: Who is called Mina?\nAnswer:"
    memory = model.select(store, tokenize(tokenizer, question), budget=50, score="bm25")
    ids = tokenize(tokenizer, f"{TEXT[:333]}\n{question}")
    expected = model.generate(ids, memory=memory, max_new_tokens=300, do_sample=False)[0, ids.shape[1] :]
    answered = tokenizer.decode(expected).lstrip().split("\n")[0]
    assert said["choices"][0]["message"]["content"] == answered != ""
    assert said["usage"]["prompt_tokens"] == ids.shape[1]


def test_a_seed_repeats_and_none_does_not(client):

    def text(**more) -> str:
        body = {"prompt": "The fox", "max_tokens": 10, "temperature": 1.5, **more}
        return client.post("/v1/completions", json=body).json()["choices"][0]["text"]

    assert text(seed=3) == text(seed=3) != text(seed=4)
    assert text() != text()


def test_stops(client):
    body = {"prompt": TEXT[:100], "max_tokens": 16}
    free = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    stop = free[8:11]
    for stream in (False, True):
        response = client.post("/v1/completions", json=body | {"stop": [stop, "never said"], "stream": stream})
        if stream:
            events = streamed(response)
            text, finish = (
                "".join(e["choices"][0]["text"] for e in events),
                events[-1]["choices"][0]["finish_reason"],
            )
        else:
            choice = response.json()["choices"][0]
            text, finish = choice["text"], choice["finish_reason"]
        assert (text, finish) == (free[: free.index(stop)], "stop")


def test_pieces_are_the_text():
    """Characters of several tokens arrive whole; possible beginnings of a stop are held back; broken characters do not
    block."""
    tokenizer = byte_tokenizer()
    text = "naïve — 日本語 🦊 fox\n and more END not END"
    for stops, expected in ((["END"], text[: text.index("END")]), (["日本x"], text), (["🦊", "語"], "naïve — 日本")):
        pieces = []
        written = AnswerStream(tokenizer, pieces.append, stops=stops)
        for token in tokenizer(text).input_ids:
            written.add(token)
            assert "\ufffd" not in written.text and expected.startswith(written.text)
        assert written.finish() == expected == "".join(pieces)
        assert written.stopped == (expected != text) and len(pieces) > 5
    line = AnswerStream(tokenizer, one_line=True, strip=True)
    for token in tokenizer(" \n A fox.\nAnd").input_ids:
        line.add(token)
    assert (line.finish(), line.stopped) == ("A fox.", True)
    decoder = Decoder(tokenizer)
    broken = tokenizer("é").input_ids[:1] * 30
    assert any(decoder.add(token) for token in broken)


def test_the_needle_is_among_the_sources(tmp_path):
    model = SharedLLMForCausalLM.from_pretrained(bundled_model(), dtype="float32").eval()
    tokenizer = load_tokenizer("tiny")
    needle = make_needles(random.Random(0), 1, "test")[0]
    filler = tokenizer.decode(library_text(tokenizer, 1000)[0, :1000])
    text = f"{filler[:1500]}\n{needle.statement}\n{filler[1500:]}"
    store = store_of(tmp_path / "facts.memory", model, tokenizer, code=text)
    service = Service(model, tokenizer, "tiny", Memories([store.folder]), Worker(1), budget=256, score="hybrid")
    question = f"What is the secret code of the {needle.key}?"
    with TestClient(application(service)) as client:
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": 32, "memory": "facts"}
        said = client.post("/v1/chat/completions", json=body).json()
    expected = ask(model, tokenizer, store, question, budget=256, score="hybrid", max_new_tokens=32)
    assert said["choices"][0]["message"]["content"].strip() == expected.text
    assert said["sharedllm"]["sources"] == expected.sources
    assert any(needle.answer in source["text"] for source in expected.sources)
    assert said["sharedllm"]["found"] is expected.found is None, "known only for models that read deeper"


@pytest.mark.parametrize("found", [True, False, None])
def test_whether_the_text_holds_what_is_asked_is_said(serve, monkeypatch, found):
    """As `sharedllm ask` says it; also at the end of a stream."""
    own = answering.choose
    monkeypatch.setattr(answering, "choose", lambda *args, **options: replace(own(*args, **options), found=found))
    client, body = serve(), ASKED | {"memory": "notes"}
    assert client.post("/v1/chat/completions", json=body).json()["sharedllm"]["found"] is found
    events = streamed(client.post("/v1/chat/completions", json=body | {"stream": True}))
    assert events[-1]["sharedllm"]["found"] is found


def test_a_whole_number_may_have_a_point(client):
    body = ASKED | {"memory": "notes"}
    plain = client.post("/v1/chat/completions", json=body | {"max_tokens": 4, "budget": 40}).json()
    pointed = client.post("/v1/chat/completions", json=body | {"max_tokens": 4.0, "budget": 40.0}).json()
    assert pointed["choices"] == plain["choices"] and pointed["sharedllm"] == plain["sharedllm"]
    refused = client.post("/v1/chat/completions", json=body | {"max_tokens": 4.5})
    assert refused.status_code == 400 and "max_tokens=4.5 is not accepted" in refused.json()["error"]["message"]


def test_a_budget_below_a_piece_is_named(serve, monkeypatch):
    """What only the text can tell to be wrong, by the model that reads it."""

    def choose(*_, **__):
        raise UserError("budget=3 is less than the 99 tokens of the longest piece: give at least 99.")

    monkeypatch.setattr(answering, "choose", choose)
    said = serve().post("/v1/chat/completions", json=ASKED | {"memory": "notes", "budget": 3})
    assert said.status_code == 400 and said.json()["error"]["param"] == "budget"


TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "red"}
WRONG_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}


@pytest.mark.parametrize(
    ("change", "status", "field", "message"),
    [
        ({"n": 17}, 400, "n", "n=17 is not accepted"),
        ({"n": 0}, 400, "n", "greater than or equal to 1"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
        ({"temperature": -1}, 400, "temperature", "temperature=-1"),
        ({"top_p": 0}, 400, "top_p", "greater than 0"),
        ({"stop": ["a", ""]}, 400, "stop", "none of them empty"),
        ({"tools": [{"type": "function"}]}, 400, "tools.0.function", "is missing: send it"),
        (
            {"functions": [5], "tools": [{"type": "function", "functoin": TOOL["function"]}]},
            400,
            "tools.0.function",
            "tools.0.function is missing: did you mean it by functoin?",
        ),
        (
            {"tools": [TOOL], "tool_choice": "required"},
            400,
            "tool_choice",
            "tool_choice needs tools, and the model has no chat template",
        ),
        ({"response_format": 5}, 400, "response_format", "response_format=5 is not a JSON object: send one"),
        ({"stream": True, "stream_options": 5}, 400, "stream_options", "stream_options=5 is not a JSON object"),
        ({"tools": [5]}, 400, "tools.0", "tools.0=5 is not a JSON object"),
        ({"tools": 5}, 400, "tools", "tools=5 is not accepted"),
        ({"messages": [5]}, 400, "messages.0", "messages.0=5 is not a JSON object"),
        ({"messages": [{"role": "user", "content": [5]}]}, 400, "messages.0.content.0", "=5 is not a JSON object"),
        ({"tool_choice": {"type": "x"}}, 400, "tool_choice.type", "is not accepted"),
        (
            {"memory": "notes", "budget": True},
            400,
            "budget",
            "budget=True is not accepted: input should be a valid int",
        ),
        ({"memory": "notes", "budget": "5"}, 400, "budget", "budget='5' is not accepted: input should be a valid int"),
        ({"stream": "yes"}, 400, "stream", "stream='yes' is not a boolean: send true or false."),
        ({"temperature": True}, 400, "temperature", "temperature=True is not accepted"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            400,
            "messages.0.content.0.type",
            "images are not supported: send text",
        ),
        ({"tool_choice": "required"}, 400, "tool_choice", "names no tool of the request"),
        (
            {"messages": [*ASKED["messages"], RESULT]},
            400,
            "messages",
            "needs tools, and the model has no chat template",
        ),
        ({"functions": [TOOL["function"]]}, 400, "functions", "leave it out"),
        ({"logit_bias": {"5": 101}}, 400, "logit_bias.5", "less than or equal to 100"),
        ({"logit_bias": {"256": 1}}, 400, "logit_bias", "use ids from 0 to 255"),
        ({"response_format": {"type": "xml"}}, 400, "response_format.type", "'xml' is not accepted"),
        ({"response_format": {"type": "json_schema"}}, 400, "response_format", "json_schema is missing"),
        ({"response_format": WRONG_SCHEMA}, 400, "response_format", "can't be kept"),
        ({"audio": {"voice": "x"}}, 400, "audio", "leave it out"),
        ({"store": True}, 400, "store", "leave it out"),
        ({"max_completion_tokens": 9}, 400, "max_tokens", "max_tokens=8 and max_completion_tokens=9 differ: send one"),
        ({"top_logprobs": 1}, 400, "top_logprobs", "needs logprobs=true"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "less than or equal to 20"),
        ({"presence_penalty": 3}, 400, "presence_penalty", "presence_penalty=3"),
        ({"frequency_penalty": -3}, 400, "frequency_penalty", "frequency_penalty=-3"),
        ({"model": "gpt"}, 404, "model", "use one of small, small:notes"),
        ({"model": "notes"}, 404, "model", "is a memory: use 'small:notes', or 'small' with memory='notes'"),
        ({"model": "small:none"}, 404, "model", "is not served"),
        ({"model": "small:notes", "memory": "other"}, 400, "memory", "differ: leave one of them out"),
        ({"memory": "../notes"}, 404, "memory", "name one of notes"),
        ({"budget": 5}, 400, "budget", "name one in memory"),
        ({"memory": "notes", "budget": 0}, 400, "budget", "budget=0"),
        ({"messages": []}, 400, "messages", "messages=[] is empty: send at least 1."),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages.0.role", "'robot' is not accepted"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "end with a question"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "end with a question"),
        ({"messages": [{"role": "user", "content": "w" * 200}], "memory": "notes"}, 400, "messages", "window=128"),
    ],
)
def test_bad_requests(client, change, status, field, message):
    for stream in (False, True):
        response = client.post("/v1/chat/completions", json=ASKED | {"stream": stream} | change)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, field)
        assert message in error["message"] and error["type"] == "invalid_request_error"
    assert client.post("/v1/chat/completions", json=ASKED | {"max_tokens": 1}).status_code == 200


def test_a_body_that_is_no_object_and_a_field_of_the_responses_api(client):
    for body in (5, [1], "text", None):
        error = client.post("/v1/chat/completions", json=body).json()["error"]
        assert error["param"] is None and "the body is" in error["message"]
    error = client.post("/v1/responses", json={"input": "What jumps?", "text": 5}).json()["error"]
    assert (error["param"], error["message"]) == ("text", "text=5 is not a JSON object: send one.")
    for body, field, message in (
        ({"input": [{"role": "assistant", "content": "x"}]}, "input", "end with a question"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": ""}]}]}, "input", "is empty"),
        ({"input": "Who \ud800?"}, "input", "half of a character"),
        ({"input": "Who?", "instructions": "\ud800"}, "instructions", "half of a character"),
    ):
        sent = {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
        response = client.post("/v1/responses", **sent)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, field) and message in error["message"], error
    part = {"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}
    error = client.post("/v1/responses", json={"input": [part]}).json()["error"]
    assert "images are not supported" in error["message"]


def test_a_misspelt_field_is_named_with_the_one_that_is_missing(client):
    said = client.post("/v1/chat/completions", json={"message": ASKED["messages"], "messenger": 5})
    assert (said.status_code, said.json()["error"]["param"]) == (400, "messages")
    assert said.json()["error"]["message"] == "messages is missing: did you mean it by message?"
    said = client.post("/v1/completions", json={"text": "Who?"}).json()["error"]["message"]
    assert said == "prompt is missing: send it."


def test_a_budget_that_reads_nothing_whole_is_said(client):
    """As the command line says it; also at the end of a stream, and together with other warnings."""
    body = ASKED | {"memory": "notes", "budget": 1, "tools": [TOOL], "max_tokens": 4}
    refused = client.post("/v1/chat/completions", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "budget")
    least = int(refused.json()["error"]["message"].removesuffix(".").split()[-1])
    body |= {"budget": least}
    said = client.post("/v1/chat/completions", json=body).json()["sharedllm"]
    little = f"Only {least} tokens of the text were read for this: raise budget."
    assert said["sources"] == [] and said["warning"].startswith(f"{little} no tool can be called")
    events = streamed(client.post("/v1/chat/completions", json=body | {"stream": True, "tools": []}))
    assert events[-1]["sharedllm"]["warning"] == little
    assert (
        "warning"
        not in client.post("/v1/chat/completions", json=body | {"budget": 60, "tools": []}).json()["sharedllm"]
    )


@pytest.mark.parametrize("memory", ["", "notes"])
def test_tools_that_the_model_may_call_but_can_not_are_warned_of(client, memory):
    """Open WebUI offers its tools to every model. The answer is that without them."""
    body = ASKED | {"memory": memory, "max_tokens": 4}
    plain, offered = (client.post("/v1/chat/completions", json=body | more).json() for more in ({}, {"tools": [TOOL]}))
    assert offered["choices"] == plain["choices"] and offered["usage"] == plain["usage"]
    warned = offered["sharedllm"].pop("warning")
    assert warned.startswith("no tool can be called: tools needs tools, and the model has no chat template")
    assert offered["sharedllm"] == plain.get("sharedllm", {})
    for choice in ("required", {"type": "function", "function": {"name": "look_up"}}):
        assert (
            client.post("/v1/chat/completions", json=body | {"tools": [TOOL], "tool_choice": choice}).status_code == 400
        )


SHORT = {
    "chat/completions": ASKED | {"max_tokens": 4},
    "completions": {"prompt": TEXT[:50], "max_tokens": 4},
}


@pytest.fixture(scope="module")
def plain(client):
    return {path: client.post(f"/v1/{path}", json=body).json()["choices"] for path, body in SHORT.items()}


@pytest.mark.parametrize(
    "more",
    [
        {"logit_bias": None},
        {"logit_bias": {}},
        {"tools": []},
        {"tool_choice": "none"},
        {"functions": None},
        {"response_format": {"type": "text"}},
        {"max_completion_tokens": 4},
        {"top_logprobs": None},
        {"top_logprobs": 0},
        {"logprobs": False},
        {"metadata": None},
        {"store": False},
        {"parallel_tool_calls": True},
        {"stop": None, "seed": None, "n": 1, "user": "u"},
        {"modalities": ["text"]},
        {"stream_options": None},
        {"stream_options": {"include_usage": None}},
        {"service_tier": "auto"},
    ],
    ids=str,
)
def test_fields_that_ask_for_nothing_change_nothing(client, plain, more):
    for path, body in SHORT.items():
        if path == "completions" and ("logprobs" in more or "max_completion_tokens" in more):
            continue
        assert client.post(f"/v1/{path}", json=body | more).json()["choices"] == plain[path]


def test_a_plain_prompt_as_clients_send_it(client):
    body = {"max_tokens": 4}
    plain = client.post("/v1/completions", json=body | {"prompt": TEXT[:50]}).json()["choices"]
    for more in ({"prompt": [TEXT[:50]]}, {"prompt": TEXT[:50], "echo": False, "best_of": 1, "suffix": None}):
        assert client.post("/v1/completions", json=body | more).json()["choices"] == plain
    for prompt in ([TEXT[:50], "b"], [[1, 2]], []):
        said = client.post("/v1/completions", json=body | {"prompt": prompt})
        assert said.status_code == 400 and said.json()["error"]["param"] == "prompt"
    said = client.post("/v1/completions", json=body | {"prompt": "x", "logprobs": 6})
    assert said.status_code == 400 and said.json()["error"]["param"] == "logprobs"


@pytest.mark.parametrize(
    "turn",
    [
        {
            "content": "A fox.",
            "refusal": None,
            "annotations": [],
            "audio": None,
            "function_call": None,
            "tool_calls": None,
        },
        {"content": "", "name": None},
        {"content": None},
    ],
    ids=str,
)
def test_an_answer_that_the_client_sends_back(client, turn):
    (user,) = ASKED["messages"]
    turns = [user, {"role": "assistant"} | turn, user]
    plain = [user, {"role": "assistant", "content": turn["content"] or ""}, user]
    said, expected = (client.post("/v1/chat/completions", json=ASKED | {"messages": m}) for m in (turns, plain))
    assert said.status_code == 200 and said.json()["choices"] == expected.json()["choices"]


def test_options_of_a_stream_need_one(client):
    for usage in (True, False):
        said = client.post("/v1/chat/completions", json=ASKED | {"stream_options": {"include_usage": usage}})
        assert said.status_code == 400 and said.json()["error"]["param"] == "stream_options"
    options = {"include_usage": True, "include_obfuscation": False}
    events = streamed(client.post("/v1/chat/completions", json=ASKED | {"stream": True, "stream_options": options}))
    assert "usage" in events[-1]


def test_a_request_that_names_no_memory_reads_the_only_one(serve, model, tokenizer, tmp_path):
    client = serve()
    chat = {name: value for name, value in ASKED.items() if name != "memory"}
    for path, body in (("chat/completions", chat), ("completions", {"prompt": "The fox", "max_tokens": 4})):
        named = client.post(f"/v1/{path}", json=body | {"memory": "notes"}).json()
        assert named["sharedllm"]["memory"] == "notes"
        for more in ({}, {"memory": None}):
            said = client.post(f"/v1/{path}", json=body | more).json()
            assert (said["choices"], said["sharedllm"]) == (named["choices"], named["sharedllm"])
        assert client.post(f"/v1/{path}", json=body | {"budget": 7}).json()["sharedllm"]["budget"] == 7
        assert "sharedllm" not in client.post(f"/v1/{path}", json=body | {"memory": ""}).json()
    # A prompt's own text that is too long to search for is read as context.
    said = client.post("/v1/completions", json={"prompt": TEXT, "max_tokens": 4})
    assert said.status_code == 200 and "sharedllm" not in said.json()
    stores = [store_of(tmp_path / f"{name}.memory", model, tokenizer, text=TEXT) for name in ("one", "two")]
    service = Service(
        model, tokenizer, "small", Memories([store.folder for store in stores]), Worker(4), budget=60, score="bm25"
    )
    with TestClient(application(service)) as several:
        for path, body in (("chat/completions", chat), ("completions", {"prompt": "The fox", "max_tokens": 4})):
            said = several.post(f"/v1/{path}", json=body | {"model": "small"}).json()["sharedllm"]
            assert said["memory"] is None and "sources" not in said
            assert "small:one" in said["warning"] and "one, two" in said["warning"]
            events = streamed(several.post(f"/v1/{path}", json=body | {"stream": True}))
            assert events[-1]["sharedllm"] == said
            assert "sharedllm" not in several.post(f"/v1/{path}", json=body | {"memory": ""}).json()
        assert (
            several.post("/v1/responses", json={"input": "What?", "max_output_tokens": 4}).json()["sharedllm"] == said
        )
        assert (
            several.post("/v1/chat/completions", json=chat | {"model": "small:two"}).json()["sharedllm"]["memory"]
            == "two"
        )
        refused = several.post("/v1/chat/completions", json=chat | {"budget": 5}).json()["error"]
        assert "name one in memory" in refused["message"]


def test_one_model(client):
    for listed in client.get("/v1/models").json()["data"]:
        assert client.get(f"/v1/models/{listed['id']}").json() == listed
    said = client.get("/v1/models/org/another")
    assert (said.status_code, said.json()["error"]["param"]) == (404, "model")


HALF = rb'"half \ud83d"'


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", b'{"messages": [{"role": "user", "content": %s}]}'),
        ("chat/completions", b'{"messages": [{"role": "user", "content": [{"type": "text", "text": %s}]}]}'),
        ("chat/completions", b'{"messages": [{"role": %s, "content": "x"}]}'),
        ("completions", b'{"prompt": %s}'),
        ("completions", b'{"prompt": [%s]}'),
        ("completions", b'{"prompt": "The", "model": %s}'),
        ("completions", b'{"prompt": "The", "memory": %s}'),
        ("completions", b'{"prompt": "The", "max_tokens": %s}'),
        ("completions", b'{"prompt": "The", %s: 1}'),
        ("completions", b'{"prompt": "The", %s: null}'),
        ("memories/notes/documents", b'{"name": %s, "text": "x"}'),
        ("memories/notes/documents", b'{"name": "x", "text": %s}'),
    ],
)
def test_half_of_a_character_is_the_clients_mistake(client, path, body):
    headers = {"Content-Type": "application/json"}
    said = client.post(f"/v1/{path}", content=body % HALF, headers=headers)
    assert said.status_code in (400, 404) and "None=" not in said.text
    stops = b'{"prompt": "The", "max_tokens": 2, "stop": %s}' % HALF  # never in an answer
    assert client.post("/v1/completions", content=stops, headers=headers).status_code == 200
    whole = rb'{"prompt": "whole \ud83d\ude00", "max_tokens": 2}'
    assert client.post("/v1/completions", content=whole, headers=headers).status_code == 200


def test_names_that_are_not_utf_8_break_no_reply(serve, model, tokenizer, tmp_path):
    """For a memory that was read before such names were converted to text."""
    store = store_of(tmp_path / "odd.memory", model, tokenizer, **{"\udcff.txt": TEXT})
    service = Service(model, tokenizer, "small", Memories([store.folder]), Worker(4), budget=60, score="bm25")
    with TestClient(application(service)) as client:
        (odd,) = client.get("/v1/memories").json()["data"]
        assert odd["documents"][0]["name"] == "?.txt"
        said = client.post("/v1/chat/completions", json=ASKED | {"memory": "odd"}).json()
        assert said["sharedllm"]["sources"][0]["document"] == "?.txt"
        events = streamed(client.post("/v1/chat/completions", json=ASKED | {"memory": "odd", "stream": True}))
        assert events[-1]["sharedllm"]["sources"] == said["sharedllm"]["sources"]


def test_what_is_not_supported_is_named_as_it_was_sent(serve):
    client, hello = serve(), {"role": "user", "content": "Hi?"}

    def called(arguments: str) -> dict:
        deep = {"id": "1", "function": {"name": "f", "arguments": arguments}}
        turns = [{"role": "assistant", "tool_calls": [deep]}, {"role": "tool", "tool_call_id": "1", "content": "2"}]
        return {"messages": [*turns, hello]}

    deep: dict = {}
    for _ in range(200):
        deep = {"p": deep}
    tools = [{"type": "function", "function": {"name": "f", "parameters": deep}}]
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
    arguments, levels = "messages.0.tool_calls.0.function.arguments", "in more than 100 levels: send flatter"
    for body, field, message in (
        ({"messages": [hello], "Foo": 1}, "Foo", "Foo is not supported: leave it out"),
        ({"messages": [hello], "str": 1}, "str", "str is not supported: leave it out"),
        ({"messages": [hello | {"Bar": 1}]}, "messages.0.Bar", "messages.0.Bar is not supported: leave it out"),
        (called("[" * 100_000), arguments, levels),
        (called('{"p":[' * 60 + "1" + "]}" * 60), arguments, levels),
        ({"messages": [hello], "tools": tools}, "tools.0.function.parameters", levels),
        ({"messages": [hello], "response_format": form}, "response_format.json_schema.schema", levels),
        # As far as the messages go it is accepted; this model's template has no form for calls.
        (called(json.dumps({"code": "[" * 200})), "messages", "chat template"),
    ):
        response = client.post("/v1/chat/completions", json=body)
        error = response.json()["error"]
        assert response.status_code == 400 and error["param"] == field and message in error["message"], error


def test_bad_bodies(serve):
    client = serve(most_bytes=100_000)
    json_type, gzipped = {"Content-Type": "application/json"}, gzip.compress(b'{"prompt": "x"}')
    for arguments, status, message in (
        (
            {"content": b"{", "headers": json_type},
            400,
            "the body is not JSON (line 1, column 2: expecting property name enclosed in double quotes): send one JSON object.",
        ),
        (
            {"content": '{"prompt": "ü",\n "n": }'.encode(), "headers": json_type},
            400,
            "(line 2, column 7: expecting value)",
        ),
        (
            {"content": b'{"prompt": "a\nb"}', "headers": json_type},
            400,
            "(line 1, column 14: invalid control character):",
        ),
        ({"content": b"[1]", "headers": json_type}, 400, "not a JSON object"),
        (
            {"content": b'{"prompt": "x"}', "headers": {"Content-Type": "text/plain"}},
            400,
            "the body has Content-Type text/plain: send one JSON object, with Content-Type: application/json.",
        ),
        ({"content": b'{"prompt": "x"}'}, 400, "the body has no Content-Type: send"),
        ({"content": b'{"prompt": "caf\xe9"}', "headers": json_type}, 400, "not text in UTF-8 (byte 15 is 0xe9)"),
        ({"content": gzipped, "headers": json_type}, 400, "the body is compressed by gzip"),
        ({"content": gzipped, "headers": json_type | {"Content-Encoding": "br"}}, 400, "(Content-Encoding: br)"),
        ({"content": b'{"seed": ' + b"1" * 5_000 + b"}", "headers": json_type}, 400, "of more than 4,300 digits"),
        ({"content": b"[" * 50_000, "headers": json_type}, 400, "the body is nested too deeply"),
        ({"json": {}}, 400, "prompt is missing"),
        ({"json": {"prompt": "x" * 200_000}}, 413, "more than 100,000 bytes"),
        ({"content": (b"x" * 60_000 for _ in range(3)), "headers": json_type}, 413, "more than 100,000 bytes"),
    ):
        response = client.post("/v1/completions", **arguments)
        said = response.json()["error"]["message"]
        assert response.status_code == status and message in said and ": send " in said, said
    for field, sent, limit in (
        ("temperature", "NaN", "temperature=nan is not accepted: input should be a finite number."),
        ("seed", str(2**63), f"seed={2**63} is not accepted: input should be less than or equal to {2**63 - 1}."),
    ):
        body = f'{{"prompt": "x", "{field}": {sent}}}'
        said = client.post("/v1/completions", content=body, headers=json_type).json()["error"]
        assert (said["param"], said["message"]) == (field, limit)
    assert client.get("/v1/nothing").json()["error"]["message"].startswith("GET /v1/nothing")
    assert client.get("/v1/completions").status_code == 405
