# The CLIP controls of Web-SSL (Fan et al. 2025, arXiv 2504.01017), trained by MetaCLIP's code on
# the pairs whose images Web-DINO and Web-MAE see: 2.0 billion in batches of 32,768.
#
# The pairs, MC-2B, were never released. Point to yours with
#   --cfg-options train_dataloader.dataset.file=LIST train_dataloader.dataset.root=FOLDER
#
# Not known: the text tower, here that of OpenAI's ViT-B; the width of the joint space, here 1,024;
# crops, here open_clip's; betas, eps and decay, here those of OpenAI's ViTs.
_base_ = ["../../_base_/guards.py"]
_root = "data/mc2b"

model = dict(
    towers=dict(
        image=dict(type="ViT", patch_size=14),
        text=dict(type="TextTransformer", width=512, depth=12, heads=8),
    ),
    spaces=dict(joint=dict(type="JointSpace", dim=1024, temperature=0.07, max_scale=100)),
    objectives=dict(clip=dict(type="CLIP")),
)

train_dataloader = dict(
    batch_size=32_768,
    num_workers=8,
    dataset=dict(type="ImageTextList", file=f"{_root}/pairs.tsv", root=f"{_root}/images"),
    views=dict(
        v1=[
            dict(type="RandomResizedCrop", scale=(0.9, 1.0), interpolation="cubic"),
            dict(type="Normalize", mean="clip"),
        ],
        text=[dict(type="Caption", pick="random"), dict(type="Tokenize")],
    ),
)

optim_wrapper = dict(
    optimizer=dict(
        type="AdamW",
        lr=dict(type="cosine", start=4e-4, warmup=2000),
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.2,
    ),
    precision="bf16",
)

train_cfg = dict(max_iters=61_035, log_interval=100, checkpoint_interval=1000)  # 2.0 billion pairs

test_view = [
    dict(type="ResizeCenterCrop", interpolation="cubic"),
    dict(type="Normalize", mean="clip"),
]
