"""Data sets from the network: checksums, a progress bar, retries; kept in a cache."""

from __future__ import annotations

import os
import pathlib
import shutil
import tarfile
import tempfile
import zlib
from typing import Any, NamedTuple

from experiments._registry import StudyError

ENVIRONMENT = "EF_OPTAX_DATA"
RETRIES = 2

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz/",)


class File(NamedTuple):
    """A file on the network.

    Attributes:
      name: its name.
      md5: its checksum.
      mirrors: what to put before the name; tried one after the other.
    """

    name: str
    md5: str
    mirrors: tuple[str, ...]


MNIST_FILES = tuple(
    File(f"{name}-ubyte.gz", md5, MNIST_MIRRORS)
    for name, md5 in {
        "train-images-idx3": "f68b3c2dcbeaaa9fbdd348bbdee94873",
        "train-labels-idx1": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1": "ec29112dd5afa0611ce80d1b7f02629c",
    }.items()
)
# The binary files of CIFAR: of the two layouts the one that nobody interprets.
CIFAR_ARCHIVES = {
    "cifar-10-batches-bin": File(
        "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", CIFAR_MIRRORS
    ),
    "cifar-100-binary": File(
        "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", CIFAR_MIRRORS
    ),
}


def fetch_files(folder: str, files: tuple[File, ...], expected: str) -> pathlib.Path:
    """Returns a directory of the cache with all the files, whole.

    Args:
      folder: its name in the cache.
      files: what to fetch, unless it is there.
      expected: which files the user may bring instead.

    Raises:
      StudyError: if a file cannot be had.
    """
    directory = _cache(expected) / folder
    for file in files:
        _fetch(file, directory, expected)
    return directory


def fetch_archive(
    folder: str, archive: File, names: tuple[str, ...], expected: str
) -> pathlib.Path:
    """Returns the archive's folder, unpacked in the cache; the archive is not kept.

    Args:
      folder: in the archive and in the cache.
      archive: a tar file, compressed or not.
      names: the files that are wanted of it.
      expected: which files the user may bring instead.

    Raises:
      StudyError: if the archive cannot be had or unpacked.
    """
    cache = _cache(expected)
    target = cache / folder
    if target.is_dir():  # Moved there as a whole, so that it is whole.
        return target
    path = _fetch(archive, cache, expected)
    try:
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            unpacked = pathlib.Path(scratch) / folder
            unpacked.mkdir()
            with tarfile.open(path) as tar:
                for name in names:
                    _unpack(tar, f"{folder}/{name}", unpacked / name)
            if not target.is_dir():  # Perhaps another process was faster.
                unpacked.rename(target)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise StudyError(
            f"cannot unpack {path}: {error}. {_instead(expected)}"
        ) from error
    path.unlink(missing_ok=True)
    return target


def _unpack(tar: tarfile.TarFile, member: str, path: pathlib.Path) -> None:
    """Writes one file of the archive; its name and place are ours."""
    content = tar.extractfile(member)
    if content is None:
        raise KeyError(f"{member} is not a file")
    with content, path.open("wb") as out:
        shutil.copyfileobj(content, out)


def _fetch(file: File, directory: pathlib.Path, expected: str) -> pathlib.Path:
    """Returns the file, from its first mirror that has it whole."""
    pooch = _pooch(expected)
    failures = []
    for mirror in file.mirrors:
        fetcher = pooch.create(
            directory, mirror, registry={file.name: f"md5:{file.md5}"},
            retry_if_failed=RETRIES,
        )
        try:
            # The file is moved to its name after its checksum was found right.
            return pathlib.Path(fetcher.fetch(file.name, downloader=_download))
        # Those of requests, too, are errors of input and output.
        except (OSError, ValueError) as error:
            failures.append(f"{mirror}{file.name}: {error}")
    raise StudyError(f"cannot fetch {'; '.join(failures)}. {_instead(expected)}")


def _download(url: str, output: Any, fetcher: Any) -> None:
    """Downloads once, with a bar that is silent where nobody looks at it."""
    import pooch
    from tqdm import tqdm

    with tqdm(
        # The total, soon known, may not be 0: an empty bar counts as none.
        total=1, desc=url.rpartition("/")[2], unit="B", unit_scale=True, disable=None,
        leave=False, dynamic_ncols=True,
    ) as bar:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16)(url, output, fetcher)


def _cache(expected: str) -> pathlib.Path:
    """Returns where fetched files are kept."""
    given = os.environ.get(ENVIRONMENT)
    path = pathlib.Path(given or _pooch(expected).os_cache("ef_optax"))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(
            f"cannot keep data in {path}: {error}. Set {ENVIRONMENT} to another "
            f"directory. {_instead(expected)}"
        ) from error
    return path


def _pooch(expected: str) -> Any:
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise StudyError(
            "fetching data needs the package 'pooch', which is not installed: "
            f"pip install -e '.[experiments]'. {_instead(expected)}"
        ) from error
    return pooch


def _instead(expected: str) -> str:
    return f"Or give the files yourself by --data-dir DIR. {expected}"
