# AdamW with CLIP's betas, a short warm-up and a cosine to zero.
optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=1e-3, warmup=100),
        betas=(0.9, 0.98),
        weight_decay=0.1,
    ),
    clip_grad=1.0,
)
