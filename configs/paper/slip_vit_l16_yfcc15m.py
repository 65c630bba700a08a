# SLIP (Mu et al. 2022) with a ViT-L/16 on YFCC15M, 25 epochs.
#
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/slip_vit_l16_yfcc15m.py 8
#
# Hardware, data, and how it differs from the reference: see slip_vit_s16_yfcc15m.py.
# Published: on ImageNet 46.2 % zero-shot, 76.0 % linear, 84.2 % fine-tuned (README of
# facebookresearch/SLIP); 47.4 and 47.9 % zero-shot after 50 and 100 epochs. Not run by us.
_base_ = ["slip_vit_s16_yfcc15m.py"]

model = dict(towers=dict(image=dict(arch="L", heads=None)))  # L's own heads
