# declip_vit_b32_yfcc15m.py as the released code trains it; declip_r50_yfcc15m_code.py names what
# differs.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_vit_b32_yfcc15m_code.py 8
#
# Hardware, data and published result: see declip_vit_b32_yfcc15m.py.
_base_ = ["declip_r50_yfcc15m_code.py", "_base_/vit_b32.py"]

model = dict(
    towers=dict(
        image=dict(
            _delete_=True,
            **_base_._vit_b32,
            freeze_patch_embed=True,  # as MoCo v3 does; the paper has no word of it
        )
    ),
    spaces=dict(joint=dict(dim=512)),
)
