# MAE (He et al. 2022) with a ViT-B/16 on ImageNet-1k, 800 epochs.
#
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/mae_vit_b16.py 8
#
# Hardware: 64 GPUs; any number that shares the batch will do.
# Data: see _base_/mae.py, which says how to point to yours.
# Published: 83.6 % fine-tuned, 67.8 % linear on ImageNet (README of facebookresearch/mae; the paper
# has 68.0 % linear). The paper also trains for 1,600 epochs, --cfg-options
# train_cfg.max_iters=499200, and we do not know which of the two these numbers are of. Not run by
# us.
#
# Not reproduced: the reference draws the encoder's matrices by Xavier's rule; here they are drawn
# as in every ViT of the toolbox.
_base_ = ["_base_/mae.py"]

model = dict(towers=dict(image=dict(arch="B")))
