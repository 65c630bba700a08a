# The schedule of the DeCLIP benchmark: 128,001 steps of 4,096 pairs are 34 epochs of YFCC15M-V2
# (advertised as 32).
#
# Not reproduced: the reference also decays the biases of the attention's query, key and value.
# Here, as there, no other bias, no norm and no temperature is decayed.
optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=1e-3, warmup=2500, warmup_start=1e-4),
        betas=(0.9, 0.98),
        eps=1e-8,
        weight_decay=0.1,
    ),
    precision="fp32",
)

train_cfg = dict(max_iters=128_001, log_interval=100, checkpoint_interval=1000)
