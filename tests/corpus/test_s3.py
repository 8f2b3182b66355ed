"""A corpus in a bucket: equal to one in a folder, asked by ranges through a small cache, with failing and slow requests."""

import pytest
from buckets import empty, s3
from corpora import documents, objects, run
from needs import needs
from stores import TOKENIZER

from sharedllm.answering.ask import ask
from sharedllm.corpus.objects import Place
from sharedllm.store import check, open_memory
from sharedllm.utils.errors import UserError

pytestmark = [needs("moto", "s3fs"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
URI = "s3://books/old/c"


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("SHAREDLLM_CACHE", str(tmp_path / "cache"))
    with s3("books", monkeypatch) as started:
        yield started


@pytest.fixture
def docs(tmp_path):
    return documents(tmp_path / "docs", 12)


def content(place: Place) -> dict[str, bytes | None]:
    names = [f"{folder}/{name}" for folder in ("parts", "shards", "index") for name in place.names(folder)]
    return {name: place.read(name) for name in [*names, "corpus.json"]}


@pytest.mark.parametrize(("every", "seconds"), [(0, 0.0), (4, 0.0), (0, 0.1)], ids=["well", "errors", "slow"])
def test_equal_to_a_folder(server, docs, corpus_model, model, tmp_path, every, seconds):
    run(corpus_model, docs, tmp_path / "c")
    server.every, server.seconds = every, seconds
    said = run(corpus_model, docs, URI)
    assert said.documents == 12 and bool(server.failed) == bool(every)
    assert content(Place(URI)) == objects(tmp_path / "c")
    here, there = open_memory(tmp_path / "c"), open_memory(URI)
    for question in ("the oak?", "the fir?", "the oak?"):
        ours, theirs = (ask(model, TOKENIZER, m, question, budget=32, max_new_tokens=2) for m in (there, here))
        assert ours.text == theirs.text and ours.sources == theirs.sources
    assert run(corpus_model, docs, URI).shards_read == 0


def test_what_was_fetched_is_kept(server, docs, corpus_model, model, tmp_path, monkeypatch):
    run(corpus_model, docs, URI)
    monkeypatch.setenv("SHAREDLLM_CACHE_MB", "1")
    counts = []
    for _ in range(2):
        before = len(server.asked)
        ask(model, TOKENIZER, open_memory(URI), "the oak?", budget=32, max_new_tokens=2)
        counts.append(sum(path.endswith(".blocks") for _, path in server.asked[before:]))
    assert counts[0] > 0 and counts[1] == 0
    assert 0 < sum(p.stat().st_size for p in (tmp_path / "cache").iterdir()) <= 10**6


@pytest.mark.parametrize("left", [0, 3000])
def test_an_object_that_is_cut_short(server, docs, corpus_model, tmp_path, left):
    """As it is copied from a damaged folder: damage, not a failure of the store."""
    import boto3

    run(corpus_model, docs, URI)
    place = Place(URI)
    before = content(place)
    name = min(name for name in place.names("shards") if name.endswith(".blocks"))
    cut = before[f"shards/{name}"][:left]
    boto3.client("s3").put_object(Bucket="books", Key=f"old/c/shards/{name}", Body=cut)
    lost = list(check(URI, lambda *_: None))
    assert len(lost) == 2 and all(f"{URI}/shards/{name} is damaged: bytes {left:,}–" in line for line in lost)
    assert run(corpus_model, docs, URI).shards_read == 1 and content(place) == before


def test_a_bucket_that_vanishes(server, docs, corpus_model, monkeypatch):
    real, count = Place.put, []

    def put(self, name, file):
        count.append(name)
        if len(count) == 4:
            empty("books")
        real(self, name, file)

    with monkeypatch.context() as patched:
        patched.setattr(Place, "put", put)
        with pytest.raises(UserError, match=r"s3://books/old/c can't be used: .*bucket"):
            run(corpus_model, docs, URI)
    with pytest.raises(UserError, match="holds no corpus"):
        open_memory(URI)


def test_a_bucket_without_access(server, docs, corpus_model, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"s3://books/old/c can't be used: .*check the address"):
        open_memory(URI)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    with pytest.raises(UserError, match="s3://none/c"):
        run(corpus_model, docs, "s3://none/c")


def test_a_source_in_a_bucket(server, docs, corpus_model, tmp_path):
    import boto3

    client = boto3.client("s3")
    for path in docs.iterdir():
        client.put_object(Bucket="books", Key=f"docs/{path.name}", Body=path.read_bytes())
    said = run(corpus_model, "s3://books/docs", tmp_path / "c")
    assert said.documents == 12
    assert {d["name"] for d in open_memory(tmp_path / "c").contents} == {f"books/docs/{i}.txt" for i in range(12)}
