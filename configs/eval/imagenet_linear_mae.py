# MAE's linear probe (arXiv 2111.06377, A.1): the class token, BatchNorm without a scale, LARS at a
# base rate of 0.1, a batch of 16,384, 90 epochs of which 10 warm up.
#   python tools/test.py configs/eval/imagenet_linear_mae.py MODEL --cfg-options data_root=FOLDER
_base_ = ["imagenet_linear.py"]

evaluation = dict(
    evaluators=dict(
        linear=dict(
            rates=(0.1,),
            blocks=(1,),
            means=(False,),
            epochs=90,
            warmup=10,
            batch_size=16384,
            batch_norm=True,
            lars=True,
        )
    )
)
