"""Sentences that class names are put into, by data set: those of CLIP, and of DeCLIP's code.

Most come with "a" and with "the". Their source is in NOTICE.
"""

from __future__ import annotations

from collections.abc import Iterable

ARTICLES = ("a", "the")


def each(sentences: Iterable[str], *words: Iterable[str]) -> tuple[str, ...]:
    """Returns the sentences with each word of a list in place of ``@``, for one list at a time."""
    made = list(sentences)
    for choice in words:
        made = [text.replace("@", word, 1) for word in choice for text in made]
    return tuple(made)


_CIFAR = each(
    (
        "a photo of @ {}.",
        "a blurry photo of @ {}.",
        "a black and white photo of @ {}.",
        "a low contrast photo of @ {}.",
        "a high contrast photo of @ {}.",
        "a bad photo of @ {}.",
        "a good photo of @ {}.",
        "a photo of @ small {}.",
        "a photo of @ big {}.",
    ),
    ARTICLES,
)
_IMAGENET_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
_IMAGENET_80 = (
    *each(
        (
            "a bad photo of @ {}.",
            "a photo of @ {}.",
            "a sculpture of @ {}.",
            "a photo of @ hard to see {}.",
            "a low resolution photo of @ {}.",
            "a rendering of @ {}.",
            "graffiti of @ {}.",
            "a cropped photo of @ {}.",
            "a tattoo of @ {}.",
            "@ embroidered {}.",
            "a bright photo of @ {}.",
            "a photo of @ clean {}.",
            "a photo of @ dirty {}.",
            "a dark photo of @ {}.",
            "a drawing of @ {}.",
            "@ plastic {}.",
            "a photo of @ cool {}.",
            "a close-up photo of @ {}.",
            "a black and white photo of @ {}.",
            "a painting of @ {}.",
            "a pixelated photo of @ {}.",
            "a jpeg corrupted photo of @ {}.",
            "a blurry photo of @ {}.",
            "a good photo of @ {}.",
            "@ {} in a video game.",
            "a doodle of @ {}.",
            "@ origami {}.",
            "a sketch of @ {}.",
            "@ toy {}.",
            "a rendition of @ {}.",
            "a photo of @ large {}.",
            "a photo of @ nice {}.",
            "a photo of @ weird {}.",
            "@ cartoon {}.",
            "art of @ {}.",
            "itap of @ {}.",
            "@ plushie {}.",
            "a photo of @ small {}.",
        ),
        ARTICLES,
    ),
    "a photo of many {}.",
    "a photo of my {}.",
    "a photo of one {}.",
    "itap of my {}.",
)
_VERBS = ("using ", "doing ", "during ", "performing ", "practicing ")
_RECORDS = ("a photo of", "a video of", "a example of", "a demonstration of")

TEMPLATES: dict[str, tuple[str, ...]] = {
    "food101": ("a photo of {}, a type of food.",),
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "cub200": ("a photo of a {}, a type of bird.",),
    "sun397": each(("a photo of @ {}.",), ARTICLES),
    "cars": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of my {}.",
        "i love my {}!",
        "a photo of my dirty {}.",
        "a photo of my clean {}.",
        "a photo of my new {}.",
        "a photo of my old {}.",
    ),
    "aircraft": each(("a photo of @ {}, a type of aircraft.",), ARTICLES),
    "dtd": each(
        (
            "a photo of @ {} texture.",
            "a photo of @ {} pattern.",
            "a photo of @ {} thing.",
            "a photo of @ {} object.",
        ),
        ARTICLES,
    ),
    "pets": ("a photo of a {}, a type of pet.",),
    "caltech101": each(
        (
            "a photo of @ {}.",
            "a painting of @ {}.",
            "@ plastic {}.",
            "a sculpture of @ {}.",
            "a sketch of @ {}.",
            "a tattoo of @ {}.",
            "@ toy {}.",
            "a rendition of @ {}.",
            "@ embroidered {}.",
            "@ cartoon {}.",
            "@ {} in a video game.",
            "@ plushie {}.",
            "@ origami {}.",
            "art of @ {}.",
            "graffiti of @ {}.",
            "a drawing of @ {}.",
            "a doodle of @ {}.",
        ),
        ARTICLES,
    ),
    "flowers102": ("a photo of a {}, a type of flower.",),
    "mnist": ('a photo of the number: "{}".',),
    "fashion_mnist": each(("a photo of @ {}.", "a black and white photo of @ {}."), ARTICLES),
    "fer2013": (
        "a photo of a {} looking face.",
        "a photo of a face showing the emotion: {}.",
        "a photo of a face looking {}.",
        "a face that looks {}.",
        "they look {}.",
        "look at how {} they are.",
    ),
    "stl10": each(("a photo of @ {}.",), ARTICLES),
    "eurosat": each(("a centered satellite photo of @{}.",), ("", "a ", "the ")),
    "resisc45": each(
        (
            "satellite imagery of @{}.",
            "aerial imagery of @{}.",
            "satellite photo of @{}.",
            "aerial photo of @{}.",
            "satellite view of @{}.",
            "aerial view of @{}.",
        ),
        ("", "a ", "the "),
    ),
    "gtsrb": each(('a @ photo of a "{}" traffic sign.',), ("zoomed in", "centered", "close up")),
    "kitti_distance": ("{}",),
    "country211": (
        "a photo i took in {}.",
        "a photo i took while visiting {}.",
        "a photo from my home country of {}.",
        "a photo from my visit to {}.",
        "a photo showing the country of {}.",
    ),
    "patch_camelyon": ("this is a photo of {}",),
    "ucf101": each(("@ @ person @{}.",), _RECORDS, ARTICLES, ("", *_VERBS)),
    "kinetics700": each(("@ @{}.",), _RECORDS, ("", *(f"a person {v}" for v in ("", *_VERBS)))),
    "clevr_counts": ("a photo of {} objects.",),
    "hateful_memes": ("a {}.",),
    "rendered_sst2": ("a {} review of a movie.",),
    "imagenet_1": ("a photo of a {}.",),  # 1, 6 and 8 are those of DeCLIP's code
    "imagenet_6": each(("a photo of a @{}.", "a @{} on the photo."), ("", "big ", "small ")),
    "imagenet_7": _IMAGENET_7,  # SLIP's
    "imagenet_8": ("a photo of a {}", *_IMAGENET_7),
    "imagenet_80": _IMAGENET_80,  # CLIP's
}
