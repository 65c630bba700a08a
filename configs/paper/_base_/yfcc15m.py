# YFCC15M-V2, the list of the DeCLIP benchmark: 15,388,848 pairs, as JSON lines with `filename` and
# `caption`. The images are not part of it. Point to yours with
#   --cfg-options train_dataloader.dataset.file=LIST train_dataloader.dataset.root=FOLDER
_root = "data/yfcc15m"

# The reference's MOCOV2 augmentation. Its flip comes after the blur; here crops and flips come
# first, which gives the same images.
_image_view = [
    dict(type="RandomResizedCrop", scale=(0.2, 1.0)),
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
        file=f"{_root}/yfcc15m_clean_open_data.json",
        root=f"{_root}/images",
        image="filename",
    ),
    views=dict(
        v1=_image_view,
        v2=_image_view,
        text=[dict(type="Caption", pick=0), dict(type="Tokenize")],
        # Synonyms are WordNet's in the reference. Without its `dict` folder, words are swapped and
        # deleted only: --cfg-options train_dataloader.views.text_aug.1.wordnet=FOLDER
        text_aug=[
            dict(type="Caption", pick=0),
            dict(type="EDA", wordnet=None),
            dict(type="Tokenize"),
        ],
        text_mlm=[
            dict(type="Caption", pick=0),
            dict(type="Tokenize"),
            dict(type="MaskTokens", prob=0.15),
        ],
    ),
)

test_view = [
    dict(type="ResizeCenterCrop", resize=256),
    dict(type="Normalize", mean="imagenet"),
]
