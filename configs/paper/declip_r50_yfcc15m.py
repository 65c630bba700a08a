# DeCLIP (Li et al. 2022) with a ResNet-50 on YFCC15M-V2, by the formula of the paper.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/declip_r50_yfcc15m.py 8
#
# Hardware: 32 GPUs with 128 pairs each, as published; any number that shares the batch will do.
# Data: see _base_/yfcc15m.py, which says how to point to yours.
# Published: 44.4 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP), by the released code,
# which differs from the formula: declip_r50_yfcc15m_code.py. The paper has 41.9 on "YFCC15M":
# another list, or another recipe; which one is not known. Not run by us.
_base_ = ["_base_/yfcc15m.py", "_base_/adamw_128k.py", "../_base_/guards.py"]

model = dict(
    towers=dict(
        image=dict(type="CLIPResNet", arch="50"),
        # Bidirectional, as masked language modelling is meant.
        text=dict(type="TextTransformer", width=512, depth=12, heads=8, causal=False),
    ),
    spaces=dict(joint=dict(type="JointSpace", dim=1024, temperature=0.07, max_scale=100)),
    # L = (1 - a - b - g) L_CLIP + a (L_ISS + L_TSS) + b L_MVS + g L_NNS with a = b = g = 0.2.
    objectives=dict(
        clip=dict(type="CLIP", weight=0.4),
        multi_view=dict(type="MultiView", weight=0.2),
        simsiam=dict(type="SimSiam", dim=1024, hidden=512, space="joint", weight=0.2),
        mlm=dict(type="MLM", weight=0.2),
        nn_queue=dict(type="NNQueue", size=65536, weight=0.2),
    ),
)
