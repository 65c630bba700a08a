# Web-DINO 7B at 378 px, from its weights at 224 px (Fan et al. 2025, arXiv 2504.01017).
#
#   NNODES=32 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/web_dino_7b_378.py 8
#
# Hardware: 129 GB of weights, averages, gradients and moments, which all GPUs share; tools/plan.py
# says what is left for each.
# Data: see _base_/web_dino.py, which says how to point to yours. The weights are those of your own
# run: --cfg-options load_from=WORK_DIR
# Published: 57.43 % in the mean of four kinds of VQA benchmarks, and 86.3 % linear on ImageNet-1k,
# from 8.0 billion images at 224 px (the paper's tables). Not run by us.
_base_ = ["_base_/web_dino_high.py"]

model = dict(towers=dict(image=dict(input_size=378)))
