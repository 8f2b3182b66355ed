"""Ablations: every variant runs once with every seed, and the table's numbers follow from the logs."""

import json
import re
from math import inf, isclose, sqrt
from pathlib import Path
from statistics import stdev

import pytest
import yaml

from sharedllm.training.ablation import _half_width, markdown, run_study, table
from sharedllm.training.study import Study, load_study, settings

RECIPES = Path(__file__).parents[2] / "recipes"

RECIPE = {
    "stage": "extend",
    "base": "base",
    "steps": 2,
    "model": {"window": 64, "chunk_size": 16, "strides": [4, 2], "lower_layers": 2, "encoding": "chunk"},
    "data": {"folder": "tokens", "sources": {"words": {"files": "words.txt"}}},
    "train": {"everything": 0.001},
    "context": 64,
    "running": 64,
    "batch_tokens": 512,
    "micro_tokens": 512,
    "precision": "fp32",
    "validation": {"every": 2, "rows": 2, "windows": [0, 1], "tasks": ["copy"], "task_rows": 2},
}


def write(tmp_path, **content):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_variants_change_keys_inside():
    study = Study(RECIPE | {"output": "out"}, {"ours": None, "finer steps": {"model.strides": [2, 1], "steps": 5}})
    changed = settings(study, "finer steps", 7)
    assert changed["model"] == RECIPE["model"] | {"strides": [2, 1]} and changed["steps"] == 5
    assert changed["seed"] == 7 and changed["output"] == "out/finer-steps/seed-7"
    assert settings(study, "ours", 0)["model"] == RECIPE["model"], "the shared keys are unchanged"


