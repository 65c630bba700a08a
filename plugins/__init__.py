"""The built-in plugins, registered through the same door as a third party's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from webssl_toolbox.hookspecs import hookimpl

if TYPE_CHECKING:
    from webssl_toolbox.plugins import Registries

# One line each: the name that a config writes, and where the class lives.
OBJECTIVES = {
    "CLIP": "clip:CLIP",
    "SigLIP": "siglip:SigLIP",
    "MultiView": "multi_view:MultiView",
    "SimSiam": "simsiam:SimSiam",
    "SimCLR": "simclr:SimCLR",
    "MLM": "mlm:MLM",
    "NNQueue": "nn_queue:NNQueue",
    "FILIP": "filip:FILIP",
    "MAE": "mae:MAE",
    "MAEText": "mae_text:MAEText",
    "DINO": "dino:DINO",
    "IBOT": "ibot:IBOT",
    "KoLeo": "koleo:KoLeo",
    "Gram": "gram:Gram",
}
BACKBONES = {
    "CLIPResNet": "clip_resnet:CLIPResNet",
    "RegNetY": "regnet:RegNetY",
    "ViT": "vit:ViT",
    "TextTransformer": "text_transformer:TextTransformer",
    "Timm": "timm_tower:Timm",
    "MMPretrain": "mmpretrain_tower:MMPretrain",
    "TransformersImage": "transformers_image:TransformersImage",
    "TransformersText": "transformers_text:TransformersText",
    "BERT": "bert:BERT",
    "Fusion": "fusion:Fusion",
    "Pixels": "pixels:Pixels",
}
TRANSFER = {
    "Backbone": "backbone:Backbone",
}
SPACES = {
    "MaskDecoder": "mask_decoder:MaskDecoder",
    "Prototypes": "prototypes:Prototypes",
}
DATASETS = {
    "Emoji": "emoji:Emoji",
    "ImageFolder": "folder:ImageFolder",
    "ImageTextList": "image_text:ImageTextList",
    "CocoCaptions": "coco:CocoCaptions",
    "Concat": "concat:Concat",
    "Scenes": "scenes:Scenes",
    "KarpathyCaptions": "karpathy:KarpathyCaptions",
    "IDX": "idx:IDX",
    "CIFAR": "cifar:CIFAR",
    "Digits": "digits:Digits",
    "ObjectNet": "objectnet:ObjectNet",
    "MMPretrainDataset": "mmpretrain_dataset:MMPretrainDataset",
    "Published": "published:Published",
}
VIEWS = {
    "Caption": "text:Caption",
    "EDA": "eda:EDA",
    "Tokenize": "text:Tokenize",
    "MaskTokens": "text:MaskTokens",
    "DropTokens": "text:DropTokens",
    "Background": "image:Background",
    "RandomResizedCrop": "image:RandomResizedCrop",
    "ResizeCenterCrop": "image:ResizeCenterCrop",
    "RandomFlip": "image:RandomFlip",
    "ColorJitter": "color:ColorJitter",
    "Grayscale": "color:Grayscale",
    "Solarize": "color:Solarize",
    "GaussianBlur": "blur:GaussianBlur",
    "Normalize": "color:Normalize",
    "RandomKeep": "masks:RandomKeep",
    "BlockMask": "masks:BlockMask",
}
EVALUATORS = {
    "ZeroShot": "zero_shot:ZeroShot",
    "ZeroShotSuite": "zero_shot_suite:ZeroShotSuite",
    "Retrieval": "retrieval:Retrieval",
    "KNN": "knn:KNN",
    "AttentiveProbe": "attentive_probe:AttentiveProbe",
    "LinearProbe": "linear_probe:LinearProbe",
    "LogisticRegression": "logistic_regression:LogisticRegression",
    "PixelNeighbour": "pixels:PixelNeighbour",
    "Reconstructions": "reconstructions:Reconstructions",
    "Neighbours": "neighbours:Neighbours",
    "RetrievalGrid": "retrieval_grid:RetrievalGrid",
    "DenseProbe": "dense_probe:DenseProbe",
    "RankMe": "rank_me:RankMe",
    "AttentionMaps": "attention_maps:AttentionMaps",
    "PatchPCA": "patch_pca:PatchPCA",
    "PrototypeNeighbours": "prototype_neighbours:PrototypeNeighbours",
}
HOOKS = {
    "KeepBest": "keep_best:KeepBest",
    "LossSpike": "loss_spike:LossSpike",
    "Collapse": "collapse:Collapse",
    "Unreadable": "unreadable:Unreadable",
    "Results": "results:Results",
}


@hookimpl
def webssl_register(registries: Registries) -> None:
    """Registers every built-in by name; a module is imported when a config first asks for it."""
    for shelf, room, entries in (
        (registries.objectives, "objectives", OBJECTIVES),
        (registries.towers, "backbones", BACKBONES),
        (registries.towers, "transfer", TRANSFER),
        (registries.spaces, "backbones", SPACES),
        (registries.datasets, "datasets", DATASETS),
        (registries.views, "views", VIEWS),
        (registries.evaluators, "evaluators", EVALUATORS),
        (registries.hooks, "hooks", HOOKS),
    ):
        for name, place in entries.items():
            shelf[name] = f"webssl_plugins.{room}.{place}"
