# ADE20K, a linear head on the last four blocks of a frozen ViT-B/14, tested at five scales and
# mirrored: DINOv2's "+ms" (arXiv 2304.07193, table 10).
#   python tools/downstream.py configs/downstream/mmseg/ade20k_ms_linear_vit_b14.py
#   python tools/downstream.py CONFIG --test work_dirs/ade20k_ms_linear_vit_b14/iter_40000.pth --tta
# Published for DINOv2's own ViT-B/14: 51.3 mIoU.
_base_ = "ade20k_linear_vit_b14.py"

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(out_indices=[-4, -3, -2, -1]),
    decode_head=dict(in_channels=[768] * 4, in_index=[0, 1, 2, 3], input_transform="resize_concat"),
    test_cfg=dict(crop_size=(640, 640), stride=(320, 320)),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(
                type="RandomResize",
                scale=(99999999, 640),
                ratio_range=(1.0, 3.0),
                keep_ratio=True,
            ),
            dict(type="RandomCrop", crop_size=(640, 640), cat_max_ratio=0.75),
            dict(type="RandomFlip", prob=0.5),
            dict(type="PhotoMetricDistortion"),
            dict(type="PackSegInputs"),
        ]
    )
)
_resize = dict(type="Resize", scale=(99999999, 640), keep_ratio=True)
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            _resize,
            dict(type="LoadAnnotations", reduce_zero_label=True),
            dict(type="PackSegInputs"),
        ]
    )
)
test_dataloader = val_dataloader
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale=(99999999, int(640 * ratio)), keep_ratio=True)
                for ratio in (1.0, 1.32, 1.73, 2.28, 3.0)
            ],
            [dict(type="RandomFlip", prob=prob, direction="horizontal") for prob in (0.0, 1.0)],
            [dict(type="LoadAnnotations", reduce_zero_label=True)],
            [dict(type="PackSegInputs")],
        ],
    ),
]
