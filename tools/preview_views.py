"""Draws what each view looks like to the model: rows are samples, columns are views.

``python tools/preview_views.py configs/declip_r50_laptop.py --out preview.png``

They are the first samples of the first batch, with the very crops, colours and hidden words of
training; only the normalisation is undone. The towers are built without weights.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from _arguments import add_cfg_options
from _sheet import (
    AMBER,
    CELL,
    GAP,
    GREEN,
    STRIPE,
    TEXT,
    Column,
    draw_sheet,
    fit,
    on_checkerboard,
)
from _terminal import fail
from PIL import Image
from torch import Tensor

from webssl_plugins.evaluators._lettering import FAINT, Fonts, Page, Span
from webssl_toolbox.data import loader
from webssl_toolbox.data.sample import Dataset, Sample
from webssl_toolbox.data.views import Context, Pipeline, Views
from webssl_toolbox.engine.config import load_config
from webssl_toolbox.engine.dry_run import build_on_meta
from webssl_toolbox.engine.settings import settings_from
from webssl_toolbox.registry import DATASETS, VIEWS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", help="a Python config, such as configs/declip_r50_laptop.py")
    parser.add_argument("--out", default="preview.png", metavar="FILE", help="where to write")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="rows (default: 8)")
    parser.add_argument("--font", metavar="FILE", help="a TrueType font for other scripts")
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    args = parse()
    try:
        sheet = preview(load_config(args.config, args.cfg_options), args.samples, Fonts(args.font))
        sheet.save(args.out)
    except (ValueError, OSError) as error:
        fail(error)
    print(f"{args.out}: {sheet.width} x {sheet.height} pixels")


def preview(cfg: dict[str, Any], count: int, fonts: Fonts) -> Image.Image:
    """Draws the views of the first ``count`` samples."""
    if count < 1:
        raise ValueError(f"--samples {count}: give at least 1")
    settings = settings_from(cfg)
    model = build_on_meta(settings.model)  # views ask the towers for sizes and tokenizers alone
    data = settings.train_dataloader
    dataset = Recorded(DATASETS.create(data.dataset, "train_dataloader.dataset"))
    if hasattr(dataset.dataset, "prepare"):
        dataset.dataset.prepare()
    context = Context(dict(model.towers.items()), dataset.dataset)
    views = Views(data.views, model.needed_inputs(), context)
    count = min(count, len(dataset))
    batch = next(loader.batches(dataset, views, count, settings.seed))
    note = f"{data.dataset['type']}: {len(dataset):,} samples\nas decoded, with all captions"
    first = Column("sample", note, originals(dataset.samples, batch["unreadable"].tolist(), fonts))
    return draw_sheet([first, *view_columns(model, views, batch, fonts)], fonts)


class Recorded:
    """A dataset that remembers what was loaded from it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.samples: list[Sample] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int, rng: np.random.Generator) -> Sample:
        self.samples.append(self.dataset.load(index, rng))
        return self.samples[-1]


# -- columns -----------------------------------------------------------------------------------


