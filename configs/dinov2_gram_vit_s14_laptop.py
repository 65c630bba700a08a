# DINOv2 at laptop size, with Gram anchoring (DINOv3, Siméoni et al. 2025, arXiv 2508.10104):
# patches are to stay as similar to one another as an earlier teacher saw them.
#
#   python tools/train.py configs/dinov2_gram_vit_s14_laptop.py
#
# The anchor is a copy of the teacher, taken anew every so often. Until the first one it is the
# untrained network, so the weight grows from 0.
# Hardware: 2 CPU cores, meant for about 10 minutes. Data: the embedded corpus, or a folder.
# Result, seed 0, on fluent-flat: kNN over groups 46.4 % (untrained 28.0, pixels 65.4), dense probe
# 9.9 % mIoU, 9.3 without Gram anchoring (untrained 8.6, pixels 7.8); see docs/results.md.
_base_ = ["dinov2_vit_s14_laptop.py"]

model = dict(
    towers=dict(
        image_gram=dict(type="EMA", of="towers.image_ema", momentum=0.0, every=100),
    ),
    objectives=dict(
        gram=dict(
            type="Gram",
            masks=("g1_mask", "g2_mask"),
            weight=dict(type="linear", start=2.0, end=2.0, warmup=620),
        )
    ),
)
