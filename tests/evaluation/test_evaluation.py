"""The harness: checks of its counts, statistics by hand, resumed runs, reports from results alone."""

import json
import math
import random
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharedllm import SharedLLMForCausalLM, bundled_model
from sharedllm.data.questions.moving import Moves
from sharedllm.evaluation.cells import index
from sharedllm.evaluation.corpus import Documents, open_documents
from sharedllm.evaluation.results import Run, load_runs
from sharedllm.evaluation.run import Plan, evaluate, load_cells
from sharedllm.evaluation.statistics import (
    holm,
    over_documents,
    paired_difference,
    share_over_groups,
    sign_test,
    wilson,
)
from sharedllm.evaluation.tasks import TASKS
from sharedllm.evaluation.tasks.base import Setting, score_texts
from sharedllm.evaluation.tasks.mentions import GROUPS, distances
from sharedllm.systems.evaluated import Scores

SENTENCES = "The old captain slept. A falcon sang in the harbour! Who heard it, and why? Nobody came. "


@pytest.fixture(scope="module")
def tokenizer(base_folder):
    return AutoTokenizer.from_pretrained(base_folder)


@pytest.fixture(scope="module")
def documents(tokenizer):
    rng, sentences = (
        random.Random(0),
        SENTENCES.replace("! ", "!|").replace("? ", "?|").replace(". ", ".|").split("|")[:-1],
    )
    texts = [f"{name}. {' '.join(rng.choices(sentences, k=300))}" for name in ("One", "Two", "Three")]
    ids = [np.asarray(tokenizer.encode(text)) for text in texts]
    return Documents("tales", ["One", "Two", "Three"], [len(i) for i in ids], "0", ids)


def setting_of(tokenizer, **changes) -> Setting:
    return Setting(**{"tokenizer": tokenizer, "window": 128, "longest": 1024, "cases": 3} | changes)


class Unigram:
    """Unigram probabilities, whatever comes before."""

    name, running, model = "unigram", 128, SimpleNamespace(device="cpu")

    def __init__(self, counts: Counter):
        total = sum(counts.values())
        self.log_probs = torch.full((256,), -math.inf).double()
        for token, count in counts.items():
            self.log_probs[token] = math.log(count / total)
        self.seen = []

    def prepare(self, far, query):
        self.seen.append(far.shape[1])

    def score(self, state, running, targets):
        wanted = running[:, -targets:]
        return Scores(self.log_probs[wanted], wanted == int(self.log_probs.argmax()))


def test_a_unigram_model_has_its_known_loss(tokenizer, documents):
    """The mean of −log p of exactly the target tokens, the same ones at every length."""
    counts = Counter(int(t) for ids in documents.source for t in ids)
    method, task, setting = Unigram(counts), TASKS.find("loss"), setting_of(tokenizer)
    losses = {}
    for length in (0, 128, 1024):
        found = list(score_texts(method, task.texts(documents, length, setting), 4096))
        assert len(found) == 9 and all(scores.log_probs.shape == (1, 32) for _, scores in found)
        losses[length] = [task.values(text, scores)["loss"] for text, scores in found]
        for (text, _), loss in zip(found, losses[length], strict=True):
            ids = documents.source[documents.names.index(text.label["document"])]
            targets = ids[text.label["end"] - 32 : text.label["end"]]
            assert loss == pytest.approx(-float(method.log_probs[targets].mean()))
            assert np.array_equal(text.ids[-32:], targets) and len(text.ids) == max(length, 1) + 32
            bits = task.values(text, Scores(method.log_probs[targets][None], None))["bits_per_byte"]
            assert bits == pytest.approx(loss / math.log(2)), "one byte per token here"
    assert losses[0] == losses[128] == losses[1024]
    assert set(method.seen) == {0, 32, 1024 + 32 - 128}


def test_controls_change_only_what_is_beyond_the_window(tokenizer, documents):
    setting = setting_of(tokenizer)
    own, other, shuffled = (
        list(TASKS.find(name).texts(documents, 1024, setting)) for name in ("loss", "loss-other", "loss-shuffled")
    )
    for a, b, c in zip(own, other, shuffled, strict=True):
        assert a.label == b.label == c.label
        far = len(a.ids) - 128
        assert np.array_equal(a.ids[far:], b.ids[far:]) and np.array_equal(a.ids[far:], c.ids[far:])
        assert not np.array_equal(a.ids[:far], b.ids[:far]) and len(a.ids) == len(b.ids)
        assert sorted(a.ids[:far]) == sorted(c.ids[:far]) and not np.array_equal(a.ids[:far], c.ids[:far])
    short = [list(TASKS.find(name).texts(documents, 64, setting)) for name in ("loss", "loss-other")]
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(*short, strict=True))


