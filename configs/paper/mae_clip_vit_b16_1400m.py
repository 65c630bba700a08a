# MAE-CLIP (Weers et al. 2023, arXiv 2301.07836) on 1.4B pairs, where MAE no longer helps CLIP.
#
#   NNODES=16 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/mae_clip_vit_b16_1400m.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: 1.4B pairs, which were never released. Point to yours as mae_clip_vit_b16_11m.py says.
# Published: "little to no benefit" over CLIP alone (abstract). Not run by us.
#
# Not known: all numbers, as for mae_clip_vit_b16_11m.py. Here the batch is four times as large, and
# each pair is seen once.
_base_ = ["mae_clip_vit_b16_11m.py"]

_root = "data/pairs1400m"

train_dataloader = dict(
    batch_size=16_384,
    dataset=dict(file=f"{_root}/pairs.tsv", root=f"{_root}/images"),
)

train_cfg = dict(max_iters=85_449)
