"""The reports under docs/ match the results next to them."""

import json
from pathlib import Path

import pytest

from sharedllm.evaluation.cells import index
from sharedllm.evaluation.recall import report as recall
from sharedllm.evaluation.recall.results import load
from sharedllm.evaluation.report import markdown
from sharedllm.evaluation.results import load_runs

DOCS = Path(__file__).parents[2] / "docs"
# The others take longer because of their bootstraps, and use the same code.
EVALUATIONS = ["evaluation/needles", "evaluation/budget-4W", "evaluation/budget-16W", "comparison/far"]


@pytest.mark.parametrize("name", EVALUATIONS)
def test_report_is_that_of_its_cells(name):
    runs = load_runs(DOCS / name)
    text = (DOCS / name / "report.md").read_text(encoding="utf-8")
    assert markdown(index(runs), runs[0].about["window"]) == text


@pytest.mark.parametrize("name", sorted(path.name for path in DOCS.glob("recall*")))
def test_recall_report_is_that_of_its_cells(name):
    text = (DOCS / name / "report.md").read_text(encoding="utf-8")
    assert recall.markdown(*load(DOCS / name)) == text


def test_every_report_stands_beside_its_results():
    for report in DOCS.rglob("report.md"):
        (results,) = [
            report.with_name(n) for n in ("cells.json", "bench.json", "serve.json") if report.with_name(n).is_file()
        ]
        content = json.loads(results.read_text(encoding="utf-8"))
        assert content, results


def test_raw_runs_stay_out_of_the_tree():
    """Files per cell let runs resume; only cells.json is committed."""
    files = [path for path in DOCS.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert 50 < len(files) < 200
    assert not [path for path in files if path.name == "run.json"]
