"""Systems on tiny models: the text shown to each, no question asked twice, and the tables made from the files."""

import json
import shutil
from dataclasses import dataclass, replace
from itertools import islice
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from qa_files import write_sets
from transformers import BertConfig, BertModel

from sharedllm.evaluation.qa.memory import Memory, spans_of
from sharedllm.evaluation.qa.meter import Meter
from sharedllm.evaluation.qa.pieces import Piece, cut, joined
from sharedllm.evaluation.qa.plot import draw
from sharedllm.evaluation.qa.rankings import Both, Ranking, Words, ranked, ranking_of
from sharedllm.evaluation.qa.reader import Reader, TooLong
from sharedllm.evaluation.qa.report import FEWEST, Contender, difference, load, shown, total_operations, write_report
from sharedllm.evaluation.qa.run import Plan, measure, rows_of
from sharedllm.evaluation.qa.selection import fused, measure_selection
from sharedllm.evaluation.qa.sets import SETS, PackedText, Question, TextSpec
from sharedllm.evaluation.qa.systems import Ask, Harness, Resources, Skipped, asked_names, make
from sharedllm.evaluation.qa.text_systems import ClosedBook
from sharedllm.evaluation.statistics import pooled_bootstrap
from sharedllm.scoring.rankings import LEAST_SHARE

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sets(tmp_path_factory.mktemp("data") / "qa")


@pytest.fixture(scope="module")
def base():
    return tiny_base("qwen2", vocab_size=256, max_position_embeddings=4096)


@pytest.fixture(scope="module")
def reader(base):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return Reader(base, tokenizer, chunk=64)


@pytest.fixture
def harness(reader):
    return Harness(reader, Meter(reader.tokenizer))


@pytest.fixture(scope="module")
def plan(folder):
    spec = TextSpec(folder, 1500, per_text=4)
    return Plan(SETS["nq"], spec, ("closed", "wrong", "full", "oracle-text", "bm25-text"), (400,), 6)


@pytest.fixture(scope="module")
def measured(reader, plan, tmp_path_factory):
    """A folder with all answers of the plan; tests change a copy of it."""
    harness, folder = Harness(reader, Meter(reader.tokenizer)), tmp_path_factory.mktemp("measured")
    texts = plan.texts(harness.meter)
    return measure(plan, texts, Resources(harness, texts), folder, {"base": "a"}, "a tiny model")


@pytest.fixture
def place(measured, tmp_path):
    """Where the answers lie in a copy of that folder."""
    return shutil.copytree(measured.parent, tmp_path, dirs_exist_ok=True) / measured.name


@torch.no_grad()
def likeliest(base, tokenizer, prompt, count):
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False).input_ids])
    for _ in range(count):
        ids = torch.cat([ids, base(ids).logits[:, -1:].argmax(-1)], 1)
    return tokenizer.decode(ids[0, -count:])


def test_a_reader_writes_what_one_pass_would(reader, base):
    """A cached head, the prompt in chunks and tokens one by one equal reading everything again for each token."""
    head = reader.head()
    shown = "The quick brown fox jumps over the lazy dog. " * 3
    prompt = reader.prompt(shown, "Who jumps?", after_text=True)
    expected = likeliest(base, reader.tokenizer, f"<user>{shown}\n\nWho jumps?</user><assistant>", 6)
    for _ in range(2):
        written = reader.write(head, prompt, 6)
        assert written.text == expected.strip() and written.tokens == 6
        assert head.cache.get_seq_length() == head.length == 6
    assert set(written.seconds) == {"prefill", "decode"} and written.operations > 0


