"""Training: runs by a recipe, killed and resumed, over several processes, by parts and with adapters."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from helpers import tiny_base
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharedllm import SharedLLMForCausalLM
from sharedllm.training.log import read_log

ROOT = Path(__file__).parents[2]


def losses_of(output: Path) -> list[dict]:
    return [r["loss"] | {"norm": r["gradient_norm"]} for r in read_log(output / "log.jsonl") if "loss" in r]


def validations_of(output: Path) -> list[dict]:
    return [record["validation"] for record in read_log(output / "log.jsonl") if "validation" in record]


def test_a_run_writes_log_validation_and_a_model(run, recipe, tmp_path, monkeypatch):
    monkeypatch.undo()  # with its curves and its count of operations
    code, out, err = run("train", recipe(steps=12), "--json")
    assert code == 0, err
    folder = Path(json.loads(out)["output"])
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, SharedLLMForCausalLM)
    ids = tokenizer("The falcon of silver sang. " * 8, return_tensors="pt").input_ids
    assert torch.isfinite(model(ids).logits).all()
    records = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "loss" in r]
    assert [r["step"] for r in records] == list(range(12))
    assert all(r["tokens_per_second"] > 0 and 0 < r["flop_utilisation"] < 2 and len(r["gates"]) == 3 for r in records)
    assert records[-1]["loss"]["text"] < records[0]["loss"]["text"] - 0.1
    assert any(abs(gate) > 0.005 for gate in records[-1]["gates"])
    validation = validations_of(tmp_path / "run")[-1]
    assert set(validation["words"]) == {"0", "64", "128"}
    assert 0 <= validation["recall"]["copy"] <= 1
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert left == ["step-00000010", "step-00000012"]
    _, about, card = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(about)["tags"][0] == "sharedllm"
    assert "12 steps of 1,024 tokens" in card and f"{validation['words']['128']:.3f} |" in card


def test_stopped_and_gone_on_with_equals_one_run(run, recipe, tmp_path):
    for name, stops in (("whole", [None]), ("parts", [2, 5, None])):
        for stop in stops:
            path = recipe(name, model=yaml.safe_load(recipe().read_text())["model"] | {"split_noise": 0.2})
            assert run("train", path, *(["--max-steps", stop] if stop else []))[0] == 0
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "parts")
    assert validations_of(tmp_path / "whole") == validations_of(tmp_path / "parts")
    whole, parts = (AutoModelForCausalLM.from_pretrained(tmp_path / n / "model") for n in ("whole", "parts"))
    for (name, one), two in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_killed_and_gone_on_with_equals_one_run(run, recipe, tmp_path, optimizer):
    """SIGKILL at any moment, as often as necessary."""
    settings = {"steps": 24, "optimizer": optimizer, "checkpoint_every": 3, "validation": {"every": 100}}
    assert run("train", recipe("whole", **settings), "--max-steps", 20)[0] == 0
    command = [sys.executable, "-m", "sharedllm", "train", str(recipe("killed", **settings)), "--max-steps", "20"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output, kills = tmp_path / "killed", 0
    for target in (4, 9):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(losses_of(output)) < target:
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills == 2
    assert not (output / "model").exists()
    assert run("train", recipe("killed", **settings), "--max-steps", 20)[0] == 0
    assert losses_of(tmp_path / "whole") == losses_of(output) and len(losses_of(output)) == 20


@pytest.mark.parametrize(
    ("launch", "changes", "both"),
    [
        pytest.param([], {"micro_tokens": 256}, {}, marks=pytest.mark.slow),
        pytest.param([], {"micro_tokens": 1024}, {}, marks=pytest.mark.slow),
        ([], {"activation_checkpointing": True}, {}),
        pytest.param(["ddp-cpu"], {}, {}, marks=pytest.mark.slow),
        pytest.param(["fsdp2-cpu"], {}, {}, marks=pytest.mark.slow),
        # A frozen head is not run for the logits of all tokens, and is sharded all the same.
        pytest.param(["fsdp2-cpu"], {}, {"train": {"gates": 0.01, "cross_attention": 0.003}}, marks=pytest.mark.slow),
    ],
    ids=["smaller micro-batches", "one micro-batch", "activation checkpointing", "ddp", "fsdp2", "fsdp2, frozen head"],
)
def test_same_losses_however_a_step_is_shared(run, recipe, tmp_path, launch, changes, both):
    assert run("train", recipe("one", **both))[0] == 0
    path = recipe("other", **both, **changes)
    if launch:
        config = ROOT / "recipes" / "accelerate" / f"{launch[0]}.yaml"
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
        done = subprocess.run(
            [*command, "-m", "sharedllm", "train", str(path)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "; 2 processes" in done.stdout + done.stderr
    else:
        assert run("train", path)[0] == 0
    for one, other in zip(losses_of(tmp_path / "one"), losses_of(tmp_path / "other"), strict=True):
        assert one.keys() == other.keys()
        assert all(abs(one[key] - other[key]) < 1e-4 * max(1, abs(one[key])) for key in one), (one, other)
    models = [AutoModelForCausalLM.from_pretrained(tmp_path / name / "model") for name in ("one", "other")]
    for (name, a), b in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=2e-3), name


@pytest.mark.slow
def test_base_from_scratch_then_extended(run, recipe, tmp_path):
    data = yaml.safe_load(recipe().read_text())["data"] | {"tokenizer": 300}
    model = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    schedule = [{"share": 0.5, "running": 32}, {"share": 0.5}]
    kinds = {"text": 0.5, "copy": 0.5}
    path = recipe(
        "base",
        stage="base",
        base=None,
        data=data,
        model=model | {"max_position_embeddings": 64, "tie_word_embeddings": True},
        train={"everything": 0.003},
        schedule=schedule,
        kinds=kinds,
        optimizer="muon",
    )
    code, _, err = run("train", path)
    assert code == 0, err
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base" / "model")
    assert type(base).__name__ == "LlamaForCausalLM"
    assert base.lm_head.weight.data_ptr() == base.model.embed_tokens.weight.data_ptr()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base" / "model")
    assert tokenizer.decode(tokenizer("a falcon 42\n").input_ids) == "a falcon 42\n"
    settings = yaml.safe_load(recipe().read_text())["model"] | {"injection_map": None}
    data = data | {"tokenizer": None, "folder": data["folder"] + "-2"}
    code, _, err = run(
        "train", recipe("next", base=str(tmp_path / "base" / "model"), model=settings, data=data, steps=2)
    )
    assert code == 0, err


def test_saved_in_bf16_with_tied_weights_once(run, recipe, tmp_path, base_folder):
    """Loading without a dtype gives the saved one; a tied head is not stored twice."""
    base = tmp_path / "tied"
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(base)
    tiny_base("llama", vocab_size=256, tie_word_embeddings=True).save_pretrained(base)
    assert run("train", recipe(base=str(base), steps=1, save_dtype="bfloat16"))[0] == 0
    folder = tmp_path / "run" / "model"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == model.lm_head.weight.dtype == torch.bfloat16 == model.config.text_config.dtype
    assert model.lm_head.weight is model.get_input_embeddings().weight
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118


@pytest.mark.slow
def test_how_a_context_is_read_may_change_when_training_goes_on(run, recipe, tmp_path):
    assert run("train", recipe("first", steps=2))[0] == 0
    first = str(tmp_path / "first" / "model")
    path = recipe("second", base=first, steps=1, model={"overlap": 4, "strides": [2, 1]})
    code, _, err = run("train", path)
    assert code == 0, err
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "second" / "model").config
    assert (config.overlap, config.strides, config.chunk_size) == (4, [2, 1], 16)
    code, _, err = run("train", recipe("third", base=first, model={"lower_layers": 1}))
    assert code == 2 and "model.lower_layers can't change" in err


@pytest.mark.parametrize(
    ("system", "settings", "part"),
    [
        pytest.param("beacon", {"model": {"window": 64}, "train": {"beacon": 0.01}}, "beacon", marks=pytest.mark.slow),
        pytest.param(
            "cepe",
            {
                "model": {"window": 64, "chunk_size": 16},
                "train": {"encoder": 0.003, "cross_attention": 0.003},
                "schedule": [{"share": 0.4, "kinds": {"echo": 1.0}}, {"share": 0.6}],
            },
            "encoder",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "tuned",
            {"model": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "train": {"everything": 0.001}},
            "",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_systems_train_and_are_evaluated(
    run, recipe, tmp_path, text_folder, base_folder, model_folder, monkeypatch, system, settings, part
):
    """With the same trainer and the same samples; only the system's own weights change."""
    monkeypatch.undo()  # with their curves and their count of operations
    code, out, err = run("train", recipe(system=system, steps=3, **settings), "--json")
    assert code == 0, err
    folder = json.loads(out)["output"]
    trained = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    records = [r["loss"] for r in read_log(tmp_path / "run" / "log.jsonl") if "loss" in r]
    assert all(torch.isfinite(torch.tensor(list(r.values()))).all() for r in records)
    assert set(validations_of(tmp_path / "run")[-1]["words"]) == {"0", "64", "128"}
    same = torch.equal(trained.get_input_embeddings().weight, base.get_input_embeddings().weight)
    assert same == bool(part), "a base's own weights are frozen in the systems that add weights"
    if system == "tuned":
        assert trained.config.rope_parameters["factor"] == 4.0
        assert trained.config.rope_parameters["original_max_position_embeddings"] == 64
    (tmp_path / "tale.txt").write_text((text_folder / "0.txt").read_text() * 2)
    common = ["--model", model_folder, "--base", base_folder, "--trained", folder, "--data", tmp_path / "tale.txt"]
    arguments = [*common, "--lengths", "0,4W", "--cases", 1, "--system", f"sharedllm,{system}", "-o", tmp_path / "eval"]
    assert run("eval", "loss", *arguments)[0] == 0
    code, out, err = run("report", tmp_path / "eval")
    assert code == 0 and f"| sharedllm | {system} |" in out
    code, _, err = run("eval", "loss", *arguments, "--rival", folder)
    assert code == 2 and "two of them are of one system" in err


