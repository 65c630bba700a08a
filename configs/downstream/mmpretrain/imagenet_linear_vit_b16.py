# The linear probe of MAE (arXiv 2111.06377, table 10) on ImageNet: LARS, batch 16,384, 90 epochs, a
# BatchNorm without parameters on the class token. mmpretrain's own recipe with our tower.
#
#   python -m torch.distributed.run --nproc-per-node 8 tools/downstream.py \
#       configs/downstream/mmpretrain/imagenet_linear_vit_b16.py --launcher pytorch
#
# Hardware: 8 GPUs of 2,048 images each. Data: data/imagenet, with train/ and val/ of folders.
# Published: 67.8 % with MAE's ViT-B (README of facebookresearch/mae). Not run by us.
_base_ = "mmpretrain::mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="webssl_toolbox.Backbone",
        tower=dict(type="ViT", arch="B"),
        frozen=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/mae_vit_b16"),
    )
)