def test_full_attention_is_the_text_in_the_window(harness, plan):
    (text, *_) = plan.texts(harness.meter)
    question = text.questions[0]
    ask = Ask(question, "Be short.", 5)
    full = make("full", Resources(harness, [text]))
    reply = full.answer(full.prepare(text), ask)
    prompt = f"<user>{text.text}\n\nBe short.\nQuestion: {question.question}\nAnswer:</user><assistant>"
    assert reply.text == likeliest(harness.reader.model, harness.reader.tokenizer, prompt, 5).strip()
    assert reply.selected_tokens == text.tokens and reply.spans == ((0, len(text.text)),)
    slow = make("full", Resources(harness, [text], limit_s=0))
    with pytest.raises(Skipped, match="tokens took 0 s"):
        slow.prepare(text)
    with pytest.raises(TooLong, match="do not fit into the window of 4,096"):
        harness.reader.read("x" * 5000)


def test_an_end_token_ends_an_answer(base):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    reader = Reader(base, tokenizer)
    prompt = reader.prompt("", "Who jumps?", after_text=False)
    assert reader.write(reader.head(), prompt, 8).tokens == 8
    with torch.no_grad():
        reader.ends = {int(base(torch.cat([reader.form.head(), prompt], 1)).logits[0, -1].argmax())}
    stopped = reader.write(reader.head(), prompt, 8)
    assert stopped.tokens == 0 and stopped.text == ""


def test_what_each_system_shows(harness, plan):
    texts = plan.texts(harness.meter)
    resources = Resources(harness, texts)
    text = texts[0]
    pieces = cut(text, harness.meter)
    left_out = set()
    for question in text.questions:
        ask = Ask(question, "Be short.", 2, 400)
        shown = {}
        for name in ("wrong", "oracle-text", "bm25-text", "bm25-text-rank", "bm25-few-text", "closed"):
            system = make(name, resources)
            shown[name] = system.answer(system.prepare(text), ask)
        answer = question.answers[0]
        assert answer in joined(text.text, shown["oracle-text"].spans)
        assert answer not in joined(text.text, shown["wrong"].spans) and shown["wrong"].selected_tokens > 100
        assert shown["closed"].selected_tokens == 0
        ordered, by_rank = shown["bm25-text"].spans, shown["bm25-text-rank"].spans
        assert list(ordered) == sorted(ordered) and set(ordered) == set(by_rank)
        scores = Words().scores(Words().index(text, pieces), question)
        near = {
            (p.start, p.end) for p, score in zip(pieces, scores, strict=True) if score >= LEAST_SHARE * scores.max()
        }
        few = set(shown["bm25-few-text"].spans)
        assert few == near & set(ordered)
        left_out |= set(ordered) - few
        best = pieces[ranked(scores)[0]]
        assert by_rank[-1] == (best.start, best.end), "the best piece is next to the question"
        for reply in shown.values():
            assert reply.selected_tokens <= 400 + 2 * len(reply.spans)
            assert reply.context_tokens > reply.selected_tokens
    assert left_out, "some pieces score much less than the best one"


def test_the_registry_names_every_system(harness, plan):
    """Each entry leads to a system of its name; the error for another name lists the known ones."""

    encoders: dict[str, Any] = {name: SimpleNamespace(name=name) for name in ("minilm", "minilm-sentences", "both")}
    resources = Resources(
        harness,
        plan.texts(harness.meter),
        shared=lambda name: ClosedBook(harness, name),
        _rankings=encoders,
    )
    assert {"closed", "full", "sharedllm", "same-pieces-text"} < set(asked_names())
    for name in set(asked_names()) - {"replies"}:  # it needs a file: tests/evaluation/qa/test_outside.py
        assert make(name, resources).name == name
    assert make("same-pieces-text:bm25-text", resources).follows == "bm25-text"
    for name in ("streaming", "nosuch", "closed:x", "bm25-text:focus"):
        with pytest.raises(ValueError, match="is not known: use some of sharedllm, full, closed, "):
            make(name, resources)
    with pytest.raises(ValueError, match="needs a SharedLLM"):
        make("sharedllm:bm25", Resources(harness, []))


