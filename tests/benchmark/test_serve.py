"""`sharedllm bench serve`: what it asks, counts and reports. Timings are never asserted."""

import json
import re
from dataclasses import replace

import pytest
from helpers import byte_tokenizer
from served import clients_of, listening, small_model

from sharedllm.benchmark import serve
from sharedllm.benchmark.serve import FILE, Plan, Served, ask, begun, loaded, measure, serving
from sharedllm.benchmark.serve_report import draw, markdown, percentile, rows, table

PLAN = Plan("models/small", ["a/notes.memory"], [1, 2, 4], rounds=2, answers=1, tokens=6)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    made = clients_of(small_model(), byte_tokenizer(), tmp_path_factory.mktemp("memories"))
    with made as start, listening(start(waiting=8).app, lifespan="off") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(autouse=True)
def short_questions(monkeypatch):
    monkeypatch.setattr(serve, "QUOTED", 12)  # the model's tokens are characters


def made(seconds: dict[tuple[int, int], float], clients=(1, 2)) -> dict:
    """Results of cells that took so many seconds, by clients and round."""
    answers = [{"first": 1.0 + i, "total": 5.0, "tokens": 10} for i in range(4)]
    cells = [
        {"clients": c, "round": r, "seconds": s, "processor_seconds": 2 * s, "load": [0.5, 1.5], "answers": answers}
        for (c, r), s in seconds.items()
    ]
    plan = {"model": "m", "memories": ["x"], "clients": [*clients], "batch": 8, "tokens": 10, "seed": 0}
    where = {"cpu": "CPU", "cores": 2, "threads": 2, "torch": "2", "transformers": "5"}
    return {"about": {"plan": plan, "environment": where, "sharedllm": "0"}, "sessions": [], "cells": cells}


@pytest.mark.slow
def test_numbers_of_clients_take_turns_and_a_run_resumes(url, tmp_path):
    notes, times = [], iter(range(1000))
    served = Served(url, lambda: next(times))
    results = measure(replace(PLAN, rounds=1), served, tmp_path / "short", notes.append)
    assert [cell["clients"] for cell in results["cells"]] == [1, 2, 4] and len(notes) == 3
    content = json.loads((tmp_path / "short" / FILE).read_text())
    assert content == results == loaded(tmp_path / "short")
    assert (content["about"]["plan"]["model"], content["about"]["plan"]["memories"]) == ("small", ["notes.memory"])
    for cell in results["cells"]:
        assert cell["processor_seconds"] == 1 and cell["seconds"] > 0 and len(cell["answers"]) == 4
        for answer in cell["answers"]:
            assert 0 < answer["first"] <= answer["total"] <= cell["seconds"] and 0 < answer["tokens"] <= 6
    again = measure(replace(PLAN, rounds=1), served, tmp_path / "short", notes.append)
    assert again["cells"] == results["cells"] and len(again["sessions"]) == 2 and len(notes) == 3
    with pytest.raises(ValueError, match="differs in plan"):
        measure(PLAN, served, tmp_path / "short", notes.append)
    # Equally long answers: nothing ends them early.
    ends = replace(PLAN, clients=[1], rounds=1, ends=list(range(200)))
    cells = measure(ends, served, tmp_path / "ends", notes.append)["cells"]
    assert [answer["tokens"] for answer in cells[0]["answers"]] == [6]
    two = measure(replace(PLAN, clients=[1, 2]), served, tmp_path / "two", notes.append)
    assert [cell["clients"] for cell in two["cells"]] == [1, 2, 2, 1], "in both directions"
    assert draw(two, tmp_path).read_bytes().startswith(b"\x89PNG")


def test_rates_and_ratios():
    results = made({(1, 0): 10, (2, 0): 5, (1, 1): 20, (2, 1): 4, (1, 2): 7})
    one, two = rows(results)
    # 40 tokens a cell; the last round is not complete.
    assert (one.rate, one.low, one.high, one.ratio) == (3, 2, 4, 1)
    assert (two.rate, two.low, two.high, two.ratio) == (9, 8, 10, 3.5)
    assert (one.processor, two.processor) == (0.75, 0.225) and one.first == {50: 2.0, 90: 4.0, 99: 4.0}
    assert [*table(results)][3] == "| 2 | 9.0 (8.0–10.0) | 3.50 | 0.225 | 3.33 | 2.0 | 4.0 | 4.0 | 5.0 |"
    text = markdown(results)
    assert "4 answers in a cell" in text and "0.5–1.5" in text
    assert rows(made({(1, 0): 1})) == [] and "| 1 |" not in markdown(made({(1, 0): 1}))
    unknown = made({(1, 0): 10, (2, 0): 5})
    for cell in unknown["cells"]:
        cell["processor_seconds"] = None
    assert "| 2 | 8.0 (8.0–8.0) | 2.00 | – | – |" in [*table(unknown)][3]


def test_percentiles():
    values = [float(i) for i in range(100, 0, -1)]
    assert [percentile(values, p) for p in (50, 90, 99)] == [50, 90, 99] and percentile([3.0], 50) == 3


@pytest.mark.slow
def test_what_goes_wrong_is_said(url, tmp_path, run):
    with pytest.raises(ValueError, match="404"):
        ask(url, "small", {"memory": "none", "text": "What?"}, 4)
    with pytest.raises(ValueError, match="holds no results"):
        loaded(tmp_path)
    with pytest.raises(ValueError, match="rounds"):
        replace(PLAN, rounds=0)
    memory = tmp_path / "x.memory"
    memory.mkdir()
    with (
        pytest.raises(ValueError, match=r"did not start: .*is not a memory"),
        serving(replace(PLAN, memories=[str(memory)], model="tiny")),
    ):
        pass
    code, _, error = run("bench", "serve", memory, "-o", tmp_path / "out", "--clients", "1,x")
    assert code == 2 and re.search(r"--clients '1,x' must be whole numbers", error)
    code, _, error = run("bench")
    assert code == 2 and "--output" in error


def test_another_memory_of_the_same_name_is_another_run(tmp_path):
    one, two = (tmp_path / part / "a.memory" for part in ("one", "two"))
    for place in (one, two):
        place.mkdir(parents=True)
        (place / "manifest.json").write_text('{"documents": 1}')
    first = begun(replace(PLAN, memories=[str(one)]), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FILE).write_text(json.dumps(first))
    begun(replace(PLAN, memories=[str(two)]), tmp_path / "out")
    (two / "manifest.json").write_text('{"documents": 2}')
    with pytest.raises(ValueError, match="holds another run, which differs in files: name another folder"):
        begun(replace(PLAN, memories=[str(two)]), tmp_path / "out")
    del first["about"]["files"]
    (tmp_path / "out" / FILE).write_text(json.dumps(first))
    begun(replace(PLAN, memories=[str(two)]), tmp_path / "out")
