# Strong views for 32 px, where small crops and a strong blur leave nothing to see.
_strong_32px = [
    dict(type="Background", white=0.7),
    dict(type="RandomResizedCrop", scale=(0.3, 1.0)),
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, prob=0.8),
    dict(type="Grayscale", prob=0.2),
    dict(type="Normalize"),
]
