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
FUSION = dict(
    type="Fusion", patch_size=8, width=16, depth=2, heads=2, input_size=16, vocab_size=600
)
DECODER = dict(decoder=dict(type="MaskDecoder", dim=12, depth=1, heads=2))
JOINT = dict(joint=dict(type="JointSpace", dim=8))
TOKENS = dict(tokens=dict(type="JointSpace", dim=8, bias=True))
TOWERS = dict(image=RESNET, text=TEXT)
HEAD = dict(type="Prototypes", count=12, hidden=10, layers=2, bottleneck=6)
TEACHER = dict(image=VIT, image_ema=dict(type="EMA", of="towers.image", momentum=0.9))
PROTO = dict(proto=HEAD, proto_ema=dict(type="EMA", of="spaces.proto", momentum=0.9))
PATCHES = dict(
    patches=HEAD | dict(count=9, learn_norm=True),
    patches_ema=dict(type="EMA", of="spaces.patches", momentum=0.9),
)
MASKS = ("g1_mask", "g2_mask")
SMALL = dict(l1=8, l2=8)


def one(name: str, towers: dict = TOWERS, spaces: dict = JOINT, **objective) -> Case:
    return Case(dict(towers=towers, spaces=spaces, objectives={name: objective}))


OBJECTIVES = {
    "clip": one("clip", type="CLIP"),
    "clip_vit": one("clip", dict(image=VIT, text=TEXT), type="CLIP"),
    "clip_regnet": one("clip", dict(image=REGNET, text=TEXT), type="CLIP"),
    "clip_bert": one("clip", dict(image=VIT, text=BERT), type="CLIP"),
    "flip": one("clip", dict(image=VIT, text=TEXT), type="CLIP", keep="v1_keep"),
    "multi_view": one("multi_view", type="MultiView"),
    "siglip": one("siglip", type="SigLIP"),
    "simclr": one("simclr", dict(image=RESNET), {}, type="SimCLR", dim=6, hidden=8),
    "simclr_vit": one("simclr", dict(image=VIT), {}, type="SimCLR", dim=6, hidden=16),
    # One weak view for the captions, two strong ones for each other.
    "slip": Case(
        dict(
            towers=dict(image=VIT, text=TEXT),
            spaces=JOINT,
            objectives=dict(
                clip=dict(type="CLIP"),
                simclr=dict(type="SimCLR", views=("v2", "v3"), dim=6, hidden=8),
            ),
        )
    ),
    "simsiam": one("simsiam", type="SimSiam", dim=16, hidden=8),
    "simsiam_joint": one("simsiam", type="SimSiam", dim=16, hidden=8, space="joint"),
    # Some rows have fewer tokens than the six that each offers: all four patches, short captions.
    "filip": one(
        "filip", dict(image=VIT, text=TEXT), TOKENS, type="FILIP", images=("v1", "v2"), top_k=6
    ),
    "mlm": one("mlm", type="MLM"),
    "mlm_bidirectional": one("mlm", dict(text=TEXT | dict(causal=False, pool="mean")), type="MLM"),
    "mlm_bert": one("mlm", dict(text=BERT | dict(pool="mean")), type="MLM"),
    "mae": one("mae", dict(image=VIT), DECODER, type="MAE"),
    "mae_mean": one("mae", dict(image=VIT | dict(pool="mean")), DECODER, type="MAE"),
    "mae_clip": Case(
        dict(
            towers=dict(image=VIT, text=TEXT),
            spaces=JOINT | DECODER,
            objectives=dict(mae=dict(type="MAE"), clip=dict(type="CLIP")),
        )
    ),
    "m3ae": Case(
        dict(
            towers=dict(fusion=FUSION),
            spaces=DECODER,
            objectives=dict(
                mae=dict(type="MAE", tower="fusion", text="text_mae"),
                mae_text=dict(type="MAEText", weight=0.5),
            ),
        )
    ),
    "mae_text": one("mae_text", dict(fusion=FUSION), DECODER, type="MAEText", view=None),
    "dino": Case(
        dict(
            towers=TEACHER,
            spaces=PROTO,
            objectives=dict(dino=dict(type="DINO", locals=("l1", "l2"))),
        ),
        sizes=SMALL,
    ),
    "dino_sinkhorn": one("dino", TEACHER, PROTO, type="DINO", masks=MASKS, centring="sinkhorn"),
    "ibot": one("ibot", TEACHER, PROTO, type="IBOT"),
    "ibot_sinkhorn": one("ibot", TEACHER, PROTO, type="IBOT", centring="sinkhorn"),
    "koleo": one("koleo", dict(image=VIT), {}, type="KoLeo"),
    "gram": one(
        "gram",
        TEACHER | dict(image_gram=dict(type="EMA", of="towers.image_ema", momentum=0.0, every=2)),
        {},
        type="Gram",
        masks=MASKS,
    ),
    # DINOv2's large models: heads apart, targets by Sinkhorn-Knopp.
    "dinov2": Case(
        dict(
            towers=TEACHER,
            spaces=PROTO | PATCHES,
            objectives=dict(
                dino=dict(type="DINO", locals=("l1",), masks=MASKS, centring="sinkhorn"),
                ibot=dict(
                    type="IBOT",
                    space="patches",
                    teacher_space="patches_ema",
                    centring="sinkhorn",
                ),
                koleo=dict(type="KoLeo", masks=MASKS, weight=0.1),
            ),
        ),
        sizes=SMALL,
    ),
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

# Masked global crops encoded once for three objectives, with clean local ones; one teacher and one
# head with its average; and towers, views and spaces that none of these read.
EVERYTHING = Case(
    dict(
        towers=dict(
            image=VIT | dict(layer_scale=0.1, registers=1),
            image_ema=TEACHER["image_ema"],
            image_gram=dict(type="EMA", of="towers.image_ema", momentum=0.0, every=2),
            text=TEXT,
            fusion=FUSION,
        ),
        spaces=JOINT | DECODER | PROTO,
        objectives=dict(
            dino=dict(type="DINO", locals=("l1", "l2"), masks=MASKS),
            ibot=dict(type="IBOT"),
            koleo=dict(type="KoLeo", masks=MASKS, weight=0.1),
            gram=dict(type="Gram", masks=MASKS),
            mae=dict(type="MAE"),
            flip=dict(type="CLIP", keep="v1_keep"),
            m3ae=dict(type="MAE", tower="fusion", text="text_mae"),
            m3ae_text=dict(type="MAEText"),
        ),
    ),
    sizes=SMALL,
)
