# DeCLIP (Li et al. 2022): a full ResNet-50 at 64 px, five losses.
#
#   python tools/train.py configs/declip_r50.py
#
# Hardware: one GPU. On a CPU it is slow, and says so: configs/declip_r50_laptop.py is made for one.
# Data: the embedded corpus, nothing to download. For your own pairs, override
#   train_dataloader.dataset with dict(type='ImageTextList', file='pairs.csv', root='images').
# Result: not yet measured on a GPU; docs/results.md has what was measured, of the laptop config.
_base_ = ["_base_/emoji.py", "_base_/adamw.py", "_base_/guards.py"]

model = dict(
    towers=dict(
        image=dict(type="CLIPResNet", depths=(3, 4, 6, 3), width=64, input_size=64),
        text=dict(type="TextTransformer", width=512, depth=6, heads=8, causal=False, pool="mean"),
    ),
    spaces=dict(joint=dict(type="JointSpace", dim=512, temperature=0.07)),
    # L = (1 - a - b - g) L_CLIP + a (L_ISS + L_TSS) + b L_MVS + g L_NNS with a = b = g = 0.2. Each
    # signal is removed by one line in a child config: model = dict(objectives=dict(mlm=None)).
    objectives=dict(
        clip=dict(type="CLIP", weight=0.4),
        multi_view=dict(type="MultiView", weight=0.2),
        simsiam=dict(type="SimSiam", dim=1024, hidden=512, space="joint", weight=0.2),
        mlm=dict(type="MLM", weight=0.2),
        nn_queue=dict(type="NNQueue", size=1024, weight=0.2),
    ),
)

train_cfg = dict(max_iters=3000)
