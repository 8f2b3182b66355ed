"""Official tasks: prompts from published records, generators, and the runner."""

import json
import math
import re
from pathlib import Path

import pytest
from combined import rarely
from helpers import tiny_base, tiny_shared
from transformers import AutoTokenizer

from sharedllm import bundled_model
from sharedllm.cli.official import command
from sharedllm.evaluation.official import (
    GROUPS,
    read_task,
    ruler_task,
    run_official,
    task_names,
)
from sharedllm.evaluation.official.base import templates, truncate_middle
from sharedllm.evaluation.official.metrics import METRICS
from sharedllm.evaluation.official.ruler import largest
from sharedllm.systems.answering import Prompt
from sharedllm.systems.sharedllm.answering import AnsweringShared
from sharedllm.systems.window import AnsweringWindow

DATA = str(Path(__file__).parents[1] / "fixtures" / "official")


@pytest.fixture(scope="module", params=["bytes", *rarely("tiny")])
def tokenizer(request, base_folder):
    return AutoTokenizer.from_pretrained(base_folder if request.param == "bytes" else bundled_model("tiny"))


@pytest.fixture(scope="module")
def byte_tokenizer(base_folder):
    return AutoTokenizer.from_pretrained(base_folder)


def test_all_tasks_are_there():
    assert [len(group) for group in GROUPS.values()] == [21, 1, 12, 11]
    assert task_names(["ruler", "vt", "hotpotqa"]) == [*GROUPS["ruler"], "hotpotqa"]
    for benchmark in ("longbench", "infinitebench", "ruler"):
        for name, row in templates(benchmark).items():
            assert row["metric"] in METRICS and row["prompt"].count("{context}") == 1, name
    with pytest.raises(ValueError, match=r"no official task 'nq': use longbench, .*passkey"):
        task_names(["nq"])
    with pytest.raises(ValueError, match="SQuAD"):
        task_names(["qa_1"])


def test_prompts_of_longbench():
    task = read_task("hotpotqa", DATA)
    first = task.records[0]
    assert (task.max_new_tokens, first.answers, first.blind) == (32, ("Arden", "in Arden"), None)
    assert first.prompt.before.endswith("The following are given passages.\n")
    assert first.prompt.context.endswith("{Braces} stay.")
    assert first.prompt.after.endswith("\n\nQuestion: Where does the smith live?\nAnswer:")
    assert task.score("in Arden", first) == 1 and task.score("Arden", first) == 1
    trec = read_task("trec", DATA)
    assert trec.records[0].blind == 1 / 4 and trec.first_line
    assert trec.score("\nDistance\nHuman", trec.records[0]) == 1
    assert read_task("passage_retrieval_en", DATA).records[0].blind == 1 / 3
    (second,) = read_task("longbench_v2", DATA).records
    assert (
        "<text>\nTom left the town at dawn.\n</text>\n\nWhat is the correct answer to this question: Who left?\n"
        in (second.prompt.text)
    )
    assert "(D) Nobody\n\nFormat" in second.prompt.after and second.blind == 1 / 4


@pytest.mark.parametrize(
    ("name", "right", "ending"),
    [
        ("passkey", "71432", "What is the pass key?\n\nThe pass key is"),
        ("kv_retrieval", '"d4"', "specified key is: "),
        ("longbook_choice_eng", "C", "C. bees\nD. kings\n\nThe letter of the correct answer is"),
        ("code_debug", "B.", "D. f4\n\nThe correct option is:"),
        ("math_find", "9", "The largest number of the list is: "),
        ("math_calc", "[1, 4, 8]", "\nValues:"),
        ("code_run", "-1", "the exact value of func_1(-3). The value of func_1(-3) is"),
        ("longdialogue_qa_eng", "Mara", "replaced with $$MASK$$ is likely"),
    ],
)
def test_prompts_of_infinitebench(name, right, ending):
    task = read_task(name, DATA)
    (record,) = task.records
    assert record.prompt.text.endswith(ending)
    assert task.score(right, record) == 1 and task.score("wrong", record) == 0
    assert record.blind == (1 / 4 if name in ("longbook_choice_eng", "code_debug") else None)
    if name == "math_find":
        assert record.prompt.before == "What is the largest number in the following list?\n\n"


