# Web-DINO 1B on web images with text, by the heavy filter (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=32 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_dino_1b_heavy.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: see _base_/web_dino_heavy.py, which says what the filter is and how to point to yours.
# Published: 49.44 % in the mean of four kinds of VQA benchmarks (the paper's table); 49.01 without
# a filter. Not run by us.
_base_ = ["_base_/web_dino_heavy.py"]

model = dict(towers=dict(image=dict(arch="1B")))
