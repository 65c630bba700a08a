"""Reading an image file, whatever the web or a camera made of it."""

from __future__ import annotations

import os
import struct
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from .sample import UnreadableSample

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_PIXELS = 178_000_000  # a larger header is a decompression bomb, or no image to train on

# The container decides, not the suffix: the web serves GIFs and BMPs named .jpg.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_EXIF_ORIENTATION = 0x0112

# What Pillow's parsers let through on broken bytes. An unidentified file is an OSError, a broken
# PNG a SyntaxError.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    cv2.error,
    Image.DecompressionBombError,
)


def read_image(source: str | os.PathLike[str] | bytes, name: str | None = None) -> np.ndarray:
    """Decodes an image upright, in 8 bits.

    Gray and palette images become RGB; an alpha channel is kept; the EXIF orientation of a camera
    is applied; of an animation the first frame is taken.

    Args:
        source: a path, or the bytes of a file.
        name: what errors call the image; the path by default.

    Returns:
        uint8 ``[H, W, 3]`` RGB or ``[H, W, 4]`` RGBA, contiguous.

    Raises:
        UnreadableSample: no such file, not an image, a broken one, or more than ``MAX_PIXELS``.
    """
    if isinstance(source, bytes):
        data, name = source, name or "image bytes"
    else:
        name = name or os.fspath(source)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            kind = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
            raise UnreadableSample(f"{name}: cannot be read ({error.strerror})", kind) from error
    if not data:
        raise UnreadableSample(f"{name}: the file is empty", "empty")
    if (pixels := _usual_jpeg(data)) is not None:
        return pixels
    try:
        # Reads the header alone; some 20 microseconds against milliseconds for the pixels.
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnreadableSample(
                    f"{name}: {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}",
                    "too many pixels",
                )
            pixels = _decode(data, image)
            return np.ascontiguousarray(_upright(pixels, image))
    except UnreadableSample:
        raise
    except _DECODE_ERRORS as error:
        reason = f"cannot be decoded ({str(error).partition(', could be')[0]})"
        if isinstance(error, UnidentifiedImageError):
            reason = f"not an image, it starts with {data[:16]!r}"
        raise UnreadableSample(f"{name}: {reason}", _kind(data, error)) from error


def _kind(data: bytes, error: Exception) -> str:
    """Tells a file that was cut off from one that is broken and from one that is no image."""
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    shorter = data.startswith(b"RIFF") and len(data) < 8 + int.from_bytes(data[4:8], "little")
    if shorter or "runcated" in str(error):
        return "truncated"
    return "not an image" if isinstance(error, UnidentifiedImageError) else "broken"


def _usual_jpeg(data: bytes) -> np.ndarray | None:
    """Decodes what most files are, a JPEG in YCbCr without a camera's note; None for all else.

    Pillow's look at the header would cost a twentieth of the decoding, and so would a search for
    the note beyond the start of the scan, which is the bulk of the file.
    """
    if not data.startswith(b"\xff\xd8") or b"Exif\0\0" in data[: data.find(b"\xff\xda")]:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        if colorspace != "YCbCr" or height * width > MAX_PIXELS:
            return None
        return simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None


def _decode(data: bytes, image: Image.Image) -> np.ndarray:
    """Decodes with the fast library of the format, and with Pillow what that one refuses."""
    if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
        try:
            return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:
            pass  # it also refuses what is only unusual: Pillow tells that from broken
    elif image.format in ("PNG", "WEBP"):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is not None:
            return _rgb(pixels)
        if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to white, not scale
            return _rgb(np.asarray(image).astype(np.uint16))
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """Turns what OpenCV decoded (gray, BGR or BGRA in 8 or 16 bits) into RGB or RGBA in 8 bits."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.ndim == 2:
        return cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
    if pixels.shape[2] == 4:
        return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Undoes the rotation or mirroring that a camera noted in the file (EXIF 2.3, tag 274)."""
    if "exif" not in image.info:
        return pixels
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _DECODE_ERRORS:
        return pixels  # a broken note is no reason to lose the picture
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
