"""The embedded corpus as a data set of mmsegmentation: which group does each pixel show?"""

from __future__ import annotations

import os
import tempfile
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

from webssl_toolbox.data.rng import sample_rng
from webssl_toolbox.data.sample import Dataset
from webssl_toolbox.registry import DATASETS as OURS

RENDER = 72  # pixels of the drawings, before they are placed


@DATASETS.register_module()
class EmojiScenes(BaseSegDataset):
    """Scenes of four drawings each: ten groups, and the ground between them.

    They are written below ``data_root`` when they are first asked for, as images and annotations
    in PNG, and are read by the usual steps of a pipeline.

    Args:
        split: whose drawings: ``train-drawings``, three designers, or one that they do not hold:
            ``noto-v1``, ``fluent-flat`` ... as of the data set ``Emoji`` of this toolbox.
        count: scenes.
        size: their side in pixels.
        data_root: the folder that holds, or will hold, all such sets.
        **kwargs: of mmsegmentation's ``BaseSegDataset``: ``pipeline``, ``indices`` ...
    """

    def __init__(
        self,
        split: str = "train-drawings",
        count: int = 2000,
        size: int = 96,
        data_root: str = "data/emoji_scenes",
        **kwargs: Any,
    ) -> None:
        drawings = {"type": "Emoji", "split": split, "size": RENDER, "target": "group"}
        scenes = {"type": "Scenes", "drawings": drawings, "count": count, "size": size}
        dataset: Dataset = OURS.create(scenes | {"name": split}, "dataset")
        folder = Path(data_root) / f"{split.replace('/', '-')}-{count}-{size}px"
        if not folder.is_dir():
            write_scenes(dataset, folder)
        super().__init__(
            img_suffix=".png",
            data_root=str(folder),
            data_prefix={"img_path": "images", "seg_map_path": "annotations"},
            metainfo={"classes": dataset.classes, "palette": palette(len(dataset.classes))},
            **kwargs,
        )


def write_scenes(dataset: Dataset, folder: Path) -> None:
    """Writes images and annotations of a data set; ``folder`` exists once it is complete.

    Ranks that come at once write all they need, and the first keeps its own.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        unfinished = Path(place) / folder.name
        (unfinished / "images").mkdir(parents=True)
        (unfinished / "annotations").mkdir()
        for i in range(len(dataset)):
            sample = dataset.load(i, sample_rng(0, 0, i))
            assert sample.image is not None and sample.label_map is not None
            Image.fromarray(sample.image).save(unfinished / f"images/{i:05d}.png")
            labels = Image.fromarray(sample.label_map.astype("uint8"))
            labels.save(unfinished / f"annotations/{i:05d}.png")
        try:
            os.replace(unfinished, folder)
        except OSError:
            if not folder.is_dir():
                raise


def palette(count: int) -> list[tuple[int, int, int]]:
    """Returns white for the ground, then hues that are by turns bright and dark."""
    shades = ((i / (count - 1), *((0.6, 1.0), (1.0, 0.6))[i % 2]) for i in range(count - 1))
    colours = [tuple(round(255 * value) for value in hsv_to_rgb(*shade)) for shade in shades]
    return [(255, 255, 255), *colours]  # type: ignore[list-item]