def test_a_system_that_does_not_fit_is_refused(run, recipe, model_folder):
    code, _, err = run("train", recipe(system="tuned", model={"colour": 1}, train={"everything": 0.001}))
    assert code == 2 and "model.colour is not a field" in err
    code, _, err = run("train", recipe(base=str(model_folder), system="beacon", model={}, train={"beacon": 0.001}))
    assert code == 2 and "is already a trained sharedllm" in err


def test_questions_and_instructions(run, recipe, tmp_path):
    records = [{"context": "The code is 42.\u2028" * 3, "question": "Which code?", "answer": "42"}]
    file = tmp_path / "records.jsonl"
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n")
    data = yaml.safe_load(recipe().read_text())["data"] | {"instructions": [str(file)]}
    settings = yaml.safe_load(recipe().read_text())["model"] | {"window": 256, "selection": "cosine"}
    kinds = {"text": 0.25, "instructions": 0.25, "needle": 0.25, "questions": 0.25}
    path = recipe(
        stage="instruct",
        data=data,
        model=settings,
        kinds=kinds,
        context=256,
        running=256,
        batch_tokens=4096,
        micro_tokens=4096,
        steps=4,
        questions=2,
        distractors={0: 0.5, 1: 0.5},
        validation={"every": 4, "windows": [0, 1], "tasks": ["needle"], "rows": 2, "task_rows": 2, "strides": [1, 1]},
    )
    code, _, err = run("train", path)
    assert code == 0, err
    kinds_seen = {kind for losses in losses_of(tmp_path / "run") for kind in losses}
    assert {"text", "instructions", "needle"} <= kinds_seen


