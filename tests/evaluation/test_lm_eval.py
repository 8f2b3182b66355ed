"""SharedLLM in the lm-evaluation-harness: every token scored once, over everything before it."""

import json
import os
import subprocess
import sys
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from helpers import byte_tokenizer, tiny_base, tiny_shared
from hypothesis import given
from hypothesis import strategies as st
from needs import needs

from sharedllm.evaluation.pieces import border, spans

# The harness, and what of ours needs it, take seconds to import: only in a process that runs these tests.
pytestmark = needs("lm_eval")
TASK = Path(__file__).parents[1] / "fixtures" / "lm_eval" / "tales.yaml"
WINDOW = 32


@pytest.fixture(scope="module")
def ours():
    """The module that is tested."""
    from sharedllm.evaluation import lm_eval

    return lm_eval


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.eos_token, tokenizer.pad_token = "!", "!"
    return tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_shared("llama", base=tiny_base("llama", vocab_size=256), encoding="chunk")


@pytest.fixture
def harness(ours, model, tokenizer):
    return ours.SharedLLMHarness(model, tokenizer=tokenizer, batch_size=3)


def text(length: int, seed: int = 0) -> str:
    generator = torch.Generator().manual_seed(seed)
    return "".join(chr(97 + int(i)) for i in torch.randint(0, 26, (length,), generator=generator))


def requests(kind: str, arguments: list[tuple]) -> list:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


@torch.no_grad()
def by_hand(model, ids: list[int], first: int, start: int) -> torch.Tensor:
    """Log-probabilities of ids[first:], with running text from `start` over a memory of the text before it."""
    memory = model.read(torch.tensor([ids[:start]])) if start else None
    logits = model(torch.tensor([ids[start:-1]]), memory=memory).logits[0].log_softmax(-1)
    return logits[first - start - 1 :].gather(1, torch.tensor(ids[first:])[:, None])[:, 0]


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([8, 16, 64]))
def test_every_target_is_scored_once(first, count, chunk):
    found = spans(first, first + count, WINDOW, chunk)
    assert [place for _, a, b in found for place in range(a, b)] == list(range(first, first + count))
    for start, a, b in found:
        assert 0 <= start < a and b - 1 - start <= WINDOW
        if start:
            # After a border, with text before the first target wherever there is a memory.
            assert a - start >= 1
    starts = [start for start, _, _ in found]
    assert starts == sorted(starts)


@pytest.mark.parametrize("length", [3, 20, 31, 45, 130])
def test_loglikelihood_is_that_of_the_whole_text(model, tokenizer, harness, length):
    context, answers = text(length), [" yes", " n", " no"]
    got = harness.loglikelihood(requests("loglikelihood", [(context, answer) for answer in answers]), disable_tqdm=True)
    for (total, greedy), answer in zip(got, answers, strict=True):
        ids = tokenizer.encode(context + answer)
        start = border(len(ids) - 1, WINDOW, 16)
        expected = by_hand(model, ids, len(context), start)
        assert total == pytest.approx(float(expected.sum()), rel=1e-4)
        assert greedy in (True, False)


def test_a_long_continuation_is_scored_in_blocks(model, tokenizer, harness):
    context, answer = text(40), text(90, seed=1)
    ((total, _),) = harness.loglikelihood(requests("loglikelihood", [(context, answer)]), disable_tqdm=True)
    ids, expected = tokenizer.encode(context + answer), 0.0
    places = spans(40, len(ids), WINDOW, 16)
    assert len(places) > 3
    for start, first, end in places:
        expected += float(by_hand(model, ids[:end], first, start).sum())
    assert total == pytest.approx(expected, rel=1e-4)


def test_rolling_counts_every_token(model, tokenizer, harness):
    texts = [text(5), text(77, seed=1), text(150, seed=2), ""]
    got = harness.loglikelihood_rolling(requests("loglikelihood_rolling", [(t,) for t in texts]), disable_tqdm=True)
    for written, total in zip(texts, got, strict=True):
        ids = [harness.prefix_token_id, *tokenizer.encode(written)]
        places = spans(1, len(ids), WINDOW, 16) if written else []
        expected = sum(float(by_hand(model, ids[:end], first, start).sum()) for start, first, end in places)
        assert total == pytest.approx(expected, rel=1e-4)
    assert got[3] == 0.0


