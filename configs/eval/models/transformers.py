# A vision model of transformers for every probe, without code: from a folder with its config.json
# and model.safetensors, as it is published.
#   python tools/test.py configs/eval/probes_emoji.py configs/eval/models/transformers.py
# Others in a config of three lines:
#   _base_ = ["webssl_toolbox::eval/models/transformers.py"]
#   _image = dict(folder="models/vit-mae-base", pool="mean", pretrained=False)  # random weights
#   model = dict(towers=dict(image=_image))
model = dict(
    towers=dict(image=dict(type="TransformersImage", folder="models/dinov2-small", pretrained=True))
)
test_view = [
    dict(type="Background", white=1.0, jitter=0),
    dict(type="ResizeCenterCrop"),
    dict(type="Normalize", mean="imagenet"),
]
