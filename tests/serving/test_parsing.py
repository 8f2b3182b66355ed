"""What is sent twice is refused, unknown queries are too, and wrong addresses name the right ones."""

import json

import pytest
from helpers import byte_tokenizer
from served import ASKED, clients_of, small_model


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with clients_of(small_model(), byte_tokenizer(), tmp_path_factory.mktemp("served")) as start:
        yield start()


def refused(said, status: int = 400) -> tuple[str | None, str]:
    assert said.status_code == status, said.text
    return said.json()["error"]["param"], said.json()["error"]["message"]


def test_a_query_that_is_sent_twice(client):
    url = "/v1/memories/notes/documents/foxes"
    assert client.get(f"{url}?start=1&end=5").status_code == 200
    assert refused(client.get(f"{url}?start=1&end=5&start=2")) == (
        "start",
        "start is in the address twice: send it once.",
    )
    said = client.post("/v1/chat/completions?beta=true&beta=false", json=ASKED)
    assert refused(said)[0] == "beta"
    assert client.post("/v1/chat/completions?beta=true", json=ASKED).status_code == 200


def test_a_key_that_is_sent_twice(client):
    def post(path, body):
        return client.post(path, content=body, headers={"Content-Type": "application/json"})

    body = json.dumps(ASKED)
    assert post("/v1/chat/completions", body).status_code == 200
    said = post("/v1/chat/completions", body[:-1] + ', "max_tokens": 3}')
    assert refused(said) == ("max_tokens", "max_tokens is in one JSON object twice: send it once.")
    inner = body.replace('"role"', '"role": "system", "role"')
    assert refused(post("/v1/chat/completions", inner))[0] == "role"
    twice = '{"name": "a", "name": "b", "text": "c"}'
    assert refused(post("/v1/memories/notes/documents", twice))[0] == "name"
    assert "not JSON (line 1, column 2: expecting" in refused(post("/v1/chat/completions", "{"))[1]
    assert [d["name"] for d in client.get("/v1/memories").json()["data"][0]["documents"]] == ["foxes"]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/small", "/v1/memories", "/v1/explanations/x"])
def test_an_unknown_query(client, path):
    assert refused(client.get(f"{path}?limit=3")) == ("limit", "limit is not supported: leave it out.")


def test_a_wrong_address_or_method_names_what_there_is(client):
    _, said = refused(client.get("/v1/chat/completion"), 404)
    assert said.startswith("GET /v1/chat/completion: nothing is there; there are /v1/chat/completions, ")
    assert "/v1/models" in said and "/v1/memories/{name}/documents/{document}" in said
    assert refused(client.get("/v1/chat/completions"), 405)[1] == "GET /v1/chat/completions is not possible: use POST."
    assert refused(client.patch("/v1/memories"), 405)[1] == "PATCH /v1/memories is not possible: use GET or POST."
