# clip_vit_b32_yfcc15m.py as the released code trains it.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/clip_vit_b32_yfcc15m_code.py 8
#
# Hardware, data and published result: see clip_vit_b32_yfcc15m.py.
_base_ = ["clip_vit_b32_yfcc15m.py"]

model = dict(
    towers=dict(
        image=dict(freeze_patch_embed=True)  # as MoCo v3 does; the paper has no word of it
    ),
    spaces=dict(
        joint=dict(
            bias=["text"],  # only the projection of texts has one
            # The logarithm is clamped to [3, 6] after each step, the scale to 100 where it is used.
            min_scale=20.0855,
        )
    ),
)
