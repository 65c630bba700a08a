# DeCLIP at laptop size: a ResNet-50 of a quarter of the width at 32 px, a small text tower.
#
#   python tools/train.py configs/declip_r50_laptop.py
#
# Hardware: 2 CPU cores, 11 to 14 minutes, evaluation included. Data: the embedded corpus.
# Result, seed 0 / 1: zero-shot top-1 on concepts never seen 16.6 / 16.8, top-5 29.6 / 28.4 (mean of
# two designers, chance 0.5 and 2.5); on noto-v1's drawings of seen concepts 25.2 / 26.6 of 1,949.
_base_ = ["declip_r50.py"]

model = dict(
    towers=dict(
        image=dict(width=16, input_size=32),
        # With CLIP's whole vocabulary: a word in pieces is not known again in another caption.
        text=dict(width=128, depth=1, heads=4),
    ),
    spaces=dict(joint=dict(dim=256)),
    objectives=dict(simsiam=dict(dim=256, hidden=64)),
)

optim_wrapper = dict(optimizer=dict(lr=dict(start=2e-3, warmup=20)))

train_cfg = dict(max_iters=900)
