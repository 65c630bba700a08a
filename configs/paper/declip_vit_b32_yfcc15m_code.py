# declip_vit_b32_yfcc15m.py as the released code trains it; declip_r50_yfcc15m_code.py names what
# differs.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_vit_b32_yfcc15m_code.py 8
#
# Hardware, data and published result: see declip_vit_b32_yfcc15m.py.
_base_ = ["declip_r50_yfcc15m_code.py"]

model = dict(
    towers=dict(
        image=dict(
            _delete_=True,
            type="ViT",
            arch="B",
            patch_size=32,
            activation="quick_gelu",
            pre_norm=True,
            norm_eps=1e-5,
            freeze_patch_embed=True,  # as MoCo v3 does; the paper has no word of it
        )
    ),
    spaces=dict(joint=dict(dim=512)),
)
