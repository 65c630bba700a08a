"""The drawings of the embedded corpus as pixels: rendered once, then memory-mapped."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import resvg_py
from rich.console import Console
from rich.progress import track

DATA = Path(__file__).with_name("emoji_data")

logger = logging.getLogger(__name__)


def read_data(name: str) -> Any:
    """Reads one ``.json.gz`` file of the corpus."""
    return json.loads(gzip.decompress((DATA / f"{name}.json.gz").read_bytes()))


def open_renders(designer: str, size: int, cache_dir: str | Path | None = None) -> np.ndarray:
    """Opens the drawings of one designer, rendering them if no process has done so before.

    The file is named by what its pixels depend on: source, renderer and size. Whoever holds the
    lock renders; the others wait for it and find the file.

    Args:
        designer: a set of drawings in the corpus.
        size: side of the square render, in pixels.
        cache_dir: where renders are kept; see ``cache_folder``.

    Returns:
        Read-only uint8 ``[drawings, size, size, 4]``: RGB and straight alpha, in the order of the
        concepts' code points.
    """
    source = (DATA / f"drawings-{designer}.json.gz").read_bytes()
    state = hashlib.blake2b(source + resvg_py.__resvg_version__.encode(), digest_size=8)
    name = f"emoji-{designer}-{size}-{state.hexdigest()}.npy"
    path = cache_folder(cache_dir) / name
    if not path.exists():
        path = writable(path.parent) / name
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                render_file(designer, size, path)
    return np.load(path, mmap_mode="r")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Returns the first that is set: ``cache_dir``, ``$WEBSSL_CACHE``, the user's cache folder."""
    folder = cache_dir or os.environ.get("WEBSSL_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) if folder else Path(home) / "webssl_toolbox"


def writable(folder: Path) -> Path:
    """Creates ``folder`` and returns it, or a temporary one where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        other = Path(tempfile.gettempdir()) / f"webssl_toolbox-{os.getuid()}"
        logger.warning("%s: renders go to %s; set WEBSSL_CACHE to keep them", error, other)
        other.mkdir(mode=0o700, exist_ok=True)
        return other


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock, which the system releases when the process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def render_file(designer: str, size: int, path: Path) -> None:
    """Renders all drawings of a designer to ``path``, which exists only once it is complete."""
    svgs = [svg for _, svg in sorted(read_data(f"drawings-{designer}").items())]
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        images = np.lib.format.open_memmap(
            unfinished, mode="w+", dtype=np.uint8, shape=(len(svgs), size, size, 4)
        )
        console = Console(stderr=True)
        for row, image in enumerate(
            track(
                render_all(svgs, size),
                description=f"rendering {designer} at {size} px, once",
                total=len(svgs),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        ):
            images[row] = image
        images.flush()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def render_all(svgs: list[str], size: int) -> Iterator[np.ndarray]:
    """Renders on all cores: resvg holds the interpreter lock, so threads would not help."""
    one = partial(render, size=size)
    if multiprocessing.current_process().daemon:  # a loader's worker may start no processes
        yield from map(one, svgs)
        return
    # Forked, so that scripts without a `__main__` guard work; the children touch no torch.
    with multiprocessing.get_context("fork").Pool() as pool:
        yield from pool.imap(one, svgs, chunksize=16)


def render(svg: str, size: int) -> np.ndarray:
    """Renders one square SVG.

    Returns:
        uint8 ``[size, size, 4]``, RGB and straight alpha.
    """
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    bgra = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert bgra is not None
    return cv2.cvtColor(bgra, cv2.COLOR_BGRA2RGBA)