def test_a_document_alone_is_no_other_text(tokenizer, documents):
    """Its own text would stand before the window, and the control say that the text does not help."""
    alone = replace(documents, names=documents.names[:1], lengths=documents.lengths[:1], source=documents.source[:1])
    task = TASKS.find("loss-other")
    with pytest.raises(ValueError, match="is the only document that is long enough; give another one"):
        next(task.texts(alone, 1024, setting_of(tokenizer)))
    assert next(task.texts(alone, 64, setting_of(tokenizer)))


@pytest.mark.parametrize("name", [name for name in TASKS if TASKS[name].accuracy and name not in ("copy", "keys-64")])
def test_questions_hold_their_answers(tokenizer, documents, name):
    """Facts are in the text, the targets are the answer, and every text has the requested length."""
    for length in (1024, 2048):
        texts = list(
            TASKS.find(name).texts(documents, length, setting_of(tokenizer, window=512, longest=2048, cases=10))
        )
        assert len(texts) == 10 and {len(text.ids) for text in texts} == {length + 128}
        for text in texts:
            answer = tokenizer.decode(text.ids[-text.targets :])
            before = tokenizer.decode(text.ids[: -text.targets])
            assert all(part in before for part in answer.split(", ")), (answer, before)
            assert before.rpartition("Question:")[2].count("?") == 1
        if "depth" in texts[0].label:
            assert sorted(t.label["depth"] for t in texts) == pytest.approx([i / 10 + 0.05 for i in range(10)])
            many = list(TASKS.find(name).texts(documents, 1024, setting_of(tokenizer, window=512, cases=60)))
            by_document = {
                part: {t.label["depth"] for t in many if t.label["document"] == part} for part in documents.names
            }
            assert all(len(depths) > 5 for depths in by_document.values()), "no document has always the same depths"
            few = [
                t.label["depth"]
                for t in TASKS.find(name).texts(documents, 1024, setting_of(tokenizer, window=512, cases=3))
            ]
            assert sorted(few) == pytest.approx([0.15, 0.55, 0.85])


