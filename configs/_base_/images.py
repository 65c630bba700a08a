# Images without captions: the drawings of the embedded corpus, or any folder of images, with all
# that lies in folders below it:
#   --cfg-options data_root=PHOTOS
_base_ = ["emoji_pictures.py"]

data_root = None

# Configs scale the learning rate with it. A folder may be small; for a large one add, for instance,
# _batch_size=1024.
_batch_size = 256 if data_root is None else 64

train_dataloader = dict(batch_size=_batch_size)

if data_root is None:
    _shown = _base_._concepts["noto-v1"]
    evaluation = dict(
        evaluators=dict(zero_shot=None, zero_shot_pixels=None, retrieval=None, retrieval_grid=None)
    )
else:
    train_dataloader["dataset"] = dict(_delete_=True, type="ImageFolder", root=data_root)
    _shown = dict(type="ImageFolder", root=data_root, limit=1000)
    evaluation = dict(
        evaluators=dict(
            _delete_=True, neighbours=dict(type="Neighbours", bank=_shown, queries=_shown)
        )
    )