def test_bad_records_name_file_and_line(tmp_path):
    good = (Path(DATA) / "hotpotqa.jsonl").read_text().splitlines()[0]
    path = tmp_path / "hotpotqa.jsonl"
    with pytest.raises(ValueError, match=r"data='.*' holds no hotpotqa.jsonl: name the folder"):
        read_task("hotpotqa", str(tmp_path))
    for bad, message in (
        ('{"input": ', r"hotpotqa.jsonl:2 is not JSON"),
        ('{"input": "a", "input": "b"}', r"hotpotqa.jsonl:2 is not JSON: 'input' is there twice"),
        ("[1]", r"hotpotqa.jsonl:2 is a list, not a record"),
        (good.replace('"answers"', '"answer"'), r"hotpotqa.jsonl:2 has no field 'answers'"),
        (good.replace('["Arden", "in Arden"]', '"Arden"'), r"hotpotqa.jsonl:2 .*'answers' must be a list"),
        (good.replace('"context": "', '"context": 3, "was": "'), r"hotpotqa.jsonl:2: 'context' is an int"),
    ):
        path.write_text(f"{good}\n{bad}\n")
        with pytest.raises(ValueError, match=message):
            read_task("hotpotqa", str(tmp_path))
    path.write_text("\n")
    with pytest.raises(ValueError, match="holds no record"):
        read_task("hotpotqa", str(tmp_path))
    (tmp_path / "code_run.jsonl").write_text('{"id": 1, "context": "", "input": "f", "answer": [1], "options": []}\n')
    with pytest.raises(ValueError, match=r"code_run.jsonl:1 is not in the published form"):
        read_task("code_run", str(tmp_path))


@pytest.mark.parametrize("name", GROUPS["ruler"])
def test_generators(name, tokenizer):
    length = 9000 if name == "cwe" else 4500
    task = ruler_task(name, tokenizer, length, 2, seed=3, hay="It rained. The hens were silent. " * 9)
    again = ruler_task(name, tokenizer, length, 1, seed=3, hay="It rained. The hens were silent. " * 9)
    assert again.records[0] == task.records[0] != task.records[1]
    assert ruler_task(name, tokenizer, length, 1, seed=4).records[0] != task.records[0]
    for record in task.records:
        used = len(tokenizer(record.prompt.text, add_special_tokens=False).input_ids) + task.max_new_tokens
        # One more sentence or word would not fit.
        assert length - 200 < used <= length
        (answers,) = record.answers
        assert all(answer in record.prompt.context for answer in answers) and len(set(answers)) == len(answers)
        assert task.score(" ".join(answers).upper(), record) == 1 and task.score("none", record) == 0
        assert task.score(answers[0], record) == pytest.approx(1 / len(answers))


def test_generated_answers_are_what_the_text_says(byte_tokenizer):
    """Solved from the text alone."""
    (vt,) = ruler_task("vt", byte_tokenizer, 3000, 1).records
    value = vt.prompt.after.split("assigned the value ")[1].split(" ")[0]
    held = {value}
    for line in vt.prompt.context.splitlines():
        if line.startswith("VAR "):
            name, given = line.removeprefix("VAR ").split(" = ")
            held |= {name} if given.strip().removeprefix("VAR ") in held else set()
    assert held - {value} == set(vt.answers[0]) and len(vt.answers[0]) == 5
    for name, count in (("cwe", 10), ("fwe", 3)):
        (record,) = ruler_task(name, byte_tokenizer, 8000, 1).records
        words = [w for w in record.prompt.context.split() if w != "..." and not w.rstrip(".").isdigit()]
        common = sorted(set(words), key=words.count, reverse=True)[:count]
        assert set(common) == set(record.answers[0]), name
        assert words.count(common[-1]) > max(words.count(w) for w in set(words) - set(common))
    (many,) = ruler_task("niah_multiquery", byte_tokenizer, 3000, 1).records
    for value in many.answers[0]:
        sentence = next(s for s in many.prompt.context.splitlines() if value in s)
        assert sentence.split(" for ")[1].split(" is: ")[0] in many.prompt.after
    assert (
        "What is the special magic number for "
        in ruler_task("niah_single_1", byte_tokenizer, 900, 1).records[0].prompt.after
    )


