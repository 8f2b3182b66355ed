"""Recipes: values are read as written, and invalid keys and values are refused by name."""

import json
import math
from pathlib import Path

import pytest
import yaml

from sharedllm.training.limits import window_said
from sharedllm.training.recipe import MIXTURES, Recipe
from sharedllm.training.recipe_file import load_recipe
from sharedllm.training.yaml_files import read_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = {
    "stage": "extend",
    "base": "base",
    "output": "out",
    "steps": 10,
    "data": {"folder": "data", "sources": {"text": {"files": "a.txt"}}},
    "train": {"everything": 1e-3},
}


@pytest.fixture
def recipe_file(tmp_path):
    def write(**changes) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes))
        return path

    return write


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_load(path, monkeypatch):
    for name in ("CORPUS", "OUT", "REAL_MODEL", "REDPAJAMA", "INSTRUCTIONS"):
        monkeypatch.setenv(name, "/text")
    recipe = load_recipe(path)
    assert recipe.steps >= 1
    assert sum(recipe.domain_weights().values()) == pytest.approx(1)


def test_reference_shows_every_key_with_its_default(recipe_file):
    shown = load_recipe(RECIPES / "reference.yaml").as_dict()
    plain = load_recipe(recipe_file()).as_dict()
    own = {"stage", "base", "output", "steps", "data", "train", "model", "schedule"}
    assert {key: shown[key] for key in shown if key not in own} == {key: plain[key] for key in plain if key not in own}
    text = yaml.safe_load((RECIPES / "reference.yaml").read_text())
    assert set(text) == set(plain)
    assert set(text["data"]) == set(plain["data"])
    assert set(text["validation"]) == set(plain["validation"])


def test_paper_settings(monkeypatch):
    monkeypatch.setenv("REDPAJAMA", "/text")
    recipe = load_recipe(RECIPES / "paper-lm.yaml")
    weights = recipe.domain_weights()
    assert weights["commoncrawl"] == pytest.approx(67 / sum(MIXTURES["redpajama"].values()))
    assert recipe.batch_tokens // (recipe.context + recipe.running) == 128
    assert recipe.steps * recipe.batch_tokens == pytest.approx(20e9, rel=1e-3)
    assert set(recipe.train) == {"gates", "cross_attention", "top_layers"}


def test_numbers_texts_and_overrides(recipe_file, monkeypatch):
    monkeypatch.setenv("PLACE", "/somewhere")
    path = recipe_file(train={"gates": "1e-5", "everything": 1}, output="${PLACE}/out")
    recipe = load_recipe(path, ["steps=25", "model.window=1024", "validation.every=5"])
    assert recipe.train == {"gates": 1e-5, "everything": 1.0}
    assert (recipe.output, recipe.steps, recipe.model, recipe.validation.every) == (
        "/somewhere/out",
        25,
        {"window": 1024},
        5,
    )


def test_phases_fill_in_what_they_do_not_say(recipe_file):
    schedule = [{"share": 1, "context": 256, "running": 256, "strides": [[2, 1], [1, 1]]}, {"share": 3}]
    first, second = load_recipe(recipe_file(schedule=schedule)).phases()
    assert (first.share, first.context, first.strides) == (0.25, 256, [[2, 1], [1, 1]])
    assert (second.share, second.context, second.strides) == (0.75, 512, None)
    base = load_recipe(recipe_file(stage="base", base=None, running=64))
    assert base.phases()[0].context == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 5}, "step is not a key of a recipe: do you mean steps?"),
        ({"data": {"folder": "d", "sources": {"a": {"file": "x"}}}}, "data.sources.a.file is not a key"),
        ({"data": {"folder": "d"}}, "data.sources is missing"),
        ({"steps": "many"}, "steps='many' must be of type int"),
        ({"steps": None}, "steps has no value: give it one, or leave it out."),
        ({"train": None}, "train has no value: give it one, or leave it out."),
        ({"lr": 1e-4}, "lr is not a key of a recipe: a learning rate belongs to a part of the model"),
        ({"train": {"steps": 1e9}}, "train.steps is no part of"),
        ({"train": {"gate": 1e-4}}, "train.gate is no part of sharedllm: do you mean gates?"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"stage": "pretrain"}, "stage='pretrain' must be one of base, extend, instruct"),
        ({"base": None}, "base is missing"),
        ({"train": {}}, "trains nothing"),
        ({"train": {"gates": "fast"}}, "train.gates='fast' must be a number"),
        ({"micro_tokens": 1000}, "micro_tokens=1000 must hold whole samples of 1,024"),
        ({"kinds": {"text": 0}}, "kinds={'text': 0.0} must have no share below 0, and at least one above"),
        ({"output": "${NOT_SET_ANYWHERE}"}, "NOT_SET_ANYWHERE"),
        ({"data": SMALL["data"] | {"mixture": "pile"}}, "data.mixture='pile' is unknown"),
        ({"schedule": [{"share": 0}]}, "share above 0"),
        ({"schedule": [{}, {"running": 0}]}, "schedule: running=0 must be at least 1"),
        ({"schedule": [{"context": -512}]}, "schedule: context=-512 must be at least 0"),
        ({"schedule": [{"distractors": {}}]}, "distractors={} must have no share below 0"),
        ({"distractors": {-1: 1.0}}, "distractors={-1: 1.0} must be numbers of other contexts"),
        ({"log_every": 0}, "log_every=0 must be at least 1"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"validation": {"every": 0}}, "validation.every=0 must be at least 1"),
        ({"validation": {"rows": 0}}, "validation.rows=0 must be at least 1"),
        ({"validation": {"windows": [1, -1]}}, "validation.windows=[1.0, -1.0] must not be negative"),
        ({"validation": {"windows": [math.nan]}}, "validation.windows[0]=nan must be a finite number"),
        ({"betas": [0.9]}, "betas=[0.9] must be two numbers"),
        ({"betas": [0.9, 1.0]}, "betas=[0.9, 1.0] must be two numbers"),
        ({"clip": -1}, "clip=-1.0 must be above 0"),
        ({"clip": math.nan}, "clip=nan must be a finite number"),
        ({"warmup": 1.5}, "warmup=1.5 must be at least 0 and below 1"),
        ({"lora": {"rank": 0}}, "lora.rank=0 must be at least 1"),
        ({"lora": {"dropout": 1}}, "lora.dropout=1.0 must be at least 0 and below 1"),
        ({"train": {"everything": -1}}, "train={'everything': -1.0} must not be negative"),
        ({"train": {"everything": math.inf}}, "train.everything=inf must be a finite number"),
        ({"weights": {"text": -1}}, "weights={'text': -1.0} must not be negative"),
        ({"kinds": {"text": math.nan}}, "kinds.text=nan must be a finite number"),
        ({"data": {"folder": "d", "sources": {}}}, "data.sources={} names no text"),
        ({"keep_checkpoints": True}, "must be of type int"),
    ],
)
def test_refused_by_name(recipe_file, changes, message):
    with pytest.raises(ValueError, match=r"recipe\.yaml") as error:
        load_recipe(recipe_file(**changes))
    assert message in str(error.value)


