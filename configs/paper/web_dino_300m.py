# Web-DINO 0.3B, a ViT-L/14 with SwiGLU, on 2.0 billion web images (Fan et al. 2025, arXiv
# 2504.01017).
#
#   NNODES=32 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_dino_300m.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: see _base_/web_dino.py, which says how to point to yours.
# Published: weights, but no result that we know of; the paper's table begins at 1B. Not run by us.
_base_ = ["_base_/web_dino.py"]

model = dict(towers=dict(image=dict(arch="L")))
