"""Image-text data of one's own, small: what the commands in the documents train on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image


def write_own_data(folder: Path) -> None:
    """Writes the same pairs in each form: a folder, a CSV, and as COCO and YFCC15M are published.

    ``photo.jpg`` is one of the images.
    """
    pairs = []
    for name in ("cat", "dog"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(i).integers(0, 256, (48, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{name}/{i}.jpg")
            (folder / f"images/{name}/{i}.txt").write_text(f"a {name}\nnumber {i}\n")
            pairs.append((f"{name}/{i}.jpg", f"a {name} with number {i}"))
    shutil.copy(folder / "images/cat/0.jpg", folder / "photo.jpg")
    for place in ("coco/train2017", "yfcc15m/images"):
        shutil.copytree(folder / "images", folder / place)

    rows = "".join(f"{path},{text}\n" for path, text in pairs)
    (folder / "pairs.csv").write_text(f"image,caption\n{rows}")
    images = [{"id": i, "file_name": path} for i, (path, _) in enumerate(pairs)]
    captions = [{"image_id": i, "caption": text} for i, (_, text) in enumerate(pairs)]
    (folder / "coco/annotations").mkdir()
    (folder / "coco/annotations/captions_train2017.json").write_text(
        json.dumps({"images": images, "annotations": captions * 5})
    )
    (folder / "yfcc15m/yfcc15m_clean_open_data.json").write_text(
        "\n".join(json.dumps({"filename": path, "caption": text}) for path, text in pairs)
    )
