# Web-DINO 7B on 2.0 billion web images (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=32 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_dino_7b.py 8
#
# Hardware: 129 GB of weights, averages, gradients and moments, which all GPUs share; tools/plan.py
# says what is left for each.
# Data: see _base_/web_dino.py, which says how to point to yours.
# Published: 53.87 % in the mean of four kinds of VQA benchmarks, and 86.0 % linear on ImageNet-1k
# (the paper's tables). The released weights saw 8.0 billion, train_cfg.max_iters=2_604_167: 55.24 %
# and 86.5 %. Not run by us.
_base_ = ["_base_/web_dino.py"]

strategy = "fsdp2"

model = dict(towers=dict(image=dict(arch="7B")))
