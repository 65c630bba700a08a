# declip_vit_b32_88m.py as the released config would train it, were it not for testing: its run.sh
# evaluates, and its list is that of YFCC15M.
#
#   NNODES=10 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_vit_b32_88m_code.py 8
#
# Hardware, data and published result: see declip_vit_b32_88m.py. Other deviations from the paper
# are in declip_r50_yfcc15m_code.py.
#
# Not reproduced: the temperature gets a rate of 0 in the reference; here it learns.
_base_ = ["declip_r50_88m_code.py", "_base_/vit_b32.py"]

model = dict(
    towers=dict(
        image=dict(
            _delete_=True,
            **_base_._vit_b32,
            freeze_patch_embed=True,  # as MoCo v3 does; the paper has no word of it
        )
    ),
    spaces=dict(joint=dict(dim=3072)),
    objectives=dict(multi_view=dict(weight=0.6)),  # so the weights sum to 1.2
)

train_dataloader = dict(batch_size=5120)  # 64 on each of 80 GPUs; their number is the paper's

optim_wrapper = dict(optimizer=dict(lr=dict(warmup=5000), weight_decay=0.0))

train_cfg = dict(max_iters=300_001)  # with that batch 17 epochs, not 32
