"""Pages: working links, complete descriptions of commands and public names, and numbers that match the results."""

import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

import sharedllm
from sharedllm.context.policies import POLICIES
from sharedllm.evaluation.recall.results import load
from sharedllm.evaluation.tasks import TASKS
from sharedllm.model.families import FAMILIES, REFUSED
from sharedllm.scoring import SCORES
from sharedllm.systems import SYSTEMS
from sharedllm.utils.extras import EXTRAS
from sharedllm.utils.extras import command as installs

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)\s#]+)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{page} links to {target}"


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1500


def test_every_public_name_is_in_the_reference():
    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE)
    assert sorted(name.rpartition(".")[2] for name in named) == sorted(
        n for n in sharedllm.__all__ if not n.startswith("__")
    )
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is getattr(sharedllm, attribute)


def built(page: str) -> str:
    """A page of the site, in Markdown."""
    spec = importlib.util.spec_from_file_location("make_pages", ROOT / "docs/make_pages.py")
    make_pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_pages)
    return make_pages.on_page_markdown((ROOT / page).read_text(encoding="utf-8"))


def test_families_are_those_of_the_table():
    page = built("docs/method.md")
    assert f"{len(FAMILIES)} can be extended" in page and all(f"`{name}`" in page for name in (*FAMILIES, *REFUSED))
    assert f"for [{len(FAMILIES)} model families]" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_system_task_score_and_policy_is_told_of():
    page = built("docs/systems.md")
    for name, system in SYSTEMS.items():
        assert system.page == f"docs/systems.md#{name}" and f"\n### {name}\n" in page
    assert all(f"| `{name}` | " in page for name in (*TASKS, *SCORES, *POLICIES))


def test_every_command_is_in_the_reference(run):
    page = built("docs/cli.md")
    listed = re.findall(
        r"^  ([a-z-]+) ", run("--help")[1].partition("Commands:\n")[2].partition("\n\n")[0], re.MULTILINE
    )
    assert len(listed) > 15
    for command in [*listed, "memory check"]:
        text = page.partition(f"## sharedllm {command}\n")[2].partition("\n## ")[0]
        assert f"Usage: sharedllm {command}" in text and "--help" in text, command


def test_every_extra_is_told_of():
    page = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    assert all(
        f"| {extra.about} |" in page and f"| `pip install '.[{name}]'` |" in page for name, extra in EXTRAS.items()
    )
    assert tables_of("docs/make_pages.py").made(ROOT / "docs/install.md") == page and installs("NAME") in page


def test_pages_install_the_package_in_the_one_way_that_works():
    """It is on no index: from the folder of the sources. What errors write adds an extra to an installed package."""
    for page in PAGES:
        for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
            assert not re.search(r"pip install ['\"]?sharedllm", line.replace(installs("NAME"), "")), f"{page}: {line}"


# Names of the README table's rows in the results; None: every budget gives the same.
ROWS = {
    "a question selects (`focus`)": ("focus", None),
    "the same text in the window, no memory": ("focus-text", None),
    "the paper's tree": ("tree", None),
    "BM25 into the same window, no memory": ("bm25-text", None),
    "BM25 into the base's window, no memory": ("window", None),
}


def test_figures_of_the_readme_are_those_of_the_results():
    """The table below `<!-- results: FOLDER … -->` has passkey / needle for each length; later folders add missing cells."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    folders, table = re.search(r"<!-- results: (.*?) -->\n((?:\|.*\n)+)", text).groups()
    cells = [load(ROOT / folder)[0] for folder in folders.split()]
    head, _, *rows = [[cell.strip(" *") for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    lengths = [int(cell.replace(",", "")) for cell in head[1:]]
    assert len(rows) == len(ROWS)
    for row in rows:
        policy, budget = ROWS[row[0]]
        for length, shown in zip(lengths, row[1:], strict=True):
            if shown == "–":  # not measured
                assert policy in ("focus-text", "bm25-text")
                continue
            assert shown in measured(cells, policy, budget, length), f"{row[0]}, {length}"


def tables_of(script: str):
    """A script that makes the tables of pages, and may import those beside it."""
    spec = importlib.util.spec_from_file_location("make_tables", ROOT / script)
    assert spec is not None and spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend((ROOT / script).parent)
        spec.loader.exec_module(tables)
    return tables


@pytest.mark.parametrize("page", ["README.md", "docs/real/README.md", "docs/real/choices.md", "docs/real/earlier.md"])
def test_tables_of_the_real_checkpoint_are_made_from_its_answers(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count("<!-- table: ") > 0
    assert tables_of("docs/real/make_tables.py").made(ROOT / page) == text


@pytest.mark.parametrize(
    ("page", "kind"),
    [
        ("docs/results.md", "bench"),
        ("docs/real/README.md", "bench"),
        ("docs/serving.md", "serve"),
        ("docs/paper.md", "tree"),
    ],
)
def test_tables_of_the_benchmark_are_made_from_its_results(page, kind):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text.count(f"<!-- {kind}") > 0
    assert tables_of("docs/bench/make_tables.py").made(ROOT / page) == text


def test_the_papers_ablations_stand_beside_our_results():
    text = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    assert text.count("<!-- ablations -->") == 1
    assert tables_of("docs/ablations/make_tables.py").made(ROOT / "docs/paper.md") == text


def test_tables_of_corpora_are_made_from_the_results():
    design = tables_of("docs/corpus/design.py")
    text = (ROOT / "docs/corpus.md").read_text(encoding="utf-8")
    assert text.count("<!-- design: ") == 6
    assert design.made(text, design.tables(json.loads(design.RESULTS.read_text()))) == text


def measured(cells, policy, budget, length) -> set[str]:
    """The values of the first folder with such cells, one per budget; all have to be equal."""
    for part in cells:
        found = {}
        for kind in ("passkey", "needle"):
            for (k, p, b), by_length in part.items():
                if (k, p) == (kind, policy) and budget in (None, b) and length in by_length:
                    right = by_length[length].right
                    found.setdefault(b, []).append((f"{sum(right) / len(right):.0%}", len(right)))
        if found and (policy == "tree" or min(n for pair in found.values() for _, n in pair) >= 100):
            texts = {" / ".join(share for share, _ in pair) for pair in found.values()}
            assert len(texts) == 1, f"{policy}: {texts}"
            return texts
    raise AssertionError(f"no results of {policy} at {length}")
