# Web-DINO 3B on 2.0 billion web images (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=32 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_dino_3b.py 8
#
# Hardware: 59 GB of weights, averages, gradients and moments, which all GPUs share; tools/plan.py
# says what is left for each.
# Data: see _base_/web_dino.py, which says how to point to yours.
# Published: 51.71 % in the mean of four kinds of VQA benchmarks, and 85.7 % linear on ImageNet-1k
# (the paper's tables). Not run by us.
_base_ = ["_base_/web_dino.py"]

strategy = "fsdp2"

model = dict(towers=dict(image=dict(arch="3B")))