def test_a_memory_says_what_it_selected_and_text_follows_it(harness, plan, base):
    shared = tiny_shared("qwen2", base=base, window=512, encoding="chunk")
    meter = harness.meter
    text = plan.texts(meter)[0]
    resources = Resources(
        harness, [text], shared=lambda name: Memory(shared, harness.reader.tokenizer, meter, name.partition(":")[2])
    )
    ours = make("sharedllm:bm25", resources)
    same = make("same-pieces-text:sharedllm:bm25", resources)
    assert (ours.name, same.name, same.follows) == (
        "sharedllm:bm25",
        "same-pieces-text:sharedllm:bm25",
        "sharedllm:bm25",
    )
    reply = ours.answer(ours.prepare(text), Ask(text.questions[0], "Be short.", 4, 300))
    assert 0 < reply.selected_tokens <= 300
    assert sum(b - a for a, b in reply.spans) == reply.selected_tokens, "one token is one character here"
    ask = Ask(text.questions[0], "Be short.", 4, 300, reply.spans)
    followed = same.answer(same.prepare(text), ask)
    assert followed.spans == reply.spans
    asked = f"Be short.\nQuestion: {text.questions[0].question}\nAnswer:"
    prompt = f"<user>{joined(text.text, reply.spans)}\n\n{asked}</user><assistant>"
    assert followed.text == likeliest(base, harness.reader.tokenizer, prompt, 4).strip()


def test_spans_join_neighbours():
    ends = np.array([1, 3, 4, 9, 12])
    assert spans_of(np.array([0, 1, 3, 4]), ends) == ((0, 3), (4, 12))
    assert spans_of(np.array([], dtype=int), ends) == ()


def test_nothing_is_asked_twice_and_a_torn_line_is_asked_again(harness, plan, place, tmp_path):
    texts = plan.texts(harness.meter)
    assert [len(t.questions) for t in texts] == [4, 2]
    files = sorted(place.glob("*.jsonl"))
    assert [f.name for f in files] == [
        "bm25-text@400.jsonl", "closed.jsonl", "full.jsonl", "oracle-text@400.jsonl", "wrong@400.jsonl",
    ]  # fmt: skip
    before = {f: f.read_text() for f in files}
    assert all(len(content.splitlines()) == 6 for content in before.values())
    for row in rows_of(files[0]):
        assert row["tokens"] == next(t.tokens for t in texts if t.id == row["text"]) and 0 < row["written"] <= 20
    measure(plan, texts, Resources(harness, texts), tmp_path, {"base": "a"})
    assert {f: f.read_text() for f in files} == before
    torn = files[1]
    torn.write_text(before[torn][:-40])
    measure(plan, texts, Resources(harness, texts), tmp_path, {"base": "a"})
    replies = [(r["question"], r["reply"]) for r in rows_of(torn)]
    assert sorted(replies) == sorted((r["question"], r["reply"]) for r in map(json.loads, before[torn].splitlines()))
    torn.write_bytes(
        json.dumps({"reply": "a\u2028b"}, ensure_ascii=False).encode() + b"\n" + '{"reply": "é'.encode()[:-1]
    )
    assert rows_of(torn) == [{"reply": "a\u2028b"}], "a reply may hold any line end, and the last line half a character"
    torn.write_text(before[torn])
    with pytest.raises(ValueError, match="holds another measurement, which differs in models"):
        measure(plan, texts, Resources(harness, texts), tmp_path, {"base": "b"})
    first, *rest = texts
    other = [replace(first, text=f"{first.text}."), *rest]
    with pytest.raises(ValueError, match=f"which differs in texts {first.id}: name another"):
        measure(plan, other, Resources(harness, other), tmp_path, {"base": "a"})
    question, *others = first.questions
    other = [replace(first, questions=(replace(question, answers=("42",)), *others)), *rest]
    with pytest.raises(ValueError, match=f"which differs in texts {first.id}, {question.id}: name another"):
        measure(plan, other, Resources(harness, other), tmp_path, {"base": "a"})
    late = Plan(plan.questions, plan.spec, ("same-pieces-text",), (400,), 6)
    with pytest.raises(ValueError, match="takes the pieces of sharedllm, which was not asked"):
        measure(late, texts, Resources(harness, texts), tmp_path, {"base": "a"})


