# DINOv2's short run with a ViT-L/16 on ImageNet-1k (Oquab et al. 2023, arXiv 2304.07193; released
# code): 100 "epochs" of 1,250 steps of 2,048 images, one head for crops and patches, a centre.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/dinov2_vit_l16.py 8
#
# Hardware: 32 A100 for a day, by the authors. On 8 GPUs with a batch of 512, users have reported
# 77.4 % kNN.
# Data: ImageNet-1k; any folder: --cfg-options data_root=FOLDER
# Published: 81.6 % kNN and 82.9 % linear on ImageNet-1k. Not run by us.
_base_ = ["_base_/dinov2.py"]

data_root = "data/imagenet/train"

_epoch = _base_._epoch
_momentum = dict(start=0.992)

model = dict(
    towers=dict(
        image=dict(arch="L", patch_size=16, ffn="mlp", drop_path=0.3),
        image_ema=dict(momentum=_momentum),
    ),
    spaces=dict(
        proto=dict(count=65_536, bottleneck=256),
        proto_ema=dict(momentum=_momentum),
        patches=None,
        patches_ema=None,
    ),
    objectives=dict(
        dino=dict(centring="centre"),
        ibot=dict(space="proto", teacher_space="proto_ema", centring="centre"),
    ),
)

# Local crops of 96 px, since patches have 16.
_crop, *_rest = _base_.train_dataloader.views.l1
_local = [dict(_crop, size=96), *_rest]

train_dataloader = dict(batch_size=2048, views={name: _local for name in _base_._locals})

optim_wrapper = dict(
    optimizer=dict(
        lr=dict(start=4e-3 * (2048 / 1024) ** 0.5, warmup=10 * _epoch),
        weight_decay=dict(end=0.4),
    ),
    layer_decay=0.9,
    groups=dict(patches_last_layer=None),
)

train_cfg = dict(max_iters=100 * _epoch)