def test_too_short_for_a_generator(byte_tokenizer):
    with pytest.raises(ValueError, match=r"vt needs [\d,]+ tokens at least, not 300"):
        ruler_task("vt", byte_tokenizer, 300, 1)


@pytest.mark.parametrize("guess", [0, 3, 700, 5000])
def test_largest_finds_the_border(guess):
    def count(n):
        return 40 + 7 * n + n % 3

    best = largest(count, 5000, guess=guess)
    assert count(best) <= 5000 < count(best + 1)
    assert largest(count, 39) is None and largest(count, 45) == 0


def test_truncation_keeps_both_ends(byte_tokenizer):
    prompt = Prompt("begin ", "x" * 500, " What?")
    assert truncate_middle(prompt, byte_tokenizer, 512) == (prompt, 0)
    cut, removed = truncate_middle(prompt, byte_tokenizer, 101)
    # Half of 101 is 50, from each end.
    assert cut.text == prompt.text[:50] + prompt.text[-50:] and removed == 512 - 100
    assert cut.after == " What?"
    with pytest.raises(ValueError, match="at least 2"):
        truncate_middle(prompt, byte_tokenizer, 1)


class Parrot:
    """Answers with the last word of the context; stops the run after so many answers."""

    name = "parrot"

    def __init__(self, stop=math.inf):
        self.asked, self.stop, self.about = [], stop, {"kind": "test"}

    def answer(self, prompt, max_new_tokens):
        if len(self.asked) >= self.stop:
            raise KeyboardInterrupt
        self.asked.append(prompt.text)
        return prompt.context.split()[-1]


def test_run_resumes_and_refuses_other_settings(byte_tokenizer, tmp_path):
    tasks = [read_task("hotpotqa", DATA), read_task("trec", DATA)]
    with pytest.raises(KeyboardInterrupt):
        run_official(Parrot(stop=1), tasks, tmp_path, byte_tokenizer, 64)
    file = tmp_path / "parrot" / "hotpotqa" / "predictions.jsonl"
    with file.open("a") as half:
        half.write('{"id": "hotp')
    second = Parrot()
    results = run_official(second, tasks, tmp_path, byte_tokenizer, 64)
    assert len(second.asked) == 2
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["id"] for line in lines] == ["hotpotqa-0", "hotpotqa-1"]
    # "stay." and "bees." share no word with the answers; nothing was cut.
    assert (results["hotpotqa"]["score"], results["hotpotqa"]["records"]) == (0, 2)
    assert results["hotpotqa"]["truncated"] == 0 and len(second.asked[0]) == lines[1]["tokens"]
    assert results["trec"]["blind"] == 25
    third = Parrot()
    assert run_official(third, tasks, tmp_path, byte_tokenizer, 64) == results and not third.asked
    # Old files call a system an answerer.
    for name in ("run.json", "result.json"):
        path = tmp_path / "parrot" / "trec" / name
        path.write_text(path.read_text().replace('"system":', '"answerer":'))
    assert run_official(third, tasks, tmp_path, byte_tokenizer, 64) == results and not third.asked
    run = json.loads((tmp_path / "parrot" / "trec" / "run.json").read_text())
    assert run["environment"]["torch"] and run["command"] and len(run["about"]["data"]) == 64
    with pytest.raises(ValueError, match="another truncate_middle: name another folder"):
        run_official(third, tasks, tmp_path, byte_tokenizer, 64, cut=100)
    with pytest.raises(ValueError, match="another data, prompts, records"):
        run_official(third, [read_task("hotpotqa", DATA, limit=1)], tmp_path, byte_tokenizer, 64)


def test_cuts_only_when_asked_and_counts_them(byte_tokenizer, tmp_path):
    parrot, task = Parrot(), read_task("hotpotqa", DATA)
    whole = max(len(record.prompt.text) for record in task.records)
    result = run_official(parrot, [task], tmp_path, byte_tokenizer, 64, cut=600)["hotpotqa"]
    assert result["truncated"] == 1 and result["tokens_removed"] == whole - 600 and result["longest"] == whole
    assert max(map(len, parrot.asked)) == 600