@pytest.mark.parametrize(("groups", "said"), [(FEWEST - 1, "+100.0"), (FEWEST, "+100.0 [+100.0, +100.0]")])
def test_a_difference_over_few_texts_has_no_interval(groups, said):
    ours, theirs = (
        Contender(name, None, {str(i): {"group": i % groups, "scores": {"f1": score}} for i in range(20)}, [])
        for name, score in (("ours", 1.0), ("theirs", 0.0))
    )
    found = difference(ours, theirs, "f1")
    assert found is not None and shown(found, signed=True) == said


def test_a_skipped_text_stands_in_the_report(harness, plan, tmp_path):
    plan = replace(plan, systems=("closed", "full"))
    texts = plan.texts(harness.meter)
    place = measure(plan, texts, Resources(harness, texts, limit_s=0), tmp_path, {"base": "a"})
    assert all("took 0 s" in row["skipped"] for row in rows_of(place / "full.jsonl"))
    report = write_report(tmp_path).read_text()
    assert "| full | – | 0 |" in report and "took 0 s" in report
    before = (place / "full.jsonl").read_text()
    measure(plan, texts, Resources(harness, texts, limit_s=0), tmp_path, {"base": "a"})
    assert (place / "full.jsonl").read_text() == before, "in as much time it can't be read again"
    measure(plan, texts, Resources(harness, texts, limit_s=1000), tmp_path, {"base": "a"})
    assert sum("scores" in row for row in rows_of(place / "full.jsonl")) == plan.most
    assert f"| full | – | {plan.most} |" in write_report(tmp_path).read_text()


def test_what_a_followed_system_skips_has_no_pieces(harness, plan, tmp_path):
    """A question whose evidence is not known is skipped by the oracle, and by what follows it; it is asked again when it is."""
    plan = replace(plan, systems=("oracle-text", "same-pieces-text:oracle-text"))
    texts = plan.texts(harness.meter)
    first, *rest = texts
    question, *others = first.questions
    unknown = [replace(first, questions=(replace(question, evidence=()), *others)), *rest]
    place = measure(plan, unknown, Resources(harness, unknown), tmp_path, {"base": "a"})
    rows = rows_of(place / "same-pieces-text=oracle-text@400.jsonl")
    assert [(r["question"], r["skipped"]) for r in rows if "skipped" in r] == [
        (question.id, "oracle-text has no pieces for it")
    ]
    assert sum("scores" in row for row in rows) == plan.most - 1
    run = json.loads((place / "run.json").read_text())
    del run["texts"][f"{first.id}, {question.id}"]
    (place / "run.json").write_text(json.dumps(run))
    measure(plan, texts, Resources(harness, texts), tmp_path, {"base": "a"})
    assert sum("scores" in row for row in rows_of(place / "same-pieces-text=oracle-text@400.jsonl")) == plan.most


