"""The notebooks run, say how to install, and are kept without what they print."""

import json
import pathlib
import re
import sys

import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
# Elsewhere they would name somebody's machine.
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|var|usr|opt|mnt|work|content|Users)\b|[A-Z]:\\"
)

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    read = nbformat.read(path, as_version=4)
    return [cell for cell in read.cells if cell.cell_type == kind]


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == [
        "eight_workers", "error_feedback_explained", "quickstart",
    ]


@by_name
def test_is_kept_clean(path):
    read = nbformat.read(path, as_version=4)
    nbformat.validate(read)
    assert (read.nbformat, read.nbformat_minor) == (4, 5)
    assert read.metadata == {
        "kernelspec": {
            "display_name": "Python 3", "language": "python", "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    ids = [cell.id for cell in read.cells]
    assert len(ids) == len(set(ids))
    for cell in read.cells:
        assert not cell.metadata, cell.id
        assert not ABSOLUTE.search(cell.source), cell.id
        if cell.cell_type == "code":
            assert cell.outputs == [], cell.id
            assert cell.execution_count is None, cell.id
    # As Jupyter writes it, so that saving it there changes no other line.
    assert path.read_text() == json.dumps(
        json.loads(path.read_text()), indent=1, ensure_ascii=False, sort_keys=True
    ) + "\n"


@by_name
def test_names_what_exists(path):
    """Other notebooks by their names, sections by the links of the first cell."""
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    for name in re.findall(r"`(\w+\.ipynb)`", text):
        assert (FOLDER / name).exists(), name
    titles = set(re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE))
    links = re.findall(r"\]\(#([^)]*)\)", text)
    assert links
    for link in links:
        assert link.replace("-", " ") in titles, link


def test_first_code_cells_are_the_same():
    first = {cells(path, "code")[0].source for path in NOTEBOOKS}
    assert len(first) == 1
    assert 'REPO = ""' in first.pop()


def without_ef_optax(source):
    """Runs the first cell where ef_optax cannot be imported; returns what is asked."""
    asked = []

    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name == "ef_optax" and not asked:
                raise ModuleNotFoundError(name)

    hidden = Hidden()
    magic = re.compile(r"^( *)%pip (.*)$", flags=re.MULTILINE)
    code, count = magic.subn(r"\1asked.append(f'\2')", source)
    assert count == 1
    kept = {n: sys.modules.pop(n) for n in list(sys.modules)
            if n.partition(".")[0] == "ef_optax"}
    sys.meta_path.insert(0, hidden)
    try:
        exec(code, {"asked": asked})
    finally:
        sys.meta_path.remove(hidden)
        sys.modules.update(kept)
    return asked


@pytest.fixture
def first_cell():
    return cells(NOTEBOOKS[0], "code")[0].source


def test_first_cell_says_what_to_do(first_cell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="write into REPO"):
        without_ef_optax(first_cell)


def test_first_cell_installs_from_repo(first_cell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = first_cell.replace('REPO = ""', 'REPO = "git+https://a.example/b"')
    assert without_ef_optax(source) == [
        'install -q "ef_optax[experiments] @ git+https://a.example/b"'
    ]


def test_first_cell_installs_the_checkout(first_cell, monkeypatch):
    monkeypatch.chdir(FOLDER)
    root = FOLDER.parent.as_uri()
    assert without_ef_optax(first_cell) == [
        f'install -q "ef_optax[experiments] @ {root}"'
    ]


@pytest.mark.demos
@by_name
def test_runs(path, tmp_path, monkeypatch):
    """In a fresh kernel of this Python, in a directory of its own.

    What a notebook claims it asserts, so that a cell that fails is a claim that does.
    """
    from nbclient import NotebookClient

    # Another "python3" may be installed for this user; this one is found first.
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps(
        {"argv": launch, "display_name": "Python 3", "language": "python"}
    ))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    where = tmp_path / "where"
    where.mkdir()
    NotebookClient(
        nbformat.read(path, as_version=4), timeout=600, kernel_name="python3",
        resources={"metadata": {"path": str(where)}},
    ).execute()
    assert not list(where.iterdir())
