"""A real cluster of three nodes on this machine: equal to one process, and nothing lost or doubled when parts of it die."""

import random

import pytest
from clusters import begin, cluster, kill, report, wait_for_parts
from corpora import documents, objects, run
from needs import needs

pytestmark = [needs("ray"), pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SETTINGS = ("--batch-tokens", 256, "--shard-bytes", 300)


@pytest.fixture(scope="module")
def made():
    with cluster() as started:
        yield started


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return documents(tmp_path_factory.mktemp("docs") / "docs", 30)


@pytest.fixture(scope="module")
def alone(docs, corpus_model, tmp_path_factory):
    """What one process makes of the documents, without Ray."""
    folder = tmp_path_factory.mktemp("alone") / "c"
    run(corpus_model, docs, folder)
    return objects(folder)


@pytest.mark.parametrize("workers", [1, 3])
def test_equal_to_one_process(made, docs, corpus_model, alone, tmp_path, workers):
    said = report(begin(docs, str(tmp_path / "c"), corpus_model, made.address, workers, *SETTINGS))
    assert (said["documents"], said["shards_read"], said["unreadable"]) == (30, 15, [])
    assert all(line.startswith("reading shards: ") for line in said["told"]), said["told"]
    assert objects(tmp_path / "c") == alone


@pytest.mark.parametrize("what", ["worker", "node", "driver"])
def test_what_dies_loses_and_doubles_nothing(made, docs, corpus_model, alone, tmp_path, what):
    rng = random.Random(what)
    arguments = docs, str(tmp_path / "c"), corpus_model, made.address, 3, *SETTINGS
    driver = begin(*arguments)
    wait_for_parts(tmp_path / "c", 2, driver)
    assert kill(what, made, driver, rng)
    if what == "driver":
        driver = begin(*arguments)
    said = report(driver)
    assert said["documents"] == 30 and not said["unreadable"]
    assert objects(tmp_path / "c") == alone