def test_a_space_counts_with_a_word_and_not_before_a_digit(documents):
    """The base's tokenizer has " 4" as two tokens, and a word's first token holds its space."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_model("base"))
    store = Documents("tales", ["One"], [4000], "0", [np.asarray(tokenizer.encode(SENTENCES * 200)[:4000])])
    setting = setting_of(tokenizer, cases=12)
    starts = {}
    for text in TASKS.find("needle").texts(store, 256, setting):
        prompt, answer = text.ids[: -text.targets], tokenizer.decode(text.ids[-text.targets :])
        starts[answer.strip().isdigit()] = answer[0] == " "
        assert tokenizer.decode(prompt).endswith(" ") == answer.strip().isdigit()
    assert starts == {True: False, False: True}


def test_copies_are_copies(tokenizer, documents):
    with pytest.raises(ValueError, match="copy: a span of 32 tokens does not fit into a length of 31"):
        next(iter(TASKS.find("copy").texts(documents, 31, setting_of(tokenizer))))
    for text in TASKS.find("copy").texts(documents, 512, setting_of(tokenizer)):
        assert np.array_equal(text.ids[:32], text.ids[-32:]) and text.targets == 24 and len(text.ids) == 512 + 32


def test_wilson_by_hand():
    """Wilson for 8 of 10: centre (0.8 + 1.92073/10) / 1.384146, half 1.959964/1.384146 · √(0.016 + 3.841459/400)."""
    estimate = wilson([1.0] * 8 + [0.0] * 2)
    centre, half = (0.8 + 0.192073) / 1.3841459, 1.959964 / 1.3841459 * math.sqrt(0.016 + 3.841459 / 400)
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.8, centre - half, centre + half), abs=1e-5)
    assert wilson([1.0] * 5).high == 1.0 and wilson([0.0] * 5).low == pytest.approx(0.0)


def test_shares_of_questions_that_depend_on_their_text_have_wider_intervals():
    """Two texts with 5 of 5 and 0 of 5 right: the variance over texts is 2·(2.5² + 2.5²)/100 = 0.25, that of independent questions
    0.025, so the ten are worth one, and with t of one degree of freedom, 12.706, 0.0238."""
    split = share_over_groups({"a": [1.0] * 5, "b": [0.0] * 5})
    worth = (1.959964 / 12.7062047) ** 2
    by_hand = wilson([1.0] * 5 + [0.0] * 5, worth)
    assert (split.mean, split.low, split.high) == pytest.approx((0.5, by_hand.low, by_hand.high), abs=1e-5)
    assert split.high - split.low > 0.97
    alone = share_over_groups({str(i): [float(i < 8)] for i in range(10)})
    assert alone == wilson([1.0] * 8 + [0.0] * 2)
    same = share_over_groups({str(text): [1.0] * 20 for text in range(5)})
    assert same.n == 100 and wilson([1.0] * 100).low > same.low > 0.9 and same.percent == "100% [93%, 100%]"
    assert share_over_groups({"one": [1.0, 0.0]}).percent == "50%"


def test_students_interval_over_documents_by_hand():
    """Three documents with means 1, 2 and 6: mean 3, standard error √7/√3, t of two degrees of freedom 4.30265."""
    same = over_documents({"a": [1.0, 3.0], "b": [2.0]})
    assert (same.mean, same.low, same.high, same.n, same.p) == (2.0, 2.0, 2.0, 3, 0.0), "means of documents are equal"
    found = over_documents({"a": [0.0, 2.0], "b": [2.0], "c": [6.0]})
    half = 4.30265 * math.sqrt(7 / 3)
    assert (found.mean, found.low, found.high) == pytest.approx((3, 3 - half, 3 + half), abs=1e-4)
    # t = 1.96396, and for two degrees of freedom p = 1 − t/√(t² + 2).
    assert found.p == pytest.approx(1 - 1.96396 / math.sqrt(1.96396**2 + 2), abs=1e-5)
    alone = over_documents({"a": [0.0, 2.0]})
    assert alone.mean == 1 and math.isnan(alone.low) and math.isnan(alone.p), "one document says nothing of others"


def test_trainings_that_differ_widen_the_interval():
    """Variances of the two means 7/3 and 3 · 0.04 / 3 = 0.04 are added; degrees of freedom by Welch and Satterthwaite."""
    documents = {"a": [1.0], "b": [2.0], "c": [6.0]}
    found = over_documents(documents, [2.8, 3.0, 3.2])
    variance = 7 / 3 + 0.04 / 3
    freedom = variance**2 / ((7 / 3) ** 2 / 2 + (0.04 / 3) ** 2 / 2)
    assert freedom == pytest.approx(2.0228564)
    half = 4.2563986 * math.sqrt(variance)  # Student's t
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half))
    assert over_documents(documents, [3.0]) == over_documents(documents), (
        "one training doesn't say how trainings differ"
    )


def test_holm_by_hand():
    """Thresholds 0.0125, 0.0167, 0.025, 0.05: the third is not below its own, so the fourth is not asked."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.03, 0.04, 0.03, 0.005]) == [False, False, False, True]
    assert holm([math.nan, 0.04]) == [False, True] and holm([]) == []


def test_signs_by_hand():
    """Of 3 and 0 by chance: both tails of 2 to the power of 3. Equal counts are never too far apart."""
    assert sign_test(3, 0) == sign_test(0, 3) == 0.25
    assert sign_test(4, 1) == 2 * (1 + 5) / 32 and sign_test(2, 2) == sign_test(0, 0) == 1.0


def test_pairs_must_be_pairs():
    ours = [{"document": "a", "end": 1, "values": {"loss": 1.0}}, {"document": "b", "end": 2, "values": {"loss": 2.0}}]
    theirs = [r | {"values": {"loss": r["values"]["loss"] + 0.5}} for r in ours]
    found = paired_difference(ours, theirs, "loss")
    assert (found.mean, found.low, found.high) == (-0.5, -0.5, -0.5)
    with pytest.raises(ValueError, match="different texts"):
        paired_difference(ours, [theirs[0], theirs[1] | {"end": 3}], "loss")


