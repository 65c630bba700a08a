# FILIP (Yao et al. 2021) with a ViT-B/32 on YFCC15M-V2, in the recipe of the DeCLIP benchmark.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/filip_vit_b32_yfcc15m.py 8
#
# Hardware: 32 GPUs with 128 pairs each, as published; any number that shares the batch will do.
# Data: see _base_/yfcc15m.py, which says how to point to yours.
# Published: 39.5 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP), by the released code,
# which encodes masked captions: filip_vit_b32_yfcc15m_code.py. Not run by us.
#
# The zero-shot evaluator compares pooled embeddings, which FILIP does not train: it cannot measure
# this model.
_base_ = ["declip_vit_b32_yfcc15m.py"]

model = dict(
    towers=dict(text=dict(causal=True)),
    spaces=dict(tokens=dict(type="JointSpace", dim=256, temperature=0.07, bias=True)),
    objectives=dict(
        filip=dict(type="FILIP", top_k=16, space="tokens"),
        **dict.fromkeys(("clip", "multi_view", "simsiam", "mlm", "nn_queue")),
    ),
)

optim_wrapper = dict(optimizer=dict(lr=dict(start=5e-4), weight_decay=0.5))
