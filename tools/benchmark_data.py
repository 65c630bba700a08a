"""Images per second of one core for two full self-supervised views of each JPEG file.

    python tools/benchmark_data.py [--images 64] [--rounds 7]

Compares, alternated in one run, for RandomResizedCrop(224), colour jitter, grayscale, blur, flip
and normalisation (MoCo v2's recipe):

* **Pillow**: decode once, then torchvision's transforms on Pillow images, twice. Without
  torchvision, the same Pillow calls that it makes (``pip install --no-deps torchvision==0.28.0``
  measures torchvision itself);
* **here, all on the CPU**: decode, two uint8 crops, and colour and blur in batches of 64;
* **here, the worker's share**: decode, crops, draws and collation, the rest is left to the device.

Ratios are medians over rounds; absolute figures move with the load of the machine.
"""

from __future__ import annotations

import argparse
import io
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from webssl_toolbox.compat import keep_freed_memory
from webssl_toolbox.data.collate import collate
from webssl_toolbox.data.image import read_image
from webssl_toolbox.data.sample import Sample
from webssl_toolbox.data.views import Context, Views

LIBRARIES: list[Any] = []  # operators live as long as their library
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def write_images(folder: Path, count: int) -> list[Path]:
    """Writes synthetic photographs of 256 to 500 pixels, about 58 kB each: texture and edges."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        height, width = rng.integers(256, 376), rng.integers(376, 501)
        pixels = np.zeros((height, width, 3), dtype=np.float32)
        for cells in (3, 6, 12, 24, 48, 96, 192):
            noise = rng.normal(0, cells**-0.8, (cells, cells, 3)).astype(np.float32)
            cv2.accumulate(cv2.resize(noise, (int(width), int(height))), pixels)
        for _ in range(12):
            corner = rng.integers(0, 300, 2)
            box = (*corner.tolist(), *rng.integers(20, 200, 2).tolist())
            cv2.rectangle(pixels, box, rng.normal(0, 0.5, 3).tolist(), -1)
        pixels += rng.normal(0, 0.05, pixels.shape)
        pixels = 128 + 70 * pixels / pixels.std()
        path = folder / f"{i:04d}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=93)
        paths.append(path)
    return paths


def pillow_view(picture: Image.Image) -> Tensor:
    """What torchvision's transforms do to a Pillow image, call by call."""
    width, height = picture.size
    for _ in range(10):
        area = width * height * random.uniform(0.2, 1)
        aspect = exp(random.uniform(log(3 / 4), log(4 / 3)))
        w, h = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if w <= width and h <= height:
            break
    left, top = random.randint(0, max(0, width - w)), random.randint(0, max(0, height - h))
    view = picture.crop((left, top, left + w, top + h)).resize(
        (224, 224), Image.Resampling.BILINEAR
    )
    if random.random() < 0.8:
        for operation in random.sample(range(4), 4):
            if operation < 3:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
                view = enhance[operation](view).enhance(random.uniform(0.6, 1.4))
            else:
                hue, saturation, value = view.convert("HSV").split()
                shift = np.uint8(int(random.uniform(-0.1, 0.1) * 255) % 256)
                hue = Image.fromarray(np.array(hue, dtype=np.uint8) + shift, "L")
                view = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    if random.random() < 0.2:
        view = Image.merge("RGB", [view.convert("L")] * 3)
    if random.random() < 0.5:
        view = view.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2)))
    if random.random() < 0.5:
        view = ImageOps.mirror(view)
    tensor = torch.from_numpy(np.array(view)).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return tensor.sub_(mean).div_(std)


def torchvision_view() -> Callable[[Image.Image], Tensor] | None:
    """Returns torchvision's own transform, or None where torchvision is not installed."""
    try:
        declare_missing_operators()
        from torchvision import transforms as T
    except ImportError:
        return None
    return T.Compose(
        [
            T.RandomResizedCrop(224, scale=(0.2, 1.0)),
            T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            T.RandomGrayscale(0.2),
            T.RandomApply([moco_blur], p=0.5),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )


def declare_missing_operators() -> None:
    """Lets torchvision's wheel, linked to CUDA, be imported beside a CPU build of torch."""
    if torch.version.cuda is None:
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)


def moco_blur(picture: Image.Image) -> Image.Image:
    """MoCo v2's blur, which is Pillow's."""
    return picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2)))


def pillow_round(files: Sequence[bytes], view: Callable[[Image.Image], Tensor]) -> list[Tensor]:
    """Decodes once, transforms twice, stacks."""
    pairs = []
    for file in files:
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        pairs.append((view(picture), view(picture)))
    return [torch.stack(views) for views in zip(*pairs, strict=True)]


RECIPE = [
    dict(type="RandomResizedCrop", size=224, scale=(0.2, 1)),
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.8),
    dict(type="Grayscale", prob=0.2),
    dict(type="GaussianBlur", sigma=(0.1, 2), prob=0.5),
    dict(type="Normalize", mean="imagenet"),
]


def work(files: Sequence[bytes], views: Views, epoch: int) -> dict[str, Tensor]:
    """Does the worker's share: decodes once, cuts two crops, draws parameters, collates."""
    samples = (Sample(read_image(file)) for file in files)
    return collate([views.draw(sample, 0, epoch, i) for i, sample in enumerate(samples)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()  # as each worker does; Pillow profits, too
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), args.images)
        files = [path.read_bytes() for path in paths]
    views = Views({"v1": RECIPE, "v2": RECIPE}, ("v1", "v2"), Context({}))
    epochs = itertools.count()
    candidates: dict[str, Callable[[], object]] = {
        "Pillow": lambda: pillow_round(files, pillow_view),
        "here, all on the CPU": lambda: views.finish(work(files, views, next(epochs))),
        "here, the worker's share": lambda: work(files, views, next(epochs)),
    }
    baseline = "Pillow"
    if torchvision := torchvision_view():
        baseline = "torchvision on Pillow"
        candidates[baseline] = lambda: pillow_round(files, torchvision)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(args.rounds + 1):
        for name, run in candidates.items():
            start = time.process_time()
            run()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - start)
    size = sum(map(len, files)) / len(files) / 1000
    print(f"{args.images} JPEG files of {size:.0f} kB, one thread, {args.rounds} rounds\n")
    print(f"| two views of 224 pixels | images/s/core | times {baseline} | range |")
    print("|---|---:|---:|---|")
    for name, times in seconds.items():
        ratios = [p / t for p, t in zip(seconds[baseline], times, strict=True)]
        print(
            f"| {name} | {args.images / statistics.median(times):.0f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f}-{max(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