def test_table_pairs_by_seed(tmp_path):
    """Means, paired differences and Student's interval, computed by hand; a seed that has not run is left out."""
    study = Study(RECIPE | {"output": str(tmp_path)}, {"ours": None, "other": {"steps": 5}, "nothing": None}, [0, 1, 2])
    for variant, losses in (("ours", [3.0, 3.2, 3.1]), ("other", [3.1, 3.1, 3.3])):
        for seed, loss in enumerate(losses):
            folder = tmp_path / variant / f"seed-{seed}"
            (folder / "model").mkdir(parents=True)
            lines = [
                {"step": 1, "validation": {"words": {"0": 9.0}}},
                {"step": 2, "validation": {"words": {"0": loss}}},
            ]
            (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ours, other, nothing = table(study)
    assert isclose(ours["words 0"]["mean"], 3.1) and "difference" not in ours["words 0"]
    assert isclose(other["words 0"]["difference"], 0.2 / 3)
    differences = [0.1, -0.1, 0.2]
    mean = sum(differences) / 3
    deviation = sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    assert isclose(other["words 0"]["half_width"], 4.302652729911275 * deviation / sqrt(3))
    assert nothing["seeds"] == [] and "words 0" not in nothing
    text = markdown([ours, other, nothing])
    assert "| ours | 3 | 3.100 |" in text and "| other | 3 | +0.067 ± 0.379 |" in text and "| nothing | 0 | – |" in text
    (tmp_path / "other/seed-1/model").rmdir()
    (tmp_path / "other/seed-2/model").rmdir()
    assert table(study)[1]["words 0"]["half_width"] == inf
    assert "± inf" not in markdown(table(study))


def test_a_study_runs_once(run, tmp_path, base_folder, monkeypatch):
    monkeypatch.setattr("sharedllm.training.run.draw_curves", lambda *_: None)
    monkeypatch.setattr("sharedllm.training.utilisation.count_operations", lambda run: 1)
    text = "A falcon sang in the quiet harbour while the captains slept. " * 40
    for number in range(4):
        (tmp_path / f"{number}.txt").write_text(f"Book {number}. {text}")
    recipe = RECIPE | {"base": str(base_folder), "output": str(tmp_path / "out")}
    recipe["data"] = {"folder": str(tmp_path / "tokens"), "sources": {"words": {"files": str(tmp_path / "*.txt")}}}
    recipe["data"]["validation_share"] = 0.3
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    path = write(
        tmp_path, recipe="recipe.yaml", change={"log_every": 1}, seeds=[0],
        variants={"a": None, "b": {"steps": 1}, "c": {"steps": 2}},
    )  # fmt: skip
    code, out, err = run("ablate", path, "--only", "b")
    assert code == 0, err
    assert (
        out.startswith("| variant | seeds | words 0 | words 64 | recall copy |")
        and (tmp_path / "out/table.md").is_file()
    )
    rows = json.loads((tmp_path / "out/table.json").read_text())
    assert [row["variant"] for row in rows] == ["a", "b", "c"] and rows[1]["changes"] == {"steps": 1}
    assert [row["seeds"] for row in rows] == [[0], [0], []]
    monkeypatch.setattr("sharedllm.training.ablation.train", lambda *a, **k: pytest.fail("it has already run"))
    assert run_study(load_study(path), only=["b"]) == rows
    (tmp_path / "out/a").rename(tmp_path / "first")
    code, out, err = run("ablate", path, "--only", "b", "--no-reference")
    assert code == 0 and not (tmp_path / "out/a").exists(), err
    loss = f"{rows[1]['words 0']['mean']:.3f}"
    assert "| a | 0 | – |" in out and f"| b | 1 | {loss} |" in out, "without the first there are no differences"
    (tmp_path / "first").rename(tmp_path / "out/a")
    with pytest.raises(ValueError, match="only='d', 'e' is not a variant: use some of 'a', 'b', 'c'"):
        run_study(load_study(path), only=["e", "a", "d"])
    path.write_text(path.read_text().replace("steps: 1", "steps: 3"))
    with pytest.raises(ValueError, match=r"out/b/seed-0 holds a run with steps=1, the recipe says 3"):
        run_study(load_study(path))


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)], ids=str)
def test_a_study_that_is_stopped_says_how_it_goes_on(run, tmp_path, base_folder, monkeypatch, stop, code):
    def stopped(*_, **__):
        raise stop

    monkeypatch.setattr("sharedllm.training.ablation.train", stopped)
    recipe = RECIPE | {"base": str(base_folder), "output": str(tmp_path / "out")}
    got, _, err = run("ablate", write(tmp_path, recipe=recipe, variants={"a": None}, seeds=[0]))
    assert got == code and "the same command goes on: finished runs are kept" in " ".join(err.split())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"model.strides": [0]}, r"strides=\[0\] must be one positive stride"),
        ({"model.chunk_size": "x"}, "chunk_size.*int"),
        ({"system": "beacon", "model": {"stride": 100_000}}, "stride=100000 must leave room"),
        ({"system": "cepe", "model": {"chunk_size": 0}}, "chunk_size=0 must be 1"),
        ({"system": "tuned", "model": {"odd": 1}}, "model.odd is not a field"),
        ({"base": "nowhere/at/all"}, "nowhere"),
    ],
    ids=str,
)
def test_a_model_that_can_not_be_is_refused_before_another_trains(
    run, tmp_path, base_folder, monkeypatch, bad, message
):
    monkeypatch.setattr("sharedllm.training.ablation.train", lambda *a, **k: pytest.fail("a variant trains"))
    recipe = RECIPE | {"base": str(base_folder), "output": str(tmp_path / "out")}
    path = write(tmp_path, recipe=recipe, variants={"good": {}, "bad": bad}, seeds=[0])
    code, _, err = run("ablate", path)
    assert code == 2 and re.search(f"error: .*variant bad: .*{message}", err) and err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"recipe": RECIPE | {"output": "o"}, "variants": {"bad": {"batch_token": 1}}}, "variant bad: .*batch_token"),
        (
            {"recipe": RECIPE | {"output": "o"}, "variants": {"a": None, "bad": {"model.odd": 1}}},
            "variant bad: model.odd is not a setting of a SharedLLM: see SharedLLMConfig",
        ),
        (
            {
                "recipe": RECIPE | {"output": "o", "batch_token": 1},
                "variants": {"joint softmax": None, "b": {"step": 1}},
            },
            r"study.yaml: the recipe, which all variants inherit: batch_token is not a key of a recipe: do you mean batch_tokens\?$",
        ),
        (
            {"recipe": RECIPE | {"output": "o"}, "change": {"model.odd": 1}, "variants": {"a": {"step": 1}}},
            r"study.yaml: variant a: step is not a key of a recipe: do you mean steps\?$",
        ),
        (
            {"recipe": RECIPE | {"output": "o", "batch_token": 1}, "variants": {"a": {"step": 1}}},
            r"the recipe, which all variants inherit: batch_token is not a key of a recipe: do you mean batch_tokens\?$",
        ),
        ({"recipe": RECIPE | {"output": "o"}, "variants": {}}, "must hold recipe, variants"),
        ({"recipe": RECIPE | {"output": "o"}, "variants": {"a": None}, "seed": 1}, "must hold recipe, variants"),
        ({"recipe": "none.yaml", "variants": {"a": None}}, "can't read the recipe .*none.yaml"),
        ({"variants": {"a": None}}, r"recipe=None must be a file or the keys"),
        ({"recipe": RECIPE | {"output": "o"}, "variants": ["a"]}, r"variants=\['a'\] must be names"),
        ({"recipe": RECIPE | {"output": "o"}, "variants": {1: None}}, "variant 1: None must be keys"),
        ({"recipe": RECIPE | {"output": "o"}, "variants": {"../a": None}}, r"variant '../a': .* leave out slashes"),
        ({"recipe": RECIPE | {"output": "o"}, "variants": {"a": [1]}}, r"variant 'a': \[1\] must be keys"),
        ({"recipe": RECIPE | {"output": "o"}, "variants": {"a": None}, "seeds": ["x"]}, r"seeds=\['x'\] must be"),
        ({"recipe": RECIPE | {"output": "o"}, "variants": {"a": None}, "seeds": []}, r"seeds=\[\] must be"),
        (
            {"recipe": RECIPE | {"output": "o"}, "variants": {"a": None}, "change": {"steps.x": 1}},
            "steps=.* holds no keys",
        ),
        ({"recipe": RECIPE, "variants": {"a": None}}, "output is missing"),
    ],
)
def test_bad_studies(run, tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_study(write(tmp_path, **content))
    code, _, err = run("ablate", tmp_path / "study.yaml")
    assert code == 2 and len(err.strip().splitlines()) == 1


def test_rates_are_searched_in_the_setting_of_the_comparison(monkeypatch):
    """Variants of rates.yaml differ from those of tiny.yaml only in rates and folders; a system's first variant not at all."""
    monkeypatch.setenv("CORPUS", "corpus")
    rates, tiny = (load_study(RECIPES / "compare" / f"{name}.yaml") for name in ("rates", "tiny"))
    seen = set()
    for name in rates.variants:
        system = name.split()[0]
        found, expected = settings(rates, name, 0), settings(tiny, system, 0)
        assert found.pop("output") != expected.pop("output")
        if system in seen:
            assert found.pop("train").keys() == expected.pop("train").keys()
        seen.add(system)
        assert found == expected, name


def test_the_interval_of_many_seeds_is_students_too():
    differences = [float(i % 3) for i in range(12)]
    assert isclose(_half_width(differences), 2.200985160082949 * stdev(differences) / sqrt(12))
