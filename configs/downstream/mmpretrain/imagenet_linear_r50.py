# The linear probe of SimSiam (arXiv 2011.10566, appendix A) on ImageNet: LARS, batch 4,096, 90
# epochs. mmpretrain's own recipe with our tower, that of configs/simsiam_r50.py at 224 px.
#
#   python -m torch.distributed.run --nproc-per-node 8 tools/downstream.py \
#       configs/downstream/mmpretrain/imagenet_linear_r50.py --launcher pytorch
#
# Hardware: 8 GPUs of 512 images each. Data: data/imagenet, with train/ and val/ of folders.
# Published: 68.1 % after 100 epochs of SimSiam's pretraining (table 4). Not run by us.
_base_ = "mmpretrain::simsiam/benchmarks/resnet50_8xb512-linear-coslr-90e_in1k.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="webssl_toolbox.Backbone",
        tower=dict(type="CLIPResNet", depths=(3, 4, 6, 3), width=64, pool="mean", input_size=224),
        frozen=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/simsiam_r50"),
    ),
    neck=None,  # the features are pooled
)
