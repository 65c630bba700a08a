# CLIP 7B, the control of Web-SSL's models of that size (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=16 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_clip_7b.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data, and what is not known of the recipe: see _base_/web_clip.py.
# Published: 52.97 % in the mean of four kinds of VQA benchmarks (the paper's table). Not run by
# us; the weights were not released.
_base_ = ["_base_/web_clip.py"]

strategy = "fsdp2"

model = dict(towers=dict(image=dict(arch="7B")))
