"""Which files of folders and globs are found, and in which order."""

import pytest

from sharedllm.documents import find
from sharedllm.documents.collection import Collection
from sharedllm.utils.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    files = (
        "docs/b.md docs/a.txt docs/sub/c.txt docs/sub/deep/d.txt docs/.hidden docs/.git/config docs/node_modules/x.js"
        " docs/build/out.txt docs/keep.log docs/drop.log docs/sub/own.tmp docs/env/pyvenv.cfg docs/env/lib.py"
        " docs/old.memory/manifest.json docs/__pycache__/a.pyc other.txt"
    )
    for name in files.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}\n")
    (tmp_path / "docs/.gitignore").write_text("*.log\n!keep.log\n/build/\n")
    (tmp_path / "docs/sub/.gitignore").write_text("*.tmp\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = ["docs/a.txt", "docs/b.md", "docs/keep.log", "docs/sub/c.txt", "docs/sub/deep/d.txt"]


@pytest.mark.parametrize("name", ["docs", "docs/", "./docs", "docs/../docs"])
def test_a_folder_in_a_stable_order_without_what_is_ignored(tree, name):
    found = find([name])
    assert (found.files, found.folders, found.named, found.unreadable) == (ALL, ["docs"], set(), [])


def test_other_names(tree, monkeypatch):
    assert find([str(tree / "docs")]).files == [str(tree / name) for name in ALL]
    assert find(["docs/sub", "other.txt", "docs"]).files == [*ALL[3:], "other.txt", *ALL[:3]]
    assert find(["other.txt", "-"]).named == {"other.txt", "-"}
    found = find(["docs/**/*.txt"], exclude=["deep"])
    assert (found.files, found.named) == (["docs/a.txt", "docs/build/out.txt", "docs/sub/c.txt"], set())
    # A folder or file that is named is read, whatever an ignore file says.
    assert find(["docs/build", "docs/drop.log"]).files == ["docs/build/out.txt", "docs/drop.log"]
    monkeypatch.chdir(tree / "docs")
    assert find(["."]).files == [name.removeprefix("docs/") for name in ALL]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["*.md"], ["docs/b.md"]),
        (["sub/"], ALL[3:]),
        (["sub/**/d.txt", "a.*"], [ALL[0], ALL[4]]),
        (["*", "!*.md"], None),
    ],
)
def test_exclude(tree, patterns, left):
    expected = ["docs/b.md"] if left is None else [name for name in ALL if name not in left]
    found = find(["docs"], exclude=[*patterns, "*.nothing", "!*.kept"])
    assert found.files == expected and found.unused == ["*.nothing"]


def test_owner_files_of_office_are_left_out(tree):
    for name in ("docs/~$deck.pptx", "docs/sub/~$a.docx"):
        (tree / name).write_bytes(b"\x03Ann" + bytes(160))
    assert find(["docs"]).files == ALL
    assert find(["docs/*"]).files == [*ALL[:2], "docs/drop.log", ALL[2]]
    found = find(["docs/~$deck.pptx"])
    assert (found.files, found.named) == (["docs/~$deck.pptx"], {"docs/~$deck.pptx"})


def test_nothing_to_read(tree):
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no file to read"):
        find(["empty"])
    with pytest.raises(UserError, match=r"docs holds no file to read.*what is excluded"):
        find(["docs"], exclude=["*"])
    with pytest.raises(UserError, match=r"missing\.txt does not exist"):
        find(["docs", "missing.txt"])


def test_links_and_pipes_in_a_folder(tree):
    import os

    (tree / "docs/link.txt").symlink_to(tree / "other.txt")
    (tree / "docs/lost.txt").symlink_to(tree / "nothing")
    (tree / "docs/round").symlink_to(tree / "docs")
    os.mkfifo(tree / "docs/pipe")
    found = find(["docs"])
    assert found.files == [*ALL[:3], "docs/link.txt", *ALL[3:]]
    no_file = [("docs/lost.txt", "it is a link to nothing"), ("docs/pipe", "it is a pipe or a device, not a file")]
    assert found.unreadable == no_file


def test_files_that_can_not_be_read_are_collected(tree):
    (tree / "docs/x.bin").write_bytes(bytes(10))
    (tree / "docs/z.txt").write_text("")
    collection = Collection(find(["docs"]), {})
    assert collection.begin()
    assert [opened.path for opened in collection.rest()] == ALL
    assert [path for path, _ in collection.unreadable] == ["docs/x.bin", "docs/z.txt"]
    for named in (["docs/x.bin"], ["docs", "docs/x.bin"]):
        with pytest.raises(UserError, match=r"docs/x\.bin is of a kind"):
            Collection(find(named), {}).check()


def test_a_folder_without_a_readable_file(tree):
    (tree / "only").mkdir()
    for name in ("a.bin", "b.bin"):
        (tree / "only" / name).write_bytes(bytes(10))
    with pytest.raises(
        UserError, match=r"only holds no file that can be read: only/a\.bin is of a kind.* 1 more can't"
    ):
        Collection(find(["only"]), {}).begin()


def test_patterns_that_are_none(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / ".gitignore").write_text("!\nb.txt\n")
    assert find([str(tmp_path)]).files == [str(tmp_path / "a.txt")]
    with pytest.raises(UserError, match="exclude='!' is no pattern"):
        find([str(tmp_path)], ["!"])
    (tmp_path / ".gitignore").unlink()
    (tmp_path / ".gitignore").symlink_to("nowhere")
    assert len(find([str(tmp_path)]).files) == 2


def test_a_file_has_one_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    assert find(["./a.txt", "a.txt", "b/../a.txt" if (tmp_path / "b").mkdir() is None else ""]).files == ["a.txt"]


def test_a_memory_or_corpus_is_no_folder_of_documents(tree):
    for name in ("kept/manifest.json", "kept/blocks/a.memory", "docs/c/corpus.json", "docs/c/parts/a.json"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("{}")
    assert find(["docs"]).files == ALL
    for name, said in [
        ("kept", r"kept is a memory, .* `sharedllm memory merge`"),
        ("docs/old.memory", r"docs/old\.memory is a memory"),
        ("docs/c/", "docs/c is a corpus, not a document: ask it with `sharedllm ask`, or read its"),
    ]:
        with pytest.raises(UserError, match=said):
            find(["other.txt", name])