def test_another_encoder_is_another_measurement(harness, plan, tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
        BertModel(config).save_pretrained(tmp_path / name)
        harness.reader.tokenizer.save_pretrained(tmp_path / name)
    shutil.copytree(tmp_path / "one", tmp_path / "same")
    plan = replace(plan, systems=("minilm-text",), most=1)
    texts, out = plan.texts(harness.meter), tmp_path / "out"
    for name in ("one", "same"):
        measure(plan, texts, Resources(harness, texts, str(tmp_path / name)), out, {"base": "a"})
    with pytest.raises(ValueError, match="which differs in systems minilm-text: name another folder"):
        measure(plan, texts, Resources(harness, texts, str(tmp_path / "two")), out, {"base": "a"})


def test_the_report_is_made_of_the_files_alone(place, tmp_path):
    rows = rows_of(place / "oracle-text@400.jsonl")
    for name, right in (("sharedllm", [1, 1, 1, 0, 0, 1]), ("same-pieces-text", [1, 1, 0, 0, 0, 1])):
        marked = [
            row | {"system": name, "scores": {"hit": m, "em": 0, "f1": m / 2}}
            for row, m in zip(rows, right, strict=True)
        ]
        (place / f"{name}@400.jsonl").write_text("".join(json.dumps(row) + "\n" for row in marked))
    (cell,) = load(tmp_path)
    assert {len(c.rows) for c in cell.contenders} == {6}
    text = write_report(tmp_path).read_text()
    assert "a tiny model" in text and "## nq, 1,500 tokens" in text
    ours, total, other = [line for line in text.splitlines() if line.startswith("| sharedllm |")]
    assert "| 66.7 [30.0, 90.3] |" in ours and "| +16.7 [+0.0, +50.0] |" in ours and "33.3 [" in ours
    rows = rows_of(place / "sharedllm@400.jsonl")
    expected = np.mean([r["prepare"] for r in rows]) + 1000 * np.mean([sum(r["seconds"].values()) for r in rows])
    assert total.endswith(f"| {expected:,.0f} |" if expected >= 10 else f"| {expected:.2g} |")
    contender = Contender(
        "ours", 400, {r["question"]: r | {"operations": 2e12, "read_operations": 5e12} for r in rows}, []
    )
    assert total_operations(contender, 10) == pytest.approx(25) and other.startswith("| sharedllm | 400 | ")
    drawn = draw(tmp_path)
    assert [path.name for path in drawn] == ["nq.png", "nq-1500-seconds.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    with pytest.raises(ValueError, match="holds no results"):
        write_report(tmp_path / "none")


def test_selection_finds_what_words_say(harness, plan):
    texts = plan.texts(harness.meter)
    resources = Resources(harness, texts)
    rows = measure_selection(
        texts, [resources.ranking("bm25"), resources.ranking("oracle")], [("bm25", "oracle")], harness.meter
    )
    assert len(rows) == 3 * 6
    oracle = [row["top"] for row in rows if row["ranking"] == "oracle"]
    assert all(top[1] == 1 for top in oracle)
    words = np.mean([row["top"][1] for row in rows if row["ranking"] == "bm25"])
    hybrid = np.mean([row["top"][4] for row in rows if row["ranking"] == "bm25+oracle"])
    assert words > 0.5 and hybrid == 1
    cost = {
        name: [row["index"] + row["seconds"] for row in rows if row["ranking"] == name]
        for name in ("bm25", "oracle", "bm25+oracle")
    }
    assert cost["bm25+oracle"] == pytest.approx([a + b for a, b in zip(cost["bm25"], cost["oracle"], strict=True)])


@dataclass(frozen=True)
class Fixed(Ranking):
    """A ranking whose scores are given."""

    given: tuple[float, ...]
    name: str = "fixed"

    def index(self, text, pieces) -> None: ...

    def scores(self, index, question) -> np.ndarray:
        return np.array(self.given)


def test_words_and_meaning_together_by_hand():
    """Words 2, 0, 4 are 0.5, 0, 1 of the way from the worst to the best; meaning 0.3, 0.5, 0.1 is 0.5, 1, 0 of it."""
    both = Both(Fixed((2.0, 0.0, 4.0)), Fixed((0.3, 0.5, 0.1)), weight=0.75)
    text, question = cast(Any, None), cast(Any, None)
    assert both.scores(both.index(text, []), question) == pytest.approx([0.5, 0.75, 0.25])
    nothing = Both(Fixed((0.0, 0.0, 0.0)), Fixed((0.3, 0.5, 0.1)), weight=0.5)
    assert nothing.scores(nothing.index(text, []), question) == pytest.approx([0.25, 0.5, 0.0])


def test_embeddings_rank_pieces_and_their_sentences(tmp_path):
    """As `tests/scoring/test_encoder.py` defines them."""
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes), add_pooling_layer=False).save_pretrained(tmp_path)
    parts = ("Zzz zzz zzz. An owl sat.", " Oaks wait\nlast, anew. ", "\n")
    text = PackedText("one", "".join(parts), (), (), (), 0)
    ends = np.cumsum([len(part) for part in parts]).tolist()
    pieces = [Piece(end - len(part), end, 1) for part, end in zip(parts, ends, strict=True)]
    question = Question("q", " An owl sat.", ("owl",), (), "")
    for name in ("minilm", "minilm-sentences"):
        ranking = ranking_of(name, str(tmp_path))
        scores = ranking.scores(ranking.index(text, pieces), question)
        # The question is a sentence of the first piece, but not all of it.
        assert (scores[0] == pytest.approx(1, abs=2e-3)) == (name == "minilm-sentences")
        assert len(scores) == 3 and ranking.operations > 0


