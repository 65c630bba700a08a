# DeCLIP at laptop size: a ResNet-50 of a quarter of the width at 32 px, a small text tower.
#
#   python tools/train.py configs/declip_r50_laptop.py
#
# Hardware: 2 CPU cores, 10 to 14 minutes, evaluation included. Data: the embedded corpus.
# Result, seed 0 / 1: zero-shot top-1 on concepts never seen 12.4 / 13.3, top-5 27.9 / 27.2 (mean of
# two designers, chance 0.5 and 2.5); on noto-v1's drawings of seen concepts 22.5 / 19.7 of 1,949.
_base_ = ["declip_r50.py"]

model = dict(
    towers=dict(
        image=dict(width=16, input_size=32),
        # 4,096 ids, not 49,409: a tower of width 128 would be mostly embedding.
        text=dict(width=128, depth=2, heads=4, vocab_size=4096),
    ),
    spaces=dict(joint=dict(dim=256)),
    objectives=dict(simsiam=dict(dim=256, hidden=64)),
)

optim_wrapper = dict(optimizer=dict(lr=dict(start=2e-3, warmup=20)))

train_cfg = dict(max_iters=900)