def test_files_that_are_no_recipes(tmp_path):
    for text, message in (
        ("steps: [1", "is not YAML"),
        ("- 1", "must hold keys and values"),
        ("steps: 1\nmodel: {window: 512}\nsteps: 2", "is not YAML: 'steps' is there twice .*line 3"),
        ("model: {window: 512, window: 64}", "'window' is there twice"),
        ("output: 2026-13-01", "is not YAML: month must be in"),
        ("[" * 5000, "is not YAML"),
    ):
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_recipe(path)
    with pytest.raises(ValueError, match="can't read the recipe"):
        load_recipe(tmp_path / "missing.yaml")


def test_merged_keys_may_be_replaced(tmp_path):
    """YAML's `<<` gives keys that the mapping may have itself."""
    path = tmp_path / "merged.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")
    assert read_yaml(path)["b"] == {"x": 3, "y": 2}


def test_an_override_that_is_not_yaml(recipe_file):
    with pytest.raises(ValueError, match=r"the override 'train=\{a: \[1': '\{a: \[1' is not YAML"):
        load_recipe(recipe_file(), ["train={a: [1"])


def test_weights_of_domains(recipe_file):
    sources = {"arxiv": {"files": "a"}, "mine": {"files": "b"}}
    with pytest.raises(ValueError, match="mine has no weight"):
        load_recipe(recipe_file(data={"folder": "d", "mixture": "redpajama", "sources": sources})).domain_weights()
    sources["mine"]["weight"] = 7.5
    recipe = load_recipe(recipe_file(data={"folder": "d", "mixture": "redpajama", "sources": sources}))
    assert recipe.domain_weights() == {"arxiv": 0.25, "mine": 0.75}
    assert isinstance(recipe, Recipe)


@pytest.mark.parametrize(
    "changes", [{"running": 1024, "context": 0}, {"schedule": [{}, {"running": 1024, "context": 0}]}]
)
def test_running_text_beyond_the_window_is_refused_at_once(recipe_file, changes):
    changes |= {"model": {"window": 512}}
    message = "running=1024 does not fit into window=512 of the model: lower running and raise context by as much, or raise model.window"
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file(**changes))
    # Activation Beacon cuts a longer text into windows itself.
    assert load_recipe(recipe_file(**changes, system="beacon", train={"beacon": 1e-3})).model == {"window": 512}


@pytest.mark.parametrize(
    ("config", "window"),
    [
        ({"model_type": "llama", "max_position_embeddings": 64}, 64),
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 64}}, 64),
        ({"model_type": "sharedllm", "window": 32, "text_config": {"max_position_embeddings": 64}}, 32),
        ({"model_type": "llama"}, None),
        ({"model_type": "llama", "max_position_embeddings": "64"}, None),
        ([], None),
        (None, None),
    ],
)
def test_window_of_a_configuration(tmp_path, config, window):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert window_said(str(tmp_path)) == window