def originals(
    samples: Sequence[Sample], replaced: Sequence[int], fonts: Fonts
) -> list[Image.Image]:
    """Draws each image as it was decoded, beside its captions, numbered as ``Caption`` picks."""
    cells = []
    for sample, tries in zip(samples, replaced, strict=True):
        cell = Image.new("RGB", (CELL + GAP + TEXT, CELL), "white")
        if sample.image is not None:
            thumb = on_checkerboard(fit(Image.fromarray(sample.image)))
            cell.paste(thumb, ((CELL - thumb.width) // 2, (CELL - thumb.height) // 2))
        page = Page(cell, CELL + GAP, fonts)
        for i, caption in enumerate(sample.captions):
            most = max(1, 10 // len(sample.captions))
            words = re.findall(r"\s*\S+", caption[:2000])
            page.write([Span(f"{i}  ", FAINT), *map(Span, words)], most)
        page.foot(f"in place of {tries} unreadable: {sample.key}" if tries else sample.key)
        cells.append(cell)
    return cells


def view_columns(
    model: Any, views: Views, batch: dict[str, Tensor], fonts: Fonts
) -> Iterator[Column]:
    """Yields a column for each input of a tower: a view, whole or with some of its patches."""
    inputs = views.finish(batch)
    order = list(views.pipelines)
    parts = {
        (order.index(view), keep or "", mask or ""): model.towers[tower]
        for tower, needs in model.plan.items()
        for need in needs
        for view, keep, mask in need.parts
    }
    for (place, keep, mask), tower in sorted(parts.items(), key=lambda part: part[0]):
        view = order[place]
        rows = range(len(inputs[view]))
        if f"{view}.length" in inputs:
            tokenizer = next(t.tokenizer for t in (tower, *model.towers.values()) if t.tokenizer)
            cells = [text_cell(*tokens(inputs, view, i), tokenizer, fonts) for i in rows]
            note = "as tokens"
            note += "\namber: hidden, to be predicted" if f"{view}.index" in inputs else ""
        else:
            images = displayed(views.pipelines[view], inputs[view], batch)
            side = images.shape[1]
            gone = torch.zeros(len(rows), tower.num_patches(side) if keep or mask else 1).bool()
            if keep:
                gone = ~gone.scatter(1, inputs[keep], True)
            masked = inputs[mask] if mask else torch.zeros_like(gone)
            cells = [image_cell(images[i], gone[i].numpy(), masked[i].numpy()) for i in rows]
            note = f"{side} x {side} pixels"
            note += f"\nfaded: left out by {keep}" if keep else ""
            note += f"\nstriped: masked by {mask}" if mask else ""
        yield Column(view, note, cells)


# -- images ------------------------------------------------------------------------------------


def displayed(pipeline: Pipeline, images: Tensor, batch: Mapping[str, Tensor]) -> np.ndarray:
    """Undoes the normalisation; maps float ``[B, 3, H, W]`` to uint8 ``[B, H, W, 3]``."""
    for i, step in reversed(list(enumerate(pipeline.device))):
        if not isinstance(step, VIEWS.get("Normalize")):
            break
        params = batch[f"{pipeline.name}@{i}"][:, :, None, None]
        images = (images - params[:, :3]) / params[:, 3:]
    return (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def image_cell(pixels: np.ndarray, gone: np.ndarray, masked: np.ndarray) -> Image.Image:
    """Draws uint8 ``[S, S, 3]``; ``gone`` and ``masked`` are bool ``[N]``, of its patches."""
    image = np.array(fit(Image.fromarray(pixels)))
    at = np.arange(len(image))
    grid = round(len(gone) ** 0.5)
    patch_of = (at * grid // len(at))[:, None] * grid + at * grid // len(at)  # [side, side]
    faded, stripes = 198 + image // 8, (at[:, None] + at)[..., None] % 8 < 3
    image = np.where(masked[patch_of][..., None], np.where(stripes, STRIPE, faded), image)
    image = np.where(gone[patch_of][..., None], faded, image)
    return Image.fromarray(image.astype(np.uint8))


# -- text --------------------------------------------------------------------------------------


def tokens(inputs: Mapping[str, Tensor], view: str, i: int) -> tuple[list[int], dict[int, int]]:
    """Returns the ids of sample i, and the true ids at its hidden positions."""
    longest, length = inputs[view].shape[1], int(inputs[f"{view}.length"][i])
    hidden = {}
    if f"{view}.index" in inputs:
        pairs = zip(
            inputs[f"{view}.index"].tolist(), inputs[f"{view}.target"].tolist(), strict=True
        )
        hidden = {at - i * longest: target for at, target in pairs if at // longest == i}
    return inputs[view][i, :length].tolist(), hidden


def text_cell(
    ids: Sequence[int], hidden: Mapping[int, int], tokenizer: Any, fonts: Fonts
) -> Image.Image:
    """Writes the tokens as the model reads them, then what it must predict."""
    cell = Image.new("RGB", (TEXT, CELL), "white")
    page = Page(cell, 0, fonts)
    spans = [
        Span(piece, ground=AMBER if at in hidden else None)
        for at, piece in enumerate(pieces(ids, tokenizer))
    ]
    page.write(spans, most=7 if hidden else 10)
    if hidden:
        targets = (tokenizer.decode([target]) for target in hidden.values())
        told = [Span(f" {word}", GREEN) for word in targets]
        page.write([Span("predict:", FAINT), *told], most=3)
    page.foot(f"{len(ids)} tokens")
    return cell


def pieces(ids: Sequence[int], tokenizer: Any) -> Iterator[str]:
    """Yields what each id adds to the text, with the space before it; a byte may add nothing."""
    text = ""
    for end in range(1, len(ids) + 1):
        longer = tokenizer.decode(ids[:end]).rstrip("\ufffd")  # the first bytes of a character
        piece = longer[len(text) :]
        text = longer
        if ids[end - 1] == getattr(tokenizer, "mask", None):
            piece = " " * piece.startswith(" ") + "[mask]"
        yield piece


if __name__ == "__main__":
    main()
