# DeCLIP (Li et al. 2022) with a ViT-B/32 on 88M pairs, by the formula of the paper. What is
# known of data and optimizers, and what is not, stands in declip_r50_88m.py.
#
#   NNODES=10 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_vit_b32_88m.py 8
#
# Hardware: the paper had 80 V100 for 10 days.
# Data: see declip_r50_88m.py.
# Published: 66.2 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP). Not run by us.
_base_ = ["declip_r50_88m.py", "_base_/vit_b32.py"]

model = dict(
    towers=dict(image=dict(_delete_=True, **_base_._vit_b32)),
    spaces=dict(joint=dict(dim=3072)),  # six times that of YFCC15M
)

# The released config: 5,000 steps of warm-up, and no decay.
optim_wrapper = dict(parts=dict(image=dict(optimizer=dict(lr=dict(warmup=5000), weight_decay=0.0))))
