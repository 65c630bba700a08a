# M3AE (Geng et al. 2022) with a ViT-L/16 on CC12M, 100 epochs: one transformer of patches and
# words, which reads a quarter of each.
#
#   NNODES=8 NODE_RANK=0 MASTER_ADDR=HOST tools/dist_train.sh configs/paper/m3ae_vit_l16_cc12m.py 8
#
# Hardware: not known; any number of GPUs that shares the batch will do.
# Data: CC12M as a TSV with the columns `image` and `caption`. Point to yours with
#   --cfg-options train_dataloader.dataset.file=LIST train_dataloader.dataset.root=FOLDER
# Published: the paper reports this model; we had no copy to check its numbers. Not run by us.
#
# The numbers are those of the authors' code (young-geng/m3ae_public), but for what we do not know:
# crops, here MAE's without the flip, and the pairs of an epoch, here 12,000,000. Two things differ:
# * the tokenizer is CLIP's, not BERT's;
# * each row has its own mask; there one permutation is shared by all rows of a device.
_base_ = ["../_base_/guards.py"]
_root = "data/cc12m"
_epoch = 2930  # steps: 12,000,000 / 4,096

model = dict(
    towers=dict(
        fusion=dict(type="Fusion", arch="L", patch_size=16, input_size=256, context_length=64)
    ),
    spaces=dict(decoder=dict(type="MaskDecoder", dim=512, depth=8, heads=16)),
    objectives=dict(
        mae=dict(type="MAE", tower="fusion", text="text_mae", weight=1.0),
        mae_text=dict(type="MAEText", weight=0.5),
    ),
)

train_dataloader = dict(
    batch_size=4096,
    num_workers=8,
    dataset=dict(type="ImageTextList", file=f"{_root}/pairs.tsv", root=f"{_root}/images"),
    views=dict(
        v1=[
            dict(type="RandomResizedCrop", scale=(0.2, 1.0), interpolation="cubic"),
            dict(type="Normalize", mean="imagenet"),
        ],
        v1_keep=[dict(type="RandomKeep", ratio=0.25, tower="fusion")],
        text_mae=[
            dict(type="Caption", pick=0),
            dict(type="Tokenize", tower="fusion"),
            dict(type="DropTokens", ratio=0.75),
        ],
    ),
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=1.5e-4 * 4096 / 256, warmup=5 * _epoch),
        betas=(0.9, 0.95),
        weight_decay=0.05,
    ),
    precision="bf16",
)

train_cfg = dict(max_iters=100 * _epoch, log_interval=100, checkpoint_interval=1000)

test_view = [
    dict(type="ResizeCenterCrop", interpolation="cubic"),
    dict(type="Normalize", mean="imagenet"),
]

test_tower = "fusion"
