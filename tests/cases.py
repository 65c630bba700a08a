"""The table of objectives under the contract: one row each, with real towers at small width."""

from __future__ import annotations

from webssl_toolbox.testing import Case

RESNET = dict(type="CLIPResNet", depths=(1, 1, 1, 1), width=8, input_size=32)
VIT = dict(type="ViT", patch_size=8, width=16, depth=2, heads=2, input_size=16)
TEXT = dict(type="TextTransformer", width=16, depth=2, heads=2, vocab_size=600)
REGNET = dict(
    type="RegNetY", depths=(1, 1, 1, 1), widths=(8, 8, 16, 16), group_width=8, input_size=32
)
BERT = dict(type="BERT", width=16, depth=2, heads=2, vocab_size=600)
JOINT = dict(joint=dict(type="JointSpace", dim=8))
TOKENS = dict(tokens=dict(type="JointSpace", dim=8, bias=True))
TOWERS = dict(image=RESNET, text=TEXT)


def one(name: str, towers: dict = TOWERS, spaces: dict = JOINT, **objective) -> Case:
    return Case(dict(towers=towers, spaces=spaces, objectives={name: objective}))


OBJECTIVES = {
    "clip": one("clip", type="CLIP"),
    "clip_vit": one("clip", dict(image=VIT, text=TEXT), type="CLIP"),
    "clip_regnet": one("clip", dict(image=REGNET, text=TEXT), type="CLIP"),
    "clip_bert": one("clip", dict(image=VIT, text=BERT), type="CLIP"),
    "flip": one("clip", dict(image=VIT, text=TEXT), type="CLIP", keep="v1_keep"),
    "multi_view": one("multi_view", type="MultiView"),
    "simsiam": one("simsiam", type="SimSiam", dim=16, hidden=8),
    "simsiam_joint": one("simsiam", type="SimSiam", dim=16, hidden=8, space="joint"),
    # Some rows have fewer tokens than the six that each offers: all four patches, short captions.
    "filip": one(
        "filip", dict(image=VIT, text=TEXT), TOKENS, type="FILIP", images=("v1", "v2"), top_k=6
    ),
    "mlm": one("mlm", type="MLM"),
    "mlm_bidirectional": one("mlm", dict(text=TEXT | dict(causal=False, pool="mean")), type="MLM"),
    "mlm_bert": one("mlm", dict(text=BERT | dict(pool="mean")), type="MLM"),
    # As large as a batch: full after the first step, and overwritten whole by each. Neighbours
    # teach the image tower alone, so something else must train the text tower.
    "nn_queue": Case(
        dict(
            towers=TOWERS,
            spaces=JOINT,
            objectives=dict(clip=dict(type="CLIP"), nn_queue=dict(type="NNQueue", size=6)),
        )
    ),
}

DECLIP = Case(
    dict(
        towers=TOWERS,
        spaces=JOINT,
        objectives=dict(
            clip=dict(type="CLIP", weight=0.4),
            multi_view=dict(type="MultiView", weight=0.2),
            simsiam=dict(type="SimSiam", dim=16, hidden=8, space="joint", weight=0.2),
            mlm=dict(type="MLM", weight=0.2),
            nn_queue=dict(type="NNQueue", size=6, weight=0.2),
        ),
    )
)

TOY = Case(
    dict(
        towers=dict(
            image=VIT | dict(layer_scale=0.1, registers=1),
            image_ema=dict(type="EMA", of="towers.image", momentum=0.9),
            text=TEXT,
            fusion=dict(type="ToyFusion"),
        ),
        spaces=JOINT
        | dict(
            proto=dict(type="Prototypes"),
            proto_ema=dict(type="EMA", of="spaces.proto", momentum=0.9),
        ),
        objectives=dict(
            dino=dict(type="ToyDINO"),
            ibot=dict(type="ToyIBOT"),
            koleo=dict(type="ToyKoLeo", weight=0.1),
            mae=dict(type="ToyMAE"),
            flip=dict(type="CLIP", keep="v1_keep"),
            m3ae=dict(type="ToyM3AE"),
        ),
    ),
    sizes=dict(l1=8, l2=8),
    imports=("tests.toy",),
)
