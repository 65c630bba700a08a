# Retrieval on Karpathy's test images of COCO (5,000) and Flickr30k (1,000), five captions each.
#
#   python tools/test.py configs/eval/retrieval_coco_flickr.py WORK_DIR \
#     --cfg-options data_root=FOLDER
#
# Published, ViT-B/32 on YFCC15M, recall at 1 of captions and of images: DeCLIP 28.3 and 18.4 on
# COCO, 51.4 and 34.3 on Flickr30k; CLIP 20.8 and 13.0, 34.9 and 23.4.
data_root = "data"

_splits = {}
for _name in ("coco", "flickr30k"):
    _splits[_name] = dict(type="Published", name=_name, root=data_root)

evaluation = dict(
    evaluators=dict(retrieval=dict(type="Retrieval", splits=_splits, all_captions=True))
)
