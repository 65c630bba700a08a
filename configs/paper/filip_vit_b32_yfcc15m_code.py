# filip_vit_b32_yfcc15m.py as the released code trains it.
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/filip_vit_b32_yfcc15m_code.py 8
#
# Hardware, data and published result: see filip_vit_b32_yfcc15m.py.
#
# Not reproduced: the code pads captions to 77 tokens and lets the padding count as words.
# The zero-shot evaluator cannot measure this model: see filip_vit_b32_yfcc15m.py.
_base_ = ["filip_vit_b32_yfcc15m.py"]

model = dict(
    towers=dict(
        image=dict(freeze_patch_embed=True)  # as MoCo v3 does; the paper has no word of it
    ),
    # The logarithm is clamped to [3, 6]; 100 is no bound of this scale.
    spaces=dict(tokens=dict(min_scale=20.0855, max_scale=403.4288)),
    objectives=dict(filip=dict(texts=("text_mlm",))),  # masked, though nothing predicts the words
)
