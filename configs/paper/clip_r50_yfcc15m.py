# CLIP (Radford et al. 2021) with a ResNet-50 on YFCC15M-V2, in the recipe of the DeCLIP benchmark.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/clip_r50_yfcc15m.py 8
#
# Hardware: 32 GPUs with 128 pairs each, as published; any number that shares the batch will do.
# Data: see _base_/yfcc15m.py, which says how to point to yours.
# Published: 37.2 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP). The DeCLIP paper has
# 31.3 on "YFCC15M": another list, or another recipe; which one is not known. Not run by us.
_base_ = ["_base_/yfcc15m.py", "_base_/adamw_128k.py", "../_base_/guards.py"]

model = dict(
    towers=dict(
        image=dict(type="CLIPResNet", arch="50"),
        text=dict(type="TextTransformer", width=512, depth=12, heads=8),
    ),
    # OpenAI's ResNet has no projection behind its attention pool: this linear map follows a linear
    # map, so it adds 1.05M weights, and no function.
    spaces=dict(joint=dict(type="JointSpace", dim=1024, temperature=0.07, max_scale=100)),
    objectives=dict(clip=dict(type="CLIP")),
)

# STANDARD_SLIP in the reference: weak crops, and nothing else.
train_dataloader = dict(
    views=dict(v1=[dict(type="RandomResizedCrop", scale=(0.5, 1.0)), dict(type="Normalize")])
)