def test_cells_are_written_once(tokenizer, documents, tmp_path):
    method, setting = Unigram(Counter(range(256))), setting_of(tokenizer)
    plan = Plan([TASKS.find("loss"), TASKS.find("keys-64")], [documents], [method], [0, 1024], setting)
    lines = []
    evaluate(plan, tmp_path, {"models": {"m": {"sha256": "1"}}}, lines.append)
    assert sum(line.startswith("left out: keys-64: 64 facts") for line in lines) == 2
    cells = load_cells(tmp_path)
    assert [(c["task"], c["length"]) for c in cells] == [("loss", 0), ("loss", 1024)]
    assert all(c["environment"]["torch"] == torch.__version__ for c in cells)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("cells/**/*.json")}
    evaluate(plan, tmp_path, {"models": {"m": {"sha256": "1"}}})
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("cells/**/*.json")} == times
    with pytest.raises(ValueError, match="another evaluation, which differs in models m"):
        evaluate(plan, tmp_path, {"models": {"m": {"sha256": "2"}}})
    with pytest.raises(ValueError, match="another evaluation, which differs in cases"):
        evaluate(
            Plan(*list(vars(plan).values())[:4], setting_of(tokenizer, cases=4)),
            tmp_path,
            {"models": {"m": {"sha256": "1"}}},
        )
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["about"]["data"]["tales"]["documents"] == 3 and run["left_out"] == {"tales": []}


def test_evaluate_and_report(run, tmp_path, model_folder, base_folder):
    """The window's curve is flat beyond the window; tables and figures are made from the files alone."""
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text(f"Tale {number}. {SENTENCES * 10}")
    (tmp_path / "short.txt").write_text("Too short.")
    arguments = ["--model", model_folder, "--base", base_folder, "--data", f"tales={tmp_path}/*.txt", "--cases", 2]
    arguments += ["--lengths", "0,1W,4W", "--system", "sharedllm,empty,window,streaming,full,bm25,bm25-same"]
    arguments += ["-o", tmp_path / "out"]
    code, _, err = run("eval", "loss", "loss-other", "copy", *arguments)
    assert code == 0, err
    assert "tales: 3 documents; 1 are too short" in err and "short.txt" in err
    code, out, err = run("report", tmp_path / "out")
    assert code == 0, err
    assert (
        "### loss, tales" in out
        and "| context | × window | sharedllm | empty | window | streaming | bm25 | bm25-same | full |" in out
    )
    assert "sharedllm minus each" in out
    control = out.partition("### sharedllm, tales: its own text compared with other text as context")[2]
    assert "| context | × window | own | own − other |" in control and "| 256 | 4 |" in control
    assert "| 0 | 0 |" not in control, "nothing is beyond the window there"
    for name in ("loss-tales.png", "copy-tales.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    means = {
        (c["system"], c["length"]): [r["values"]["loss"] for r in c["records"]] for c in load_cells(tmp_path / "out")
    }
    assert means["window", 64] == means["window", 256] == means["empty", 256], "an untrained extension is its base"
    assert means["bm25", 256] == means["bm25-same", 256] != means["empty", 256]
    assert means["streaming", 0] == pytest.approx(means["window", 0], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["best"], "task 'best' is not known: use one of loss"),
        (["loss", "--system", "best"], "--system best is not known"),
        (["loss", "--lengths", "1X"], "--lengths: '1X'"),
        (["loss", "--lengths", "4096W"], "no document has"),
        (["loss", "--data", "none.txt"], "none.txt"),
        (
            ["loss", "--data", "TALE", "--data", "TALE"],
            "--data names two domains 'tale': name each, as --data one=PATH",
        ),
    ],
    ids=["task", "system", "lengths", "too long", "no data", "one domain twice"],
)
def test_bad_requests(run, tmp_path, model_folder, base_folder, arguments, message):
    (tmp_path / "tale.txt").write_text(SENTENCES)
    usual = ["--model", model_folder, "--base", base_folder, "-o", tmp_path / "out"]
    arguments = [tmp_path / "tale.txt" if part == "TALE" else part for part in arguments]
    data = [] if "--data" in arguments else ["--data", tmp_path / "tale.txt"]
    code, _, err = run("eval", *arguments, *data, *usual)
    assert code == 2 and message in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "out").exists()