def test_nothing_is_cut_off(harness):
    """The first character of a text of five windows still matters."""
    asked = [(start + text(160), " yes") for start in "ab"]
    (one, _), (two, _) = harness.loglikelihood(requests("loglikelihood", asked), disable_tqdm=True)
    assert abs(one - two) > 1e-6


@pytest.mark.parametrize("length", [10, 100])
def test_generation_is_that_of_the_model(model, tokenizer, harness, length):
    prompts = [text(length), text(length + 7, seed=1)]
    options = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False}
    got = harness.generate_until(requests("generate_until", [(p, options) for p in prompts]), disable_tqdm=True)
    for prompt, answer in zip(prompts, got, strict=True):
        ids = tokenizer.encode(prompt)
        start = border(len(ids), WINDOW - 8, 16)
        memory = model.read(torch.tensor([ids[:start]])) if start else None
        made = model.generate(
            torch.tensor([ids[start:]]),
            memory=memory,
            max_new_tokens=8,
            do_sample=False,
            eos_token_id=harness.eot_token_id,
        )
        expected = tokenizer.decode(made[0, len(ids) - start :]).split("!")[0]
        assert answer.split("!")[0] == expected
    stop = got[0][2]
    (stopped,) = harness.generate_until(
        requests("generate_until", [(prompts[0], options | {"until": [stop]})]), disable_tqdm=True
    )
    assert stopped == got[0].split(stop)[0]


def test_a_budget_selects_for_the_question(ours, tokenizer):
    model = tiny_shared("llama", base=tiny_base("llama", vocab_size=256), encoding="chunk", injection="joint")
    harness = ours.SharedLLMHarness(model, tokenizer=tokenizer, budget=8, score="bm25")
    context = text(100)
    ((total, _),) = harness.loglikelihood(requests("loglikelihood", [(context, " yes")]), disable_tqdm=True)
    ids = torch.tensor([tokenizer.encode(context + " yes")])
    start = border(ids.shape[1] - 1, WINDOW, 16)
    with torch.no_grad():
        memory = model.select(model.read(ids[:, :start], keep_all=True), ids[:, 68:100], budget=8, score="bm25")
        logits = model(ids[:, start:-1], memory=memory).logits[0, -4:].log_softmax(-1)
    assert int(memory.mask.sum()) <= 8
    assert total == pytest.approx(float(logits.gather(1, ids[0, -4:, None]).sum()), rel=1e-4)


@pytest.fixture
def task(tmp_path):
    """A local task over six tales of some 300 bytes."""
    data = tmp_path / "tales.jsonl"
    data.write_text("".join(json.dumps({"tale": text(300, seed), "answer": seed % 2}) + "\n" for seed in range(6)))
    (tmp_path / "tales.yaml").write_text(TASK.read_text().replace("DATA", str(data)))
    return tmp_path


@pytest.fixture
def offline(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_simple_evaluate_with_an_instance(harness, task, offline):
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(task), include_defaults=False)
    results = lm_eval.simple_evaluate(harness, tasks=["tales"], task_manager=manager, bootstrap_iters=0)
    answers = [
        harness.loglikelihood(
            requests(
                "loglikelihood", [(f"{text(300, s)} Question: who sang? Answer:", a) for a in (" falcon", " captain")]
            ),
            disable_tqdm=True,
        )
        for s in range(6)
    ]
    right = [int(two[1][0] > two[0][0]) == s % 2 for s, two in enumerate(answers)]
    assert results is not None
    assert results["results"]["tales"]["acc,none"] == pytest.approx(sum(right) / 6)


