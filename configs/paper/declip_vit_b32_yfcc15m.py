# DeCLIP (Li et al. 2022) with a ViT-B/32 on YFCC15M-V2, by the formula of the paper.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_vit_b32_yfcc15m.py 8
#
# Hardware: 32 GPUs with 128 pairs each, as published; any number that shares the batch will do.
# Data: see _base_/yfcc15m.py, which says how to point to yours.
# Published: 43.2 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP), by the released code,
# which differs from the formula: declip_vit_b32_yfcc15m_code.py. Ascend's ModelZoo-PyTorch repeats
# it with 43.2 on 32 devices, and gets 31.5 and 32.9 in as many steps on 8. Not run by us.
_base_ = ["declip_r50_yfcc15m.py", "_base_/vit_b32.py"]

model = dict(
    towers=dict(image=dict(_delete_=True, **_base_._vit_b32)),
    spaces=dict(joint=dict(dim=512)),
)