def test_reciprocal_ranks_prefer_what_both_prefer():
    assert ranked(fused([[0, 1, 2, 3], [1, 2, 0, 3]]))[0] == 1
    assert ranked(np.array([1.0, 3.0, 3.0, 0.0])) == [1, 2, 0, 3]


def test_a_bootstrap_counts_values_and_draws_groups():
    values = {"a": [1.0, 1.0, 1.0, 1.0], "b": [0.0]}
    found = pooled_bootstrap(values)
    assert found.mean == pytest.approx(0.8) and (found.low, found.high) == (0, 1) and found.n == 5
    alone = pooled_bootstrap({"a": [1.0, 0.0] * 50})
    assert alone.mean == 0.5 and 0.38 < alone.low < 0.42 and 0.58 < alone.high < 0.62


def test_commands(run, folder, base_folder, tmp_path):
    options = ["--data", folder, "--set", "nq", "--length", "300", "--per-text", 2, "-o", tmp_path / "out"]
    code, _, err = run("qa", base_folder, *options, "-n", 2, "--budgets", "20", "--system", "closed")
    assert code == 0, err
    assert "| closed | – | " in (tmp_path / "out" / "report.md").read_text()
    code, _, err = run("selection", base_folder, *options, "-n", 4, "--rankings", "bm25")
    assert code == 0, err
    (table,) = (tmp_path / "out").glob("nq-300.md")
    assert "| bm25 | 4 |" in table.read_text()
    for command, extra, message in (
        ("qa", ["--system", "best"], "--system best is not known"),
        ("qa", ["--system", "sharedllm"], "needs a SharedLLM"),
        ("qa", ["--system", "minilm-text"], "give --embeddings NAME"),
        ("qa", ["--half", "third"], "--half 'third' is not known"),
        ("qa", ["--set", "best"], "--set best is not known"),
        ("selection", ["--rankings", "memory:focus"], "needs a SharedLLM"),
        ("selection", ["--rankings", ","], "--rankings ',' names no ranking"),
        ("selection", ["--set", "qmsum", "--length", "0"], "does not say where its answers are"),
    ):
        code, _, err = run(command, base_folder, *options, "-n", 2, *extra)
        assert code == 2 and message in " ".join(err.split()), err


def test_a_memory_as_a_ranking(run, folder, model_folder, tmp_path):
    options = ["--data", folder, "--length", "700", "-n", 3, "-o", tmp_path]
    code, _, err = run("selection", model_folder, *options, "--rankings", "memory:bm25,memory:bm25~mean+bm25")
    assert code == 0, err
    rows = json.loads((tmp_path / "nq-700.json").read_text())["rows"]
    assert {row["ranking"] for row in rows} == {"memory:bm25", "memory:bm25~mean", "bm25", "memory:bm25~mean+bm25"}
    found = [row["top"]["4"] for row in rows if row["ranking"] == "memory:bm25"]
    assert len(list(islice(found, 3))) == 3 and np.mean(found) > 0.5


def test_our_words_rank_without_a_memory(run, folder, base_folder, tmp_path):
    options = ["--data", folder, "--length", "700", "-n", 3, "-o", tmp_path]
    code, _, err = run("selection", base_folder, *options, "--rankings", "words,oracle")
    assert code == 0, err
    rows = json.loads((tmp_path / "nq-700.json").read_text())["rows"]
    found = {name: [row["top"]["4"] for row in rows if row["ranking"] == name] for name in ("words", "oracle")}
    assert len(found["words"]) == 3 and np.mean(found["words"]) > 0.5 and set(found["oracle"]) == {1.0}
