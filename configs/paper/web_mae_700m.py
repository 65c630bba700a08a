# Web-MAE 0.7B (ViT-H/14) on 2.0 billion web images (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=16 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_mae_700m.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: see _base_/web_mae.py, which says how to point to yours.
# Published: weights, but no result that we know of; the paper's table begins at 1B. Not run by us.
_base_ = ["_base_/web_mae.py"]

model = dict(towers=dict(image=dict(arch="H")))
