# defilip_vit_b32_yfcc15m.py as the released code trains it; declip_r50_yfcc15m_code.py names what
# it shares with DeCLIP's.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/defilip_vit_b32_yfcc15m_code.py 8
#
# Hardware, data and published result: see defilip_vit_b32_yfcc15m.py.
#
# Not reproduced: the code pads captions to 77 tokens and lets the padding count as words.
_base_ = ["declip_vit_b32_yfcc15m_code.py"]

model = dict(
    spaces=dict(
        tokens=dict(
            type="JointSpace",
            dim=256,
            temperature=0.07,
            bias=True,
            # The logarithm is clamped to [3, 6]; 100 is no bound of this scale.
            min_scale=20.0855,
            max_scale=403.4288,
        )
    ),
    objectives=dict(
        filip=dict(
            type="FILIP",
            images=("v1", "v2"),
            texts=("text_mlm", "text_aug"),  # the masked caption
            top_k=16,
            space="tokens",
            weight=0.2,
        )
    ),
)
