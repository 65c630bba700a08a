# A backbone of mmpretrain for every probe, without code; as it stands of random weights.
#   python tools/test.py configs/eval/probes_emoji.py configs/eval/models/mmpretrain.py
# Others in a config of three lines; tools/convert_checkpoint.py makes safetensors of a .pth:
#   _base_ = ["webssl_toolbox::eval/models/mmpretrain.py"]
#   _image = dict(backbone=dict(depth=50), pretrained="models/resnet50.safetensors")
#   model = dict(towers=dict(image=_image))
model = dict(
    towers=dict(
        image=dict(type="MMPretrain", backbone=dict(type="ResNet", depth=18), input_size=224)
    )
)
test_view = [
    dict(type="Background", white=1.0, jitter=0),
    dict(type="ResizeCenterCrop"),
    dict(type="Normalize", mean="imagenet"),
]