def test_several_trainings_are_one_table(run, tmp_path, base_folder):
    """Means of two trainings, and their standard deviation; the same training twice is refused."""
    (tmp_path / "tale.txt").write_text(SENTENCES * 10)
    for seed in (0, 1):
        folder = tmp_path / f"model-{seed}"
        base = AutoModelForCausalLM.from_pretrained(base_folder)
        torch.manual_seed(seed)
        with torch.no_grad():
            base.lm_head.weight += 0.1 * torch.randn_like(base.lm_head.weight)
        model = SharedLLMForCausalLM.from_base(base, chunk_size=16, strides=[4, 2, 1], lower_layers=2)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base_folder).save_pretrained(folder)
        arguments = ["--model", folder, "--data", f"tales={tmp_path}/tale.txt", "--cases", 2, "--lengths", "0,1W"]
        assert run("eval", "loss", *arguments, "--system", "sharedllm,empty", "-o", tmp_path / f"out-{seed}")[0] == 0
    code, out, err = run("report", tmp_path / "out-0", tmp_path / "out-1")
    assert code == 0, err
    cells = [load_cells(tmp_path / f"out-{seed}") for seed in (0, 1)]
    means = [
        np.mean(
            [
                r["values"]["loss"]
                for r in next(c for c in part if c["system"] == "empty" and c["length"] == 0)["records"]
            ]
        )
        for part in cells
    ]
    assert "means of 2 trainings" in out
    assert f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}" in out
    # The same model in another folder, and with another name of its file, is no other training.
    shutil.copytree(tmp_path / "model-0", tmp_path / "moved")
    arguments[1] = tmp_path / "moved"
    assert run("eval", "loss", *arguments, "--system", "sharedllm,empty", "-o", tmp_path / "again")[0] == 0
    code, _, err = run("report", tmp_path / "out-0", tmp_path / "again")
    assert code == 2 and "again occurs twice: all of it is in another run, of the same models and seed" in err
    # With other settings the same weights are another model: the folder of the first is refused.
    config = json.loads((tmp_path / "moved" / "config.json").read_text())
    (tmp_path / "moved" / "config.json").write_text(json.dumps(config | {"score_scaling": "log"}))
    code, _, err = run("eval", "loss", *arguments, "--system", "sharedllm,empty", "-o", tmp_path / "out-0")
    assert code == 2 and "holds another evaluation, which differs in models model" in err


def _run(name, system, value, *, seed=0, digest="d", window=64, model="a", **models):
    """A run of one system over two texts."""
    about = {"window": window, "longest": 128, "seed": seed, "data": {"tale": {"digest": digest}}}
    named = {
        role: {"name": f"{name}/{role}", "sha256": weights} for role, weights in ({"model": model} | models).items()
    }
    records = [{"document": str(i), "case": i, "values": {"accuracy": value}} for i in range(2)]
    cell = {"task": "needle", "domain": "tale", "system": system, "length": 64, "accuracy": True, "records": records}
    return Run(name, about | {"models": named}, {}, [cell])


def test_only_what_was_measured_alike_is_merged():
    """The base beside each of two trainings counts once; other seeds, data, windows or results of the same are no trainings."""
    a, b = _run("a", "sharedllm", 1.0, base="x"), _run("b", "sharedllm", 0.0, model="b", base="x")
    window = [_run(name, "window", 0.5, model=name, base="x") for name in ("a", "b")]
    for run, beside in zip((a, b), window, strict=True):
        run.cells.extend(beside.cells)
    row = index([a, b])["needle", "tale"][64]
    assert row["sharedllm"]["trainings"] == [1.0, 0.0] and "trainings" not in row["window"]
    for other, differs in (("seed", 1), ("digest", "e"), ("window", 32)):
        with pytest.raises(
            ValueError, match="use the same seeds" if other == "seed" else "measured on different texts"
        ):
            index([a, _run("c", "sharedllm", 0.0, model="c", **{other: differs})])
    with pytest.raises(ValueError, match="d: needle, tale, 64 tokens, window was measured before, with another result"):
        index([a, _run("d", "window", 1.0, base="x")])
    with pytest.raises(ValueError, match="b occurs twice"):
        index([a, b, b])
    short = _run("s", "empty", 1.0)
    del short.cells[0]["records"][1:]
    with pytest.raises(ValueError, match="the number or places of texts"):
        index([a, short])


