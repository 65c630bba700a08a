# Raw pixels in place of a network, for every probe:
#   python tools/test.py configs/eval/probes_emoji.py configs/eval/models/pixels.py
model = dict(towers=dict(image=dict(type="Pixels")))
test_view = [
    dict(type="Background", white=1.0, jitter=0),
    dict(type="ResizeCenterCrop"),
]
