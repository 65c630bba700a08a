# ADE20K, a linear head on a frozen ViT-B/14: DINOv2's "lin." (arXiv 2304.07193, table 10).
#   python tools/downstream.py configs/downstream/mmseg/ade20k_linear_vit_b14.py
# Published for DINOv2's own ViT-B/14: 47.3 mIoU. Crops of 512 are padded to 518.
_base_ = "_base_/ade20k.py"

model = dict(
    backbone=dict(
        type="webssl_toolbox.Backbone",
        tower=dict(type="ViT", arch="B", patch_size=14, input_size=518, layer_scale=1e-5),
        out_indices=[-1],
        frozen=True,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/dinov2_vit_b14"),
    ),
    decode_head=dict(type="LinearHead", in_channels=768, num_classes=150, dropout_ratio=0),
)
