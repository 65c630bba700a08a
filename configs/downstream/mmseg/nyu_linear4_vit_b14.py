# NYU Depth V2 from four blocks of a frozen ViT-B/14: DINOv2's "lin. 4" (2304.07193, table 11).
#   python tools/downstream.py configs/downstream/mmseg/nyu_linear4_vit_b14.py
# ViT-S has the same blocks, ViT-L [4, 11, 17, 23], ViT-g [9, 19, 29, 39]. Published for DINOv2's
# own ViT-B/14: RMSE 0.362.
_base_ = "nyu_linear_vit_b14.py"

model = dict(
    backbone=dict(out_indices=[2, 5, 8, 11]),
    decode_head=dict(in_channels=[1536] * 4, in_index=[0, 1, 2, 3]),
)
