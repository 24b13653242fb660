"""Data sets from a server on this host: whole files, and every way to fail."""

import gzip
import hashlib
import http.server
import io
import pathlib
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
from test_data import idx
from test_data_cifar import batches, synthetic

from experiments import _cli, data
from experiments._registry import StudyError
from experiments.data import _fetch

ROOT = pathlib.Path(__file__).parent.parent


class Server:
    """Serves files from memory, and notes what is asked for."""

    def __init__(self):
        self.files, self.asked = {}, []
        self.cut = False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                outer.asked.append(name)
                content = outer.files.get(name)
                self.send_response(200 if content is not None else 404)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                half = len(content or b"") // 2
                self.wfile.write((content or b"")[: half if outer.cut else None])

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch, tmp_path):
    server = Server()
    monkeypatch.setenv(_fetch.ENVIRONMENT, str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(_fetch, "RETRIES", 0)
    yield server
    server.http.shutdown()
    server.http.server_close()


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def mnist(server, monkeypatch):
    """MNIST on the server; returns its images."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 5, 4)), np.arange(12) % 10
    for file in _fetch.MNIST_FILES:
        array = images if "images" in file.name else labels
        server.files[file.name] = gzip.compress(idx(array))
    files = tuple(
        file._replace(md5=md5(server.files[file.name]), mirrors=(server.url,))
        for file in _fetch.MNIST_FILES
    )
    monkeypatch.setattr(_fetch, "MNIST_FILES", files)
    return images


@pytest.fixture
def cifar(server, monkeypatch):
    """CIFAR-10 on the server; returns a function that packs and offers it."""

    def offer(wanted=lambda name: True):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for file, x, y in batches("cifar10", *synthetic("cifar10")):
                name = f"cifar-10-batches-bin/{file}.bin"
                if wanted(name):
                    content = np.hstack([y[:, None], x]).tobytes()
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            outside = tarfile.TarInfo("../outside")
            tar.addfile(outside)
        name = "cifar-10-binary.tar.gz"
        server.files[name] = packed.getvalue()
        archive = _fetch.File(name, md5(packed.getvalue()), (server.url,))
        monkeypatch.setitem(_fetch.CIFAR_ARCHIVES, "cifar-10-batches-bin", archive)

    return offer


def load_cifar():
    return data.load_cifar("cifar10", None, examples=(10, 4))


def test_mnist_is_fetched_once(server, mnist, tmp_path, capfd):
    loaded = data.load("mnist", None, split_seed=0)
    np.testing.assert_array_equal(loaded.x_test, mnist.reshape(12, 20))
    assert sorted(server.asked) == sorted(server.files)
    data.load("mnist", None, split_seed=0)
    assert len(server.asked) == 4
    assert len(list((tmp_path / "cache" / "mnist").iterdir())) == 4
    assert "%" not in capfd.readouterr().err  # no bar where nobody looks


def test_a_damaged_file_in_the_cache_is_fetched_anew(server, mnist, tmp_path):
    data.load_mnist(None)
    path = tmp_path / "cache" / "mnist" / _fetch.MNIST_FILES[0].name
    path.write_bytes(path.read_bytes()[:-1])
    data.load_mnist(None)
    assert server.asked[4:] == [path.name]


def test_the_next_mirror_serves_what_the_first_does_not_have(
    server, mnist, monkeypatch
):
    files = [f._replace(mirrors=(server.url + "no/", server.url))
             for f in _fetch.MNIST_FILES]
    monkeypatch.setattr(_fetch, "MNIST_FILES", tuple(files))
    assert len(data.load_mnist(None).x_test) == 12
    assert server.asked[:2] == ["no/" + files[0].name, files[0].name]


def not_there(server):
    server.files.clear()


def another(server):
    for name in server.files:
        server.files[name] += b"0"


def cut(server):
    server.cut = True


def gone(server):
    server.http.shutdown()
    server.http.server_close()


@pytest.mark.parametrize(
    ("failure", "message"),
    [(not_there, "404"), (another, "does not match the known hash"),
     (cut, "cannot fetch"), (gone, "refused")],
)
def test_what_cannot_be_fetched_names_the_option(
    failure, message, server, mnist, tmp_path, capsys
):
    failure(server)
    results = ["--results", str(tmp_path / "results")]
    assert _cli.main(["quickstart", "--data", "mnist", *results]) == 2
    error = capsys.readouterr().err
    assert message in error and "--data-dir DIR" in error
    assert server.url + "train-images-idx3-ubyte.gz" in error
    # Nothing half done is left to be taken for a file.
    assert not list((tmp_path / "cache").rglob("*ubyte*"))


def test_failures_are_tried_again(server, mnist, monkeypatch):
    monkeypatch.setattr(_fetch, "RETRIES", 1)
    server.cut = True
    monkeypatch.setattr("time.sleep", lambda seconds: setattr(server, "cut", False))
    assert len(data.load_mnist(None).x_test) == 12
    assert len(server.asked) == 5


def test_cifar_is_fetched_unpacked_and_kept(server, cifar, tmp_path):
    cifar()
    loaded = load_cifar()
    np.testing.assert_array_equal(
        np.append(loaded.y_train, loaded.y_test), synthetic("cifar10")[1]
    )
    load_cifar()
    assert server.asked == ["cifar-10-binary.tar.gz"]
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    # Nothing but the files that are read, wherever the archive wants others.
    cifar10 = data.CIFAR["cifar10"]
    assert kept == {f"{name}.bin" for name in (*cifar10.train, cifar10.test)}


def test_an_archive_without_a_file_leaves_nothing(server, cifar, tmp_path):
    cifar(lambda name: "test" not in name)
    with pytest.raises(StudyError, match=r"cannot unpack .*test_batch.bin.*--data-dir"):
        load_cifar()
    assert not (tmp_path / "cache" / "cifar-10-batches-bin").exists()


def test_what_is_no_archive_is_refused(server, cifar, monkeypatch):
    cifar()
    name = "cifar-10-binary.tar.gz"
    server.files[name] = b"<html>"
    archive = _fetch.CIFAR_ARCHIVES["cifar-10-batches-bin"]
    monkeypatch.setitem(_fetch.CIFAR_ARCHIVES, "cifar-10-batches-bin",
                        archive._replace(md5=md5(b"<html>")))
    with pytest.raises(StudyError, match="cannot unpack"):
        load_cifar()


def test_a_cache_that_cannot_be_made_says_so(monkeypatch):
    monkeypatch.setenv(_fetch.ENVIRONMENT, __file__)
    with pytest.raises(StudyError, match="Set EF_OPTAX_DATA to another"):
        data.load_mnist(None)


def test_pooch_is_needed_only_to_fetch(monkeypatch, tmp_path):
    code = ("import sys; from experiments import data; data.load('digits', None, 0); "
            "print(sorted({'pooch', 'requests', 'tqdm'} & set(sys.modules)))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                         check=True, timeout=60, cwd=ROOT)
    assert out.stdout.strip() == "[]"
    monkeypatch.setenv(_fetch.ENVIRONMENT, str(tmp_path))
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(StudyError, match=r"needs the package 'pooch'.*--data-dir"):
        data.load_mnist(None)


def test_the_progress_bar_counts_bytes(server, mnist, monkeypatch):
    import tqdm

    bars = []

    class Bar(tqdm.tqdm):
        def __init__(self, **how):
            super().__init__(**{**how, "disable": False, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    data.load_mnist(None)
    assert [(bar.n, bar.desc.strip(": ")) for bar in bars] == [
        (len(content), name) for name, content in server.files.items()]


def test_what_is_fetched_is_what_is_read():
    assert set(_fetch.CIFAR_ARCHIVES) == {c.binary for c in data.CIFAR.values()}
    assert {f.name for f in _fetch.MNIST_FILES} == {
        f"{name}.gz" for name in data.MNIST.values()}
