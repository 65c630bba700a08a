# MAE-CLIP (Weers et al. 2023, arXiv 2301.07836) on 11.3M pairs, where MAE helps CLIP.
#
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/mae_clip_vit_b16_11m.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: 11.3M pairs of Conceptual Captions, as a TSV with the columns `image` and `caption`. Point
#   to yours with
#   --cfg-options train_dataloader.dataset.file=LIST train_dataloader.dataset.root=FOLDER
# Published: MAE and CLIP together are better than CLIP on these pairs (abstract). Not run by us.
#
# Not known: all numbers. There is no public code, and we read the abstract and the introduction
# alone. So this is MAE (_base_/mae.py) and CLIP on one ViT-B/16, weighted alike, with the batch,
# optimizer and 32 epochs that are usual for CLIP on so few pairs. CLIP reads the whole view; to let
# it read the kept patches alone: --cfg-options model.objectives.clip.keep=v1_keep
_base_ = ["../_base_/guards.py"]
_root = "data/cc11m"

model = dict(
    towers=dict(
        image=dict(type="ViT", arch="B", patch_size=16, positions="sincos"),
        text=dict(type="TextTransformer", width=512, depth=12, heads=8),
    ),
    spaces=dict(
        joint=dict(type="JointSpace", dim=512, temperature=0.07, max_scale=100),
        decoder=dict(type="MaskDecoder", dim=512, depth=8, heads=16),
    ),
    objectives=dict(clip=dict(type="CLIP", weight=1.0), mae=dict(type="MAE", weight=1.0)),
)

train_dataloader = dict(
    batch_size=4096,
    num_workers=8,
    dataset=dict(type="ImageTextList", file=f"{_root}/pairs.tsv", root=f"{_root}/images"),
    views=dict(
        v1=[
            dict(type="RandomResizedCrop", scale=(0.5, 1.0), interpolation="cubic"),
            dict(type="Normalize", mean="imagenet"),
        ],
        v1_keep=[dict(type="RandomKeep", ratio=0.25)],
        text=[dict(type="Caption", pick=0), dict(type="Tokenize")],
    ),
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=5e-4, warmup=2500),
        betas=(0.9, 0.98),
        weight_decay=0.2,
    ),
    precision="bf16",
)

train_cfg = dict(max_iters=88_281, log_interval=100, checkpoint_interval=1000)

test_view = [
    dict(type="ResizeCenterCrop", interpolation="cubic"),
    dict(type="Normalize", mean="imagenet"),
]
