# emoji.py, and beside it kNN over the 100 subgroups, and pictures: what is near to what.
_base_ = ["emoji.py"]

_subgroups = {
    name: dict(type="Emoji", split=name, size=_base_._render, target="subgroup")
    for name in ("noto-v1", "fluent-flat", "fluent-high-contrast")
}
_bank = dict(type="Emoji", split="train-drawings", size=_base_._render, target="subgroup")

evaluation = dict(
    evaluators=dict(
        knn_subgroups=dict(type="KNN", train=_bank, splits=_subgroups, k=10),
        knn_subgroups_pixels=dict(type="PixelNeighbour", train=_bank, splits=_subgroups, k=10),
        neighbours=dict(type="Neighbours", bank=_bank, queries=_subgroups["noto-v1"]),
        retrieval_grid=dict(type="RetrievalGrid", data=_base_._concepts["noto-v1"]),
    )
)
