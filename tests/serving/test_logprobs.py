"""Every generated token has its log probability, also those that are not in the text: white space before it, and what ends
it."""

import pytest
from helpers import byte_tokenizer
from served import ASKED, clients_of, small_model, streamed

PLAIN = {"prompt": "The fox", "max_tokens": 4, "memory": ""}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with clients_of(small_model(), byte_tokenizer(), tmp_path_factory.mktemp("memories")) as start:
        yield start()


def always(text: str) -> dict:
    """A bias to one token."""
    return {"logit_bias": {str(byte_tokenizer()(text).input_ids[0]): 100}}


@pytest.mark.parametrize(
    ("more", "text", "said", "finish"),
    [
        ({"max_tokens": 1} | always(" "), "", " ", "length"),
        ({"max_tokens": 3} | always(" "), "", "   ", "length"),
        ({"max_tokens": 3} | always("x"), "xxx", "xxx", "length"),
        ({"max_tokens": 9, "stop": "xx"} | always("x"), "", "xx", "stop"),
    ],
)
@pytest.mark.parametrize("choices", [1, 2])
def test_of_chat(client, more, text, said, finish, choices):
    body = ASKED | more | {"logprobs": True, "top_logprobs": 2, "n": choices}
    whole = client.post("/v1/chat/completions", json=body).json()
    events = streamed(client.post("/v1/chat/completions", json=body | {"stream": True}))
    counts = []
    for index, choice in enumerate(whole["choices"]):
        tokens = choice["logprobs"]["content"]
        assert "".join(token["token"] for token in tokens) == said and choice["message"]["content"] == text
        assert choice["finish_reason"] == finish and all(len(token["top_logprobs"]) == 2 for token in tokens)
        parts = [event["choices"][0] for event in events if event["choices"][0]["index"] == index]
        assert [t for part in parts for t in (part["logprobs"] or {"content": []})["content"]] == tokens
        assert "".join(part["delta"].get("content", "") for part in parts) == text
        counts.append(len(tokens))
    assert whole["usage"]["completion_tokens"] == sum(counts)


def test_what_the_models_configuration_rules_out_has_a_number(client, monkeypatch):
    (only,) = byte_tokenizer()("x").input_ids
    monkeypatch.setattr(small_model().generation_config, "suppress_tokens", [i for i in range(256) if i != only])
    asked = ASKED | {"logprobs": True, "top_logprobs": 2, "max_tokens": 1}
    (token,) = client.post("/v1/chat/completions", json=asked).json()["choices"][0]["logprobs"]["content"]
    assert token["token"] == "x" and [best["logprob"] for best in token["top_logprobs"]] == [0, -9999]


@pytest.mark.parametrize(
    ("more", "text", "said"),
    [
        (always(" "), "    ", "    "),
        ({"stop": "xx"} | always("x"), "", "xx"),
        ({"max_tokens": 1} | always("x"), "x", "x"),
    ],
)
def test_of_a_plain_completion(client, more, text, said):
    body = PLAIN | {"logprobs": 1} | more
    whole = client.post("/v1/completions", json=body).json()
    (choice,) = whole["choices"]
    found = choice["logprobs"]
    assert choice["text"] == text and "".join(found["tokens"]) == said
    assert found["text_offset"] == [*range(len(said))] and whole["usage"]["completion_tokens"] == len(said)
    parts = [event["choices"][0] for event in streamed(client.post("/v1/completions", json=body | {"stream": True}))]
    for name, values in found.items():
        assert [value for part in parts if part["logprobs"] for value in part["logprobs"][name]] == values
