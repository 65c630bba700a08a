# SLIP (Mu et al. 2022) with a ViT-B/16 on YFCC15M, 25 epochs.
#
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/slip_vit_b16_yfcc15m.py 8
#
# Hardware, data, and how it differs from the reference: see slip_vit_s16_yfcc15m.py.
# Published: on ImageNet 42.8 % zero-shot, 72.1 % linear, 82.6 % fine-tuned (README of
# facebookresearch/SLIP); 44.1 and 45.0 % zero-shot after 50 and 100 epochs. Not run by us.
_base_ = ["slip_vit_s16_yfcc15m.py"]

model = dict(towers=dict(image=dict(arch="B", heads=None)))  # B's own heads
