# DeCLIP (Li et al. 2022) with a ResNet-50 on 88M pairs, by the formula of the paper: SGD trains the
# image tower, AdamW the rest.
#
#   NNODES=10 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_r50_88m.py 8
#
# Hardware: the paper had 80 V100 for 8 days.
# Data: 29M pairs are CC3M, CC12M and YFCC15M; 59M are from the web and were never released, so
#   nobody outside can repeat this run. Join the lists that you have into one, and point to it with
#   --cfg-options train_dataloader.dataset.file=LIST train_dataloader.dataset.root=FOLDER
# Published: 62.5 % zero-shot top-1 on ImageNet (README of Sense-GVT/DeCLIP). Not run by us.
#
# Not known: which tower had which optimizer, and with which numbers; we had no copy of the paper's
# appendix. The released config, which is for testing (declip_r50_88m_code.py), has SGD alone. The
# numbers of SGD here are from it; those of AdamW are from the runs on YFCC15M.
_base_ = ["declip_r50_yfcc15m.py"]

_root = "data/declip88m"

train_dataloader = dict(
    dataset=dict(file=f"{_root}/pairs.json", root=f"{_root}/images"),
    batch_size=10_240,  # 128 pairs, as the released config has, on each of 80 GPUs
)

optim_wrapper = dict(
    parts=dict(
        image=dict(
            of="towers.image",
            optimizer=dict(
                type="SGD",
                lr=dict(type="cosine", start=0.2, warmup=2500, warmup_start=1e-3),
                momentum=0.9,
                nesterov=True,
                weight_decay=1e-4,
            ),
        )
    ),
    precision="bf16",  # float16 in the paper
)

train_cfg = dict(max_iters=275_000)  # the paper's 32 epochs: 32 x 88M / 10,240
