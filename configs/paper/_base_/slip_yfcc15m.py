# YFCC15M as OpenAI chose it, 14,689,580 pairs (15M in the SLIP paper), and the schedule of SLIP.
# The list is to be made from YFCC100M: one row for each image, a TSV with the columns `image`,
# `title` and `description`. Point to yours with
#   --cfg-options train_dataloader.dataset.file=LIST train_dataloader.dataset.root=FOLDER
_base_ = ["../../_base_/guards.py"]
_root = "data/yfcc15m_v1"
_epoch = 3586  # steps: 14,689,580 / 4,096

_strong = [
    dict(type="RandomResizedCrop", scale=(0.08, 1.0)),
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.8),
    dict(type="Grayscale", prob=0.2),
    dict(type="GaussianBlur", sigma=(0.1, 2.0), prob=0.5),
    dict(type="Normalize", mean="imagenet"),
]

train_dataloader = dict(
    batch_size=4096,
    num_workers=8,
    dataset=dict(
        type="ImageTextList",
        file=f"{_root}/pairs.tsv",
        root=f"{_root}/images",
        caption=("title", "description"),
    ),
    views=dict(
        v1=[
            dict(type="RandomResizedCrop", scale=(0.5, 1.0)),
            dict(type="Normalize", mean="imagenet"),
        ],
        v2=_strong,
        v3=_strong,
        text=[dict(type="Caption", pick="random"), dict(type="Tokenize")],
    ),
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=3e-3, end=1e-5, warmup=_epoch, warmup_start=1e-6),
        betas=(0.9, 0.98),
        eps=1e-8,
        weight_decay=0.1,
    ),
    precision="bf16",  # float16 in the reference
)

train_cfg = dict(max_iters=25 * _epoch, log_interval=100, checkpoint_interval=1000)

test_view = [dict(type="ResizeCenterCrop"), dict(type="Normalize", mean="imagenet")]
