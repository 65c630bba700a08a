# DeCLIP at laptop size
_base_ = ['_base_/emoji.py']

model = dict(
    towers=dict(
        image=dict(type='CLIPResNet', depths=(3, 4, 6, 3), width=16, input_size=32),
        text=dict(type='TextTransformer', width=128, depth=2, heads=4, causal=False, pool='mean', vocab_size=4096),
    ),
    spaces=dict(joint=dict(type='JointSpace', dim=256)),
    objectives=dict(
        clip=dict(type='CLIP', weight=0.4),
        multi_view=dict(type='MultiView', weight=0.2),
        simsiam=dict(type='SimSiam', dim=256, hidden=64, space='joint', weight=0.2),
        mlm=dict(type='MLM', weight=0.2),
        nn_queue=dict(type='NNQueue', size=1024, weight=0.2),
    ))

optim_wrapper = dict(
    optimizer=dict(
        type='AdamW', lr=dict(type='cosine', start=2e-3, warmup=20), betas=(0.9, 0.98), weight_decay=0.1),
    clip_grad=1.0)

train_cfg = dict(max_iters=900)
