# SLIP (Mu et al. 2022) with a ViT-S/16 on YFCC15M, 25 epochs: CLIP and SimCLR with weight 1 each.
#
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/slip_vit_s16_yfcc15m.py 8
#
# Hardware: 64 GPUs with 64 pairs each, as published; any number that shares the batch will do.
# Data: see _base_/slip_yfcc15m.py, which says how to point to yours.
# Published: on ImageNet 38.3 % zero-shot, 66.4 % linear, 80.3 % fine-tuned (README of
# facebookresearch/SLIP). 50 and 100 epochs give 39.3 and 39.5 % zero-shot:
#   --cfg-options train_cfg.max_iters=179300
# Not run by us.
#
# The reference gathers embeddings for CLIP without their gradient, so its gradient is not that of
# the whole batch; and it cuts long captions before their end token. Here neither is so.
_base_ = ["_base_/slip_yfcc15m.py"]

model = dict(
    towers=dict(
        image=dict(type="ViT", arch="S", heads=12),  # as many as in MoCo v3
        text=dict(type="TextTransformer", width=512, depth=12, heads=8),
    ),
    spaces=dict(joint=dict(type="JointSpace", dim=512, temperature=0.07, max_scale=100)),
    objectives=dict(
        clip=dict(type="CLIP"),
        simclr=dict(type="SimCLR", views=("v2", "v3"), dim=256, hidden=4096, temperature=0.1),
    ),
)
