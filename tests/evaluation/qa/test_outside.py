"""A system outside the package: what it is asked, and its replies scored as a system."""

import json

import pytest
import torch
from helpers import byte_tokenizer, tiny_base
from qa_files import write_sets

from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.outside import write_prompts
from sharedllm.evaluation.qa.reader import Reader
from sharedllm.evaluation.qa.report import write_report
from sharedllm.evaluation.qa.run import Plan, measure, rows_of
from sharedllm.evaluation.qa.sets import SETS, TextSpec
from sharedllm.evaluation.qa.systems import Harness, Resources


@pytest.fixture(scope="module")
def harness():
    base, tokenizer = tiny_base("qwen2", vocab_size=256, max_position_embeddings=4096), byte_tokenizer()
    return Harness(Reader(base, tokenizer), Meter(tokenizer))


@pytest.fixture
def plan(tmp_path):
    spec = TextSpec(write_sets(tmp_path / "data"), 700, per_text=2)
    return lambda *systems: Plan(SETS["nq"], spec, systems, (400,), 4)


@torch.no_grad()
def outside(base, tokenizer, prompts, replies):
    """Full attention, as another program that sees the file alone would do it."""
    lines = []
    for text in map(json.loads, prompts.read_text().splitlines()):
        for question in text["questions"]:
            ids = torch.tensor([text["ids"] + question["ids"]])
            new = []
            while (
                len(new) < text["new_tokens"] and (token := int(base(ids).logits[0, -1].argmax())) not in text["ends"]
            ):
                new.append(token)
                ids = torch.cat([ids, torch.tensor([[token]])], 1)
            row = {"question": question["id"], "reply": tokenizer.decode(new), "kept": len(text["ids"])}
            lines.append(row | {"context": ids.shape[1] - len(new), "seconds": {"answer": 0.5}, "read": 7.0})
    replies.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.slow
def test_what_another_program_answers_is_scored_as_a_system(harness, plan, tmp_path):
    one = plan("full", f"replies:{tmp_path / 'other.jsonl'}")
    texts = one.texts(harness.meter)
    assert len(texts) > 1
    write_prompts(tmp_path / "prompts.jsonl", one, texts, harness.reader)
    outside(harness.reader.model, harness.reader.tokenizer, tmp_path / "prompts.jsonl", tmp_path / "other.jsonl")
    place = measure(one, texts, Resources(harness, texts), tmp_path / "out", {})
    ours, other = rows_of(place / "full.jsonl"), rows_of(place / "replies=other.jsonl")
    assert len(ours) == 4 and len({row["reply"] for row in ours}) > 1
    for key in ("question", "reply", "scores", "context_tokens"):
        assert [row[key] for row in ours] == [row[key] for row in other], key
    assert {row["prepare"] for row in other} == {7.0} and "read_seconds" not in other[0]
    assert "| replies:other | – | 4 |" in write_report(tmp_path / "out").read_text()


def test_replies_that_were_written_again_count(harness, plan, tmp_path):
    file = tmp_path / "other.jsonl"
    one = plan(f"replies:{file}")
    texts = one.texts(harness.meter)
    ids = [question.id for text in texts for question in text.questions]

    def written(*replies):
        usual = {"kept": 3, "context": 4, "seconds": {}, "read": 1.0}
        lines = [{"question": name, "reply": reply} | usual for name, reply in zip(ids, replies, strict=True)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        place = measure(one, texts, Resources(harness, texts), tmp_path / "out", {})
        return [(row["question"], row["reply"]) for row in rows_of(place / "replies=other.jsonl")]

    first = written(*(" a" for _ in ids))
    assert first == [(name, "a") for name in ids]
    assert written(*(" a" for _ in ids)) == first
    assert written("b", *(" a" for _ in ids[1:])) == [*first, (ids[0], "b")]
    assert f"| replies:other | – | {len(ids)} |" in write_report(tmp_path / "out").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there are no replies in it"),
        ("not json\n", "there are no replies in it"),
        ('{"question": "other", "reply": ""}\n', "has no reply to nq-"),
        ('{"question": "ID", "reply": "yes", "kept": 3}\n', "is not as needed: 'context'"),
        ('{"question": "ID", "reply": 3}\n', "is not as needed"),
    ],
)
def test_replies_that_can_not_be_scored_are_refused(harness, plan, tmp_path, content, message):
    one = plan(f"replies:{tmp_path / 'other.jsonl'}")
    texts = one.texts(harness.meter)
    if content is not None:
        (tmp_path / "other.jsonl").write_text(content.replace("ID", texts[0].questions[0].id))
    with pytest.raises(ValueError, match=message):
        measure(one, texts, Resources(harness, texts), tmp_path / "out", {})


def test_prompts_are_written_instead_of_asking(run, tmp_path, base_folder):
    write_sets(tmp_path / "data")
    options = ["--data", tmp_path / "data", "--length", 700, "-n", 2, "-o", tmp_path / "out"]
    code, out, err = run("qa", base_folder, *options, "--prompts", tmp_path / "prompts")
    assert (code, out) == (0, "") and "wrote" in err and not (tmp_path / "out").exists()
    (line,) = (tmp_path / "prompts" / "nq-700.jsonl").read_text().splitlines()
    assert len(json.loads(line)["questions"]) == 2
    code, _, err = run("qa", base_folder, *options, "--system", "replies")
    assert (code, "write replies:FILE" in err) == (2, True)
