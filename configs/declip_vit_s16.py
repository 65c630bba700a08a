# DeCLIP with a ViT-S/16 at 96 px: swapping the backbone of declip_r50.py is one entry.
#
#   python tools/train.py configs/declip_vit_s16.py
#
# Hardware: one GPU. Data: the embedded corpus; a ViT wants far more than its 1,736 training
# concepts, so take your own pairs for anything but a trial.
# Result: not yet measured on a GPU.
_base_ = ["declip_r50.py"]

model = dict(
    towers=dict(
        image=dict(
            _delete_=True, type="ViT", patch_size=16, width=384, depth=12, heads=6, input_size=96
        )
    )
)
