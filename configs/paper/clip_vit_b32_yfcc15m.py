# CLIP (Radford et al. 2021) with a ViT-B/32 on YFCC15M-V2, in the recipe of the DeCLIP benchmark.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/clip_vit_b32_yfcc15m.py 8
#
# Hardware: 32 GPUs with 128 pairs each, as published; any number that shares the batch will do.
# Data: see _base_/yfcc15m.py, which says how to point to yours.
# Published: 32.8 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP). Not run by us.
_base_ = ["clip_r50_yfcc15m.py", "_base_/vit_b32.py"]

model = dict(
    towers=dict(image=dict(_delete_=True, **_base_._vit_b32)),
    spaces=dict(joint=dict(dim=512)),
)
