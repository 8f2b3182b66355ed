"""A corpus behind `sharedllm serve`, by its URI."""

import corpora
from starlette.testclient import TestClient

from sharedllm.serving import server


def test_a_corpus_is_asked_over_http(run, monkeypatch, tmp_path):
    corpora.documents(tmp_path / "docs", 4)
    corpora.run("tiny", tmp_path / "docs", tmp_path / "trees")
    seen = {}

    def asked(app, worker, bound) -> None:
        with TestClient(app, base_url="http://localhost") as client:
            seen["models"] = [model["id"] for model in client.get("/v1/models").json()["data"]]
            (seen["memory"],) = client.get("/v1/memories").json()["data"]
            question = {"model": "tiny:trees", "max_tokens": 8, "messages": [{"role": "user", "content": "elder"}]}
            seen["answer"] = client.post("/v1/chat/completions", json=question).json()
            seen["stream"] = client.post("/v1/chat/completions", json=question | {"stream": True}).text
            place = "/v1/memories/trees/documents"
            name = seen["answer"]["sharedllm"]["sources"][0]["document"]
            seen["passage"] = client.get(f"{place}/{name}").json()
            seen["change"] = client.put(f"{place}/x.txt", content=b"more")

    monkeypatch.setattr(server, "run", asked)
    code, _, err = run("serve", f"file://{tmp_path}/trees", "--budget", 64, "--port", 0)
    assert code == 0, err
    assert seen["models"] == ["tiny", "tiny:trees"]
    assert (seen["memory"]["id"], len(seen["memory"]["documents"])) == ("trees", 4)
    extra = seen["answer"]["sharedllm"]
    assert extra["memory"] == "trees" and 0 < extra["selected_tokens"] <= 64
    # Number 3 is the only document with that word.
    assert any(source["document"].endswith("/3.txt") and "elder" in source["text"] for source in extra["sources"])
    assert seen["stream"].endswith("data: [DONE]\n\n") and extra["sources"][0]["text"] in seen["passage"]["text"]
    assert seen["change"].status_code == 409 and "is a corpus" in seen["change"].text
