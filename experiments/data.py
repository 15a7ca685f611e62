"""Images that need no download: scikit-learn's digits, and characters that are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PARTS = ("training", "validation", "test")
_SYMBOLS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_FONTS = ("DejaVu*.ttf", "STIXGeneral*.ttf", "cmr10.ttf", "cmss10.ttf", "cmtt10.ttf", "cmb10.ttf")
_SIZE = 32


@dataclass(frozen=True)
class Images:
    """Images (N, channels, height, width) float32 in [0, 1] and labels (N,) int64."""

    images: Tensor
    labels: Tensor


Parts = dict[str, Images]


def digits() -> Parts:
    """Return the digits as training, validation and test set: 1197, 240 and 360 of 8x8 pixels.

    In the order of the file, which keeps most writers in one part: accuracies are those on
    writers that were not trained on.
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.from_numpy(source.images.astype(np.float32) / 16)[:, None]
    labels = torch.from_numpy(source.target.astype(np.int64))
    return _parted(images, labels, validation=240, test=360)


def characters(number: int = 62_000, seed: int = 0) -> Parts:
    """Return drawn letters and digits: 62 classes, 32x32 pixels, three colours.

    In the fonts that matplotlib brings along, turned, sheared, scaled, moved, blurred, in two
    colours, with noise. A tenth is the validation set, another the test set. Some letters can
    hardly be told from others (O, o and 0), so that no network reaches 100 %.

    Parameters
    ----------
    number : int
        Of all images.
    seed : int
        The same numbers give the same images, with one version of Pillow.
    """
    drawn = np.random.default_rng(seed)
    fonts = _fonts()
    labels = drawn.permutation(np.arange(number) % len(_SYMBOLS))
    images = np.empty((number, 3, _SIZE, _SIZE), np.float32)
    for place, label in enumerate(labels):
        images[place] = _character(fonts[drawn.integers(len(fonts))], _SYMBOLS[label], drawn)
    tenth = number // 10
    return _parted(torch.from_numpy(images), torch.from_numpy(labels), tenth, tenth)


DATA: dict[str, Callable[[], Parts]] = {
    "digits": digits,
    "characters": characters,
    "few-characters": partial(characters, 620),
}


def _parted(images: Tensor, labels: Tensor, validation: int, test: int) -> Parts:
    ends = [0, len(images) - validation - test, len(images) - test, len(images)]
    return {
        name: Images(images[start:stop], labels[start:stop])
        for name, start, stop in zip(PARTS, ends, ends[1:], strict=False)
    }


def _fonts() -> list[Path]:
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    found = [path for pattern in _FONTS for path in sorted(folder.glob(pattern))]
    return [path for path in found if "Display" not in path.name]  # these lack letters


def _character(font: Path, symbol: str, drawn: np.random.Generator) -> NDArray[np.float32]:
    """Draw one character, as an image of shape (3, 32, 32)."""
    from PIL import Image, ImageDraw, ImageFilter, ImageFont

    canvas = Image.new("L", (_SIZE, _SIZE))
    face = ImageFont.truetype(str(font), 24)
    ImageDraw.Draw(canvas).text((_SIZE // 2, 25), symbol, fill=255, font=face, anchor="ms")
    angle, shear = drawn.uniform(-0.3, 0.3), drawn.uniform(-0.25, 0.25)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turned @ np.array([[1, shear], [0, 1]]) / drawn.uniform(0.85, 1.15)
    centre = np.full(2, _SIZE / 2)
    offset = centre - matrix @ (centre + drawn.uniform(-2, 2, 2))
    (a, b), (c, d) = matrix
    canvas = canvas.transform(
        (_SIZE, _SIZE),
        Image.Transform.AFFINE,
        (a, b, offset[0], c, d, offset[1]),
        Image.Resampling.BILINEAR,
    ).filter(ImageFilter.GaussianBlur(drawn.uniform(0, 1)))
    ink = np.asarray(canvas, np.float32)[None] / 255
    paper, pen = drawn.uniform(0, 1, (2, 3, 1, 1))
    while abs(paper.mean() - pen.mean()) < 0.25:  # to be seen in grey too
        paper, pen = drawn.uniform(0, 1, (2, 3, 1, 1))
    noise = drawn.normal(0, 0.06, (3, _SIZE, _SIZE))
    image: NDArray[np.float32] = np.clip(paper + (pen - paper) * ink + noise, 0, 1).astype(
        np.float32
    )
    return image
