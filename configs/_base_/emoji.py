# The embedded corpus: drawings of 1,949 concepts by independent design teams. Evaluated on designers
# that training never sees, and on concepts that no training split holds.
_size = 32  # pixels that the model sees
_render = 40  # pixels of the cached drawings, from which views are cut

_image_view = [
    dict(type='Background', white=0.7),
    dict(type='RandomResizedCrop', size=_size, scale=(0.6, 1.0)),
    dict(type='ColorJitter', brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05, prob=0.6),
    dict(type='Normalize'),
]

train_dataloader = dict(
    batch_size=256,
    num_workers=2,
    dataset=dict(type='Emoji', split='train', size=_render),
    views=dict(
        v1=_image_view,
        v2=_image_view,
        text=[dict(type='Caption', pick=0), dict(type='Tokenize')],
        text_aug=[dict(type='Caption', pick=1), dict(type='EDA'), dict(type='Tokenize')],
        text_mlm=[
            dict(type='Caption', pick='random'),
            dict(type='Tokenize'),
            dict(type='MaskTokens', prob=0.2),
        ],
    ))

test_view = [
    dict(type='Background', white=1.0, jitter=0),
    dict(type='ResizeCenterCrop', size=_size),
    dict(type='Normalize'),
]

_concepts = {
    name: dict(type='Emoji', split=name, size=_render)
    for name in (
        'noto-v1', 'noto-v1-distinct', 'fluent-flat', 'fluent-high-contrast',
        'unseen/noto-v1', 'unseen/fluent-flat')
}
_groups = {
    name: dict(type='Emoji', split=name, size=_render, target='group')
    for name in ('noto-v1', 'fluent-flat', 'fluent-high-contrast')
}
_seen = {name: _concepts[name] for name in ('noto-v1', 'noto-v1-distinct', 'fluent-flat', 'fluent-high-contrast')}
_drawings = dict(type='Emoji', split='train-drawings', size=_render)
_grouped_drawings = dict(type='Emoji', split='train-drawings', size=_render, target='group')

evaluation = dict(
    interval=250,
    evaluators=dict(
        zero_shot=dict(type='ZeroShot', splits=_concepts),
        zero_shot_pixels=dict(type='PixelNeighbour', train=_drawings, splits=_seen),
        retrieval=dict(type='Retrieval', splits={'noto-v1': _concepts['noto-v1']}),
        knn=dict(type='KNN', train=_grouped_drawings, splits=_groups, k=10),
        knn_pixels=dict(type='PixelNeighbour', train=_grouped_drawings, splits=_groups, k=10),
    ))
