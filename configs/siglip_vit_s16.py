# SigLIP (Zhai et al. 2023) with a ViT-S/16 at 96 px: each pair is judged by itself, by a sigmoid.
#
#   python tools/train.py configs/siglip_vit_s16.py
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/siglip_vit_s16_laptop.py is made for
# one.
# Data: the embedded corpus, nothing to download. For your own pairs, override
#   train_dataloader.dataset with dict(type='ImageTextList', file='pairs.csv', root='images').
# Result: not yet measured.
#
# The loss is the paper's, with its initial temperature and bias; towers and optimizer are those of
# slip_vit_s16.py, so that the two can be compared.
_base_ = ["slip_vit_s16.py"]

model = dict(
    spaces=dict(joint=dict(temperature=0.1)),
    objectives=dict(clip=None, simclr=None, siglip=dict(type="SigLIP", bias=-10.0)),
)
