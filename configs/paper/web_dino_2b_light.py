# Web-DINO 2B on web images with text, by the light filter (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=32 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_dino_2b_light.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: see _base_/web_dino_light.py, which says what the filter is and how to point to yours.
# Published: 53.38 % in the mean of four kinds of VQA benchmarks (the paper's table); 50.77 without
# a filter. Not run by us.
_base_ = ["_base_/web_dino_light.py"]

model = dict(towers=dict(image=dict(arch="2B")))
