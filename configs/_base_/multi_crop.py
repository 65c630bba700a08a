# What DINO does to a crop (Caron et al. 2021, arXiv 2104.14294, section 3.2) before it is blurred.
# How often each view is blurred differs between DINO and DINOv2: see the recipes.
_distort = [
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, prob=0.8),
    dict(type="Grayscale", prob=0.2),
]
_locals = [f"l{i}" for i in range(1, 9)]

# Views of drawings at 48 px, and local ones at 24. Drawings stand alone on a plain ground, of which
# small crops would often show nothing else: so they are larger than in the papers, and not blurred.
# Their colours vary less: what a drawing shows is often told by them, and a network finds two views
# of it again at once, where it would take many epochs otherwise.
_recolour = [
    dict(type="RandomFlip"),
    dict(type="ColorJitter", brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, prob=0.6),
    dict(type="Normalize"),
]
_global_48px = [
    dict(type="Background", white=0.7),
    dict(type="RandomResizedCrop", scale=(0.5, 1.0)),
    *_recolour,
]
_local_24px = [
    dict(type="Background", white=0.7),
    dict(type="RandomResizedCrop", size=24, scale=(0.15, 0.5)),
    *_recolour,
]
