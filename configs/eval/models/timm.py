# A model of timm for every probe, without code; as it stands a ResNet-18 of random weights.
#   python tools/test.py configs/eval/probes_emoji.py configs/eval/models/timm.py
# Others in a config of three lines, with the model.safetensors that timm publishes:
#   _base_ = ["webssl_toolbox::eval/models/timm.py"]
#   _image = dict(name="vit_small_patch16_224", pretrained="models/vit_small/model.safetensors")
#   model = dict(towers=dict(image=_image))
model = dict(towers=dict(image=dict(type="Timm", name="resnet18", input_size=224)))
test_view = [
    dict(type="Background", white=1.0, jitter=0),
    dict(type="ResizeCenterCrop"),
    dict(type="Normalize", mean="imagenet"),  # timm says for each model which it was trained with
]
