# As emoji_linear_vit.py, with the ResNet of configs/declip_r50_laptop.py: a linear head on the maps
# and means of its four stages, enlarged to the size of the first.
#   python tools/downstream.py configs/downstream/mmseg/emoji_linear_resnet.py
_base_ = "emoji_linear_vit.py"

model = dict(
    backbone=dict(
        tower=dict(_delete_=True, type="CLIPResNet", width=16, input_size=32),
        out_indices=[0, 1, 2, 3],
        init_cfg=dict(checkpoint="work_dirs/declip_r50_laptop"),
    ),
    decode_head=dict(
        in_channels=[128, 256, 512, 1024],
        in_index=[0, 1, 2, 3],
        input_transform="resize_concat",
    ),
)
