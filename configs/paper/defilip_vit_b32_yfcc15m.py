# DeFILIP, DeCLIP and FILIP in one, with a ViT-B/32 on YFCC15M-V2, by the formulas of their papers.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/defilip_vit_b32_yfcc15m.py 8
#
# Hardware: 32 GPUs with 128 pairs each, as published; any number that shares the batch will do.
# Data: see _base_/yfcc15m.py, which says how to point to yours.
# Published: 45.0 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP), by the released code:
# defilip_vit_b32_yfcc15m_code.py. Not run by us.
_base_ = ["declip_vit_b32_yfcc15m.py"]

model = dict(
    spaces=dict(tokens=dict(type="JointSpace", dim=256, temperature=0.07, bias=True)),
    # The weights sum to 1.2, as in the code.
    objectives=dict(
        filip=dict(
            type="FILIP",
            images=("v1", "v2"),
            texts=("text", "text_aug"),
            top_k=16,
            space="tokens",
            weight=0.2,
        )
    ),
)
