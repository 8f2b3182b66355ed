"""The notebook: its cells run, and print what is stored; the page of the site shows both."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def maker():
    spec = importlib.util.spec_from_file_location("make_notebook", DOCS / "make_notebook.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.mark.slow
def test_cells_print_what_is_stored(maker, tmp_path, monkeypatch):
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    monkeypatch.chdir(tmp_path)
    notebook = maker.load()
    cells = maker.code_cells(notebook)
    printed = maker.outputs(notebook)
    assert len(cells) > 5
    for number, (cell, text) in enumerate(zip(cells, printed, strict=True), 1):
        assert text == maker.stored(cell), f"cell {number}: run python docs/make_notebook.py"
        assert cell["execution_count"] == number


def test_the_notebook_opens_elsewhere(maker):
    """What the format (nbformat 4.5) asks of every cell."""
    notebook = maker.load()
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        fields = {"cell_type", "id", "metadata", "source"}
        assert cell.keys() == fields | ({"execution_count", "outputs"} if cell["cell_type"] == "code" else set())
        for output in cell.get("outputs", []):
            assert output.keys() == {"name", "output_type", "text"} and output["output_type"] == "stream"


def test_the_page_shows_code_and_output(maker):
    page = maker.markdown(maker.load())
    for cell in maker.code_cells(maker.load()):
        assert "".join(cell["source"]) in page and maker.stored(cell).strip() in page
