# DINOv2 with a ViT-g/14 (Oquab et al. 2023, arXiv 2304.07193): 500 "epochs" of 1,250 steps.
#
#   NNODES=32 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/dinov2_vit_g14.py 8
#
# Hardware: 22,000 A100 hours in the paper's model card; 12 images on each GPU, so 256 of them.
# Data: LVD-142M, which was never released; any folder: --cfg-options data_root=FOLDER
# Published, as we remember it: 83.5 % kNN and 86.5 % linear on ImageNet-1k, after a phase at 518 px
# (10,000 steps with all schedules compressed), which _base_/web_dino_high.py shows for Web-DINO.
# Not run by us.
_base_ = ["_base_/dinov2.py"]

model = dict(towers=dict(image=dict(arch="g-dinov2")))