def test_window_oracle(byte_tokenizer, tmp_path):
    """All answers occur in the whole prompt, and those of a needle near the end occur in its end."""
    task = ruler_task("niah_multivalue", byte_tokenizer, 2000, 4)
    assert run_official(Parrot(), [task], tmp_path / "a", byte_tokenizer, 2000)[task.label]["window_oracle"] == 100
    part = run_official(Parrot(), [task], tmp_path / "b", byte_tokenizer, 1000)[task.label]["window_oracle"]
    found = [sum(value in record.prompt.text[-1000:] for value in record.answers[0]) / 4 for record in task.records]
    assert part == pytest.approx(100 * sum(found) / 4) and 0 < part < 100
    assert task.label == "niah_multivalue-2000"


def test_a_budget_goes_by_what_a_template_asks(byte_tokenizer, monkeypatch):
    """LongBench's instruction around the question is not searched for in the passages."""
    model = tiny_shared("llama", base=tiny_base("llama", vocab_size=256), encoding="chunk", window=200)
    (record, *_), seen = read_task("hotpotqa", DATA).records, []

    def select(memory, question, *, query_words, **options):
        seen.append(byte_tokenizer.decode(question[query_words]))
        return own(memory, question, query_words=query_words, **options)

    own = model.select
    monkeypatch.setattr(model, "select", select)
    AnsweringShared(model, byte_tokenizer, 24).answer(record.prompt, 3)
    (asked,) = re.findall(r"Question: (.*)\nAnswer:", record.prompt.after)
    assert seen == [asked.removesuffix("?")]


@pytest.mark.parametrize("budget", [*rarely(None), 24])
def test_shared_and_window_answer(byte_tokenizer, tmp_path, budget):
    """Answers longer than the window are written; far text matters to one system and not to the other."""
    base = tiny_base("llama", vocab_size=256)
    shared = AnsweringShared(
        tiny_shared("llama", base=base, encoding="chunk", injection="joint"), byte_tokenizer, budget
    )
    window = AnsweringWindow(base, byte_tokenizer, 32)
    one, other = (Prompt("Read: ", text * 30, " What is it? It is") for text in ("red hens. ", "old kings "))
    assert shared.answer(one, 20) == shared.answer(one, 20) != shared.answer(other, 20)
    assert window.answer(one, 20) == window.answer(Prompt("", "x" * 99 + one.context[-40:], one.after), 20)
    assert len(byte_tokenizer(shared.answer(one, 40)).input_ids) >= 40
    short = Prompt("", "ab", "c")
    assert shared.answer(short, 3) and window.answer(short, 3)
    results = run_official(shared, [read_task("hotpotqa", DATA, 1)], tmp_path, byte_tokenizer, 32)
    assert results["hotpotqa"]["records"] == 1


def test_pieces_of_the_window_equal_one_generation(byte_tokenizer):
    """As long as nothing leaves the window, writing in pieces equals plain greedy decoding."""
    base = tiny_base("llama", vocab_size=256)
    ids = byte_tokenizer("abcdef", return_tensors="pt").input_ids
    plain = base.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=0)
    told = AnsweringWindow(base, byte_tokenizer, 40).answer(Prompt("", "abc", "def"), 20)
    assert told == byte_tokenizer.decode(plain[0, 6:], skip_special_tokens=True)


@pytest.mark.slow
def test_command(model_folder, base_folder, tmp_path, capsys):
    arguments = {"model": str(model_folder), "base": str(base_folder), "limit": 1, "data": DATA}
    command(["hotpotqa", "niah_single_1"], tmp_path, lengths="900", json=True, **arguments)
    rows = json.loads(capsys.readouterr().out)["results"]
    assert [(row["system"], row["task"], row["length"]) for row in rows] == [
        (who, *what) for who in ("sharedllm", "window") for what in (("hotpotqa", None), ("niah_single_1", 900))
    ]
    command(["hotpotqa", "niah_single_1"], tmp_path, lengths="900", **arguments)
    shown = capsys.readouterr().out
    assert "niah_single_1-900" in shown and "oracle" in shown and "cut" not in shown
    with pytest.raises(ValueError, match="hotpotqa needs its records: give --data"):
        command(["vt", "hotpotqa"], tmp_path)