@pytest.mark.slow
def test_the_harness_s_own_command_line(model, tokenizer, task, offline):
    model.save_pretrained(task / "model")
    tokenizer.save_pretrained(task / "model")
    command = [sys.executable, "-m", "sharedllm.evaluation.lm_eval", "run", "--model", "sharedllm", "--tasks", "tales"]
    command += [
        "--model_args",
        f"pretrained={task / 'model'}",
        "--include_path",
        str(task),
        "--output_path",
        str(task / "out"),
    ]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (results,) = (task / "out").rglob("results_*.json")
    assert 0 <= json.loads(results.read_text())["results"]["tales"]["acc,none"] <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretrained=nope", "there is no folder nope"),
        ("pretrained=tiny,budget=-4", "budget=-4.0 must be a number of tokens"),
        (
            "pretrained=tiny,foo=3",
            "foo=3 is no setting of a SharedLLM, and no argument of from_pretrained: leave it out.",
        ),
        ("pretrained=base,foo=3", "foo=3 is no argument of the model: leave it out."),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(ours, task, offline, monkeypatch, capsys, arguments, said):
    from lm_eval.tasks import TaskManager

    command = [
        "run",
        "--model",
        "sharedllm",
        "--model_args",
        arguments,
        "--tasks",
        "tales",
        "--include_path",
        str(task),
    ]
    monkeypatch.setattr(sys, "argv", ["lm_eval", *command])
    # To list the harness's thousands of tasks takes seconds.
    monkeypatch.setattr(TaskManager, "__init__", partialmethod(TaskManager.__init__, include_defaults=False))
    with pytest.raises(SystemExit) as ended:
        ours.main()
    assert ended.value.code == 2 and f"error: {said}" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 0}, "budget=0"),
        ({"score": "best"}, "best"),
        ({"max_length": 10}, "max_length=10 would cut"),
        ({"batch_size": "auto"}, "batch_size='auto'"),
    ],
)
def test_what_cannot_work(ours, model, tokenizer, options, said):
    with pytest.raises(ValueError, match=said):
        ours.SharedLLMHarness(model, tokenizer=tokenizer, **options)


def test_an_ordinary_model_and_too_many_new_tokens_are_refused(ours, harness, tokenizer):
    with pytest.raises(ValueError, match="not a SharedLLM"):
        ours.SharedLLMHarness(tiny_base("llama", vocab_size=256), tokenizer=tokenizer)
    with pytest.raises(ValueError, match="max_gen_toks=40 must be between 1 and 31"):
        harness.generate_until(requests("generate_until", [("a", {"max_gen_toks": 40})]), disable_tqdm=True)


@pytest.mark.parametrize("add", [False, True, None])
def test_a_text_begins_once(ours, model, add):
    """A tokenizer that puts BOS in front of every text does not put it behind the harness's own prefix."""
    from tokenizers.processors import TemplateProcessing

    adding = byte_tokenizer()
    adding.bos_token, adding.eos_token, adding.pad_token = "^", "!", "!"
    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="^ $A", special_tokens=[("^", adding.bos_token_id)]
    )
    options = {} if add is None else {"add_bos_token": add}
    plain = ours.SharedLLMHarness(model, tokenizer=adding, batch_size=1, **options)
    as_hflm = ours.SharedLLMHarness(model, tokenizer=adding, batch_size=1, rolling_as_hflm=True, **options)
    story, bos = text(90), adding.bos_token_id
    ids = [bos, *adding(story, add_special_tokens=False).input_ids]
    wanted = ours.SharedLLMHarness(model, tokenizer=byte_tokenizer_with(bos="^"), batch_size=1)
    expected = wanted.loglikelihood_rolling(requests("loglikelihood_rolling", [(story,)]), disable_tqdm=True)
    got = plain.loglikelihood_rolling(requests("loglikelihood_rolling", [(story,)]), disable_tqdm=True)
    assert got == pytest.approx(expected, abs=1e-4) and len(ids) == 91
    twice = as_hflm.loglikelihood_rolling(requests("loglikelihood_rolling", [(story,)]), disable_tqdm=True)
    assert (twice == pytest.approx(expected, abs=1e-4)) == (add is False)


def byte_tokenizer_with(bos: str):
    """The same tokenizer, which adds nothing."""
    tokenizer = byte_tokenizer()
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = bos, "!", "!"
    return tokenizer
