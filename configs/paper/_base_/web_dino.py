# Web-DINO (Fan et al. 2025, arXiv 2504.01017): the recipe of DINOv2's giant at 224 px on 2.0
# billion images, the same for every size. Web-SSL released weights, but no training code: see
# _base_/dinov2.py for what of DINOv2 is not reproduced.
#
# The paper's images are MC-2B, 2 billion of MetaCLIP, which were never released. Point to yours
# with
#   --cfg-options data_root=FOLDER
#
# Each process lists all paths and their order, and two billion are too many for that: shards and
# streams are not there yet. Take a folder of fewer.
#
# GPU memory: ask `python tools/plan.py CONFIG --gpus N`. `model.towers.image.checkpoint=True`
# trades time for activations. From 3B on, all GPUs share weights, gradients, averages and the
# optimizer's moments (FSDP2), as in the paper.
_base_ = ["dinov2.py"]

data_root = "data/mc2b"

train_cfg = dict(max_iters=651_042)  # 2.0 billion images
