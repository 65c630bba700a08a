# NYU Depth V2, a linear head on a frozen ViT-B/14: DINOv2's "lin. 1" (arXiv 2304.07193, table 11).
#   python tools/downstream.py configs/downstream/mmseg/nyu_linear_vit_b14.py
# data/nyu holds nyu_train.txt and nyu_test.txt, lines of "IMAGE DEPTH FOCAL_LENGTH", and what they
# name. 16 images a step: 8 GPUs of 2, or what times batch_size is 16. The test is on the whole
# image and its mirror image, with Eigen's mask. Published for DINOv2's own ViT-B/14: RMSE 0.399.
_base_ = "_base_/runtime.py"
custom_imports = dict(imports=["webssl_plugins.transfer.mmseg_depth"])

_meta = (
    *("img_path", "depth_map_path", "ori_shape", "img_shape", "pad_shape", "scale_factor"),
    *("flip", "flip_direction"),
)
model = dict(
    type="DepthEstimator",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        size=(416, 544),
    ),
    backbone=dict(
        type="webssl_toolbox.Backbone",
        tower=dict(type="ViT", arch="B", patch_size=14, input_size=518, layer_scale=1e-5),
        out_indices=[11],
        class_token=True,
        last_norm=False,
        frozen=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/dinov2_vit_b14"),
    ),
    decode_head=dict(
        type="LinearDepthHead",
        in_channels=[1536],
        in_index=[0],
        loss_decode=[dict(type="SigLoss"), dict(type="GradientLoss")],
    ),
    test_cfg=dict(mode="slide_flip", crop_size=(480, 640), stride=(480, 640)),
)
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="NYUList",
        data_root="data/nyu",
        ann_file="nyu_train.txt",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3),
            dict(type="NYUCrop"),
            dict(type="RandomRotate", prob=0.5, degree=2.5, seg_pad_val=0),
            dict(type="RandomFlip", prob=0.5),
            dict(type="RandomCrop", crop_size=(416, 544)),
            dict(type="DepthColor"),
            dict(type="PackSegInputs", meta_keys=_meta),
        ],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="NYUList",
        data_root="data/nyu",
        ann_file="nyu_test.txt",
        test_mode=True,
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadDepthAnnotation", depth_rescale_factor=1e-3),
            dict(type="PackSegInputs", meta_keys=_meta),
        ],
    ),
)
val_evaluator = dict(
    type="DepthMetric", min_depth_eval=1e-3, max_depth_eval=10.0, crop_type="nyu_crop"
)
test_dataloader, test_evaluator = val_dataloader, val_evaluator

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=12800),
    dict(type="CosineAnnealingLR", eta_min_ratio=1e-8, by_epoch=False, begin=0, end=38400),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=38400, val_interval=800)
default_hooks = dict(checkpoint=dict(interval=1600, save_best="rmse", rule="less"))
