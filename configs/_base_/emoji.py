# The embedded corpus: drawings of 1,949 concepts by independent design teams, with captions.
# Evaluated on designers that training never sees, and on concepts that no training split holds.
# Views have the size of the image tower's input.
_render = 72  # pixels of the cached drawings

_image_view = [
    dict(type="Background", white=0.7),
    dict(type="RandomResizedCrop", scale=(0.6, 1.0)),
    dict(type="ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, prob=0.6),
    dict(type="Normalize"),
]

train_dataloader = dict(
    batch_size=256,
    num_workers=2,
    dataset=dict(type="Emoji", split="train", size=_render),
    views=dict(
        v1=_image_view,
        v2=_image_view,
        text=[dict(type="Caption", pick=0), dict(type="Tokenize")],
        # The second caption is the concept's tags: "aeroplane, fly, flying, jet, plane".
        text_aug=[dict(type="Caption", pick=1), dict(type="EDA"), dict(type="Tokenize")],
        text_mlm=[
            dict(type="Caption", pick="random"),
            dict(type="Tokenize"),
            dict(type="MaskTokens", prob=0.2),
        ],
    ),
)

test_view = [
    dict(type="Background", white=1.0, jitter=0),
    dict(type="ResizeCenterCrop"),
    dict(type="Normalize"),
]

_seen = ("noto-v1", "noto-v1-distinct", "fluent-flat", "fluent-high-contrast")
_unseen = ("unseen/noto-v1", "unseen/fluent-flat")
_concepts = {name: dict(type="Emoji", split=name, size=_render) for name in _unseen + _seen}
_groups = {
    name: dict(type="Emoji", split=name, size=_render, target="group")
    for name in ("noto-v1", "fluent-flat", "fluent-high-contrast")
}
_drawings = dict(type="Emoji", split="train-drawings", size=_render)
_grouped_drawings = dict(type="Emoji", split="train-drawings", size=_render, target="group")

evaluation = dict(
    interval=450,
    evaluators=dict(
        zero_shot=dict(type="ZeroShot", splits=_concepts),
        # What comparing raw pixels gives: the yardstick beside zero_shot, and beside knn.
        zero_shot_pixels=dict(
            type="PixelNeighbour", train=_drawings, splits={name: _concepts[name] for name in _seen}
        ),
        retrieval=dict(type="Retrieval", splits={"noto-v1": _concepts["noto-v1"]}),
        knn=dict(type="KNN", train=_grouped_drawings, splits=_groups, k=10),
        knn_pixels=dict(type="PixelNeighbour", train=_grouped_drawings, splits=_groups, k=10),
    ),
)