def test_adapters_train_save_and_reload(run, recipe, tmp_path, base_folder):
    code, _, err = run(
        "train", recipe(lora={"rank": 4, "alpha": 8}, train={"lora": 0.01, "gates": 0.05, "cross_attention": 0.003})
    )
    assert code == 0, err
    base = AutoModelForCausalLM.from_pretrained(base_folder)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    changed = [n for n, p in base.named_parameters() if not torch.allclose(p, _twin_of(model, n))]
    assert changed
    assert all("q_proj" in n or "k_proj" in n or "v_proj" in n or "o_proj" in n for n in changed)


def test_get_peft_model_as_for_any_model(tmp_path, model_folder):
    """Adapters by target names: trained with the context as an argument, saved, loaded onto the same checkpoint, merged."""
    import peft  # slow to import

    options = {"input_ids": torch.arange(40).reshape(2, 20), "context_ids": torch.arange(200).reshape(2, 100)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        model = peft.get_peft_model(SharedLLMForCausalLM.from_pretrained(model_folder, dtype=torch.float32), config)
        trained = [p for p in model.parameters() if p.requires_grad]
        assert 0 < sum(p.numel() for p in trained) < 0.2 * sum(p.numel() for p in model.parameters())
        optimizer, losses = torch.optim.Adam(trained, 0.02), []
        for _ in range(12):
            losses.append(model(**options, labels=options["input_ids"]).loss)
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 0.2
        model.eval().save_pretrained(tmp_path / "adapter")
        base = SharedLLMForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = model(**options).logits
        torch.testing.assert_close(loaded(**options).logits, expected)
        torch.testing.assert_close(loaded.merge_and_unload()(**options).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_tensorboard_holds_the_log(run, recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    code, _, err = run("train", recipe(tensorboard=True, steps=4))
    assert code == 0, err
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    records = [r for r in read_log(tmp_path / "run" / "log.jsonl") if "loss" in r]
    shown = events.Scalars("loss/text")
    assert [event.step for event in shown] == [r["step"] for r in records]
    assert [event.value for event in shown] == pytest.approx([r["loss"]["text"] for r in records])


def _twin_of(model: SharedLLMForCausalLM, name: str) -> torch.Tensor:
    return dict(model.named_parameters())[
        name.replace("model.", "model.upper.", 1) if name.startswith("model.") else name
    ]
