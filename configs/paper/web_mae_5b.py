# Web-MAE 5B on 2.0 billion web images (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=16 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_mae_5b.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: see _base_/web_mae.py, which says how to point to yours.
# Published: 51.50 % in the mean of four kinds of VQA benchmarks (the paper's table). Not run by
# us; the weights were not released.
_base_ = ["_base_/web_mae.py"]

strategy = "fsdp2"

model = dict(towers=dict(image=dict(arch="5B")))