def test_seeds_of_one_model_are_pooled(run, tmp_path, model_folder, base_folder):
    """Two seeds of two texts are four texts, and systems stay paired."""
    (tmp_path / "tale.txt").write_text(SENTENCES * 30)
    for seed in (1, 0):
        arguments = ["--model", model_folder, "--base", base_folder, "--data", f"tale={tmp_path}/tale.txt"]
        arguments += ["--seed", seed, "--lengths", "1W", "--cases", 2, "-o", tmp_path / f"out-{seed}"]
        # The option's old name.
        assert run("eval", "loss", *arguments, "--method", "sharedllm,window")[0] == 0
    code, out, err = run("report", tmp_path / "out-1", tmp_path / "out-0", "-o", tmp_path)
    assert code == 0, err
    assert "4 texts per cell of 2 seeds, loss." in out and "sharedllm minus each" in out
    assert (tmp_path / "loss-tale.png").read_bytes().startswith(b"\x89PNG")
    pooled = index(load_runs(tmp_path / "cells.json"))["loss", "tale"][64]["sharedllm"]
    by_seed = [
        np.mean([record["values"]["loss"] for cell in load_cells(tmp_path / f"out-{seed}") for record in cell["records"]
                 if cell["system"] == "sharedllm"])
        for seed in (0, 1)
    ]  # fmt: skip
    assert pooled["seeds"] == pytest.approx(by_seed) and by_seed[0] != by_seed[1]
    code, _, err = run("report", tmp_path / "out-1", tmp_path / "out-1")
    assert code == 2 and "occurs twice" in err
    (tmp_path / "kept").mkdir()
    shutil.copy(tmp_path / "cells.json", tmp_path / "kept")
    code, anew, err = run("report", tmp_path / "kept", "--no-plots")
    assert code == 0 and anew == out, "one file is enough to make the report again"
    assert (tmp_path / "kept" / "cells.json").read_bytes() == (tmp_path / "cells.json").read_bytes()
    (tmp_path / "kept" / "cells.json").write_text('{"runs": [{}]}')
    code, _, err = run("report", tmp_path / "kept")
    assert code == 2 and "is not a cells.json" in err


def test_distance_to_the_last_mention():
    """A mention is the same token after the same token."""
    ids = np.array([5, 6, 7, 5, 6, 1, 7, 2, 5, 6])
    # targets: 7 after 1 (new), 2 after 7 (new), 5 after 2 (new), 6 after 5 (5 back: places 9 and 4)
    assert distances(ids, 4).tolist() == [12, 12, 12, 5]


def test_losses_by_mention(tokenizer, documents):
    """Groups have the same targets at every length, and their losses are their targets' losses."""
    setting = setting_of(tokenizer)
    task = TASKS.find("loss-by-mention")
    near, far = (list(task.texts(documents, length, setting)) for length in (0, 1024))
    for a, b in zip(near, far, strict=True):
        assert np.array_equal(a.groups, b.groups) and len(a.groups) == 32
        back = distances(b.ids, 32)
        assert all((back[a.groups == 0] <= 96) & (back[a.groups == 0] > 0)) and all(back[a.groups == 3] > len(b.ids))
    scores = Scores(-torch.arange(32.0)[None], torch.ones(1, 32).bool())
    values = task.values(far[0], scores)
    assert values["loss"] == 15.5
    for number, name in enumerate(GROUPS):
        chosen = np.flatnonzero(far[0].groups == number)
        assert (name in values) == bool(len(chosen))
        if len(chosen):
            assert values[name] == pytest.approx(chosen.mean())


def test_the_last_move_counts():
    for seed in range(20):
        quiz = Moves(people=3, moves=3).make(random.Random(seed), "", "test")
        who = quiz.question.split()[2]
        places = [fact.rstrip(".").split()[-1] for fact in quiz.facts if fact.split()[0] == who]
        assert len(places) == 3 and quiz.answer == places[-1]


def test_report_without_results(run, tmp_path):
    code, _, err = run("report", tmp_path)
    assert code == 2 and "holds no results" in err


def test_a_store_of_another_tokenizer_is_refused(run, tmp_path, base_folder):
    (tmp_path / "tale.txt").write_text(SENTENCES)
    assert run("tokenize", tmp_path / "tale.txt", "--tokenizer", base_folder, "-o", tmp_path / "tokens")[0] == 0
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    assert open_documents(f"x={tmp_path / 'tokens'}", tokenizer).domain == "x"

    code, _, err = run("eval", "loss", "--data", tmp_path / "tokens", "-o", tmp_path / "out")
    assert code == 2 and "another tokenizer" in err


def test_a_path_may_hold_an_equals_sign_and_another_manifest(tokenizer, tmp_path):
    folder = tmp_path / "part=1"
    folder.mkdir()
    (folder / "tale.txt").write_text(SENTENCES)
    (folder / "manifest.json").write_text('{"name": "an app"}')
    for specification, domain in ((str(folder), "part=1"), (f"x={folder}", "x"), (f"{folder}/*.txt", "*")):
        found = open_documents(specification, tokenizer)
        assert (found.domain, [name.rpartition("/")[2] for name in found.names]) == (domain, ["tale.txt"])
    (folder / "train").mkdir()
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        open_documents(str(folder), tokenizer)
