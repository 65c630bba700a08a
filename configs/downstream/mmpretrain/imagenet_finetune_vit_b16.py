# Fine-tuning as in MAE (arXiv 2111.06377, table 9) on ImageNet: 100 epochs, batch 1,024, layer-wise
# decay 0.65, RandAugment, mixup, CutMix. mmpretrain's own recipe with our tower.
#
#   python -m torch.distributed.run --nproc-per-node 8 tools/downstream.py \
#       configs/downstream/mmpretrain/imagenet_finetune_vit_b16.py --launcher pytorch
#
# Hardware: 8 GPUs of 128 images each. Data: data/imagenet, with train/ and val/ of folders.
# Published: 83.6 % with MAE's ViT-B (README of facebookresearch/mae). Not run by us.
_base_ = "mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="webssl_toolbox.Backbone",
        tower=dict(type="ViT", arch="B", drop_path=0.1),
        pool_norm=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/mae_vit_b16"),
    )
)
optim_wrapper = dict(paramwise_cfg=dict(flat_decay_mult=0.0))  # our norms have other names
