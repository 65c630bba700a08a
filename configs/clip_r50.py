# CLIP (Radford et al. 2021) with the towers, data and schedule of declip_r50.py.
#
#   python tools/train.py configs/clip_r50.py
#
# Hardware: one GPU. Data: the embedded corpus.
# Result: not yet measured on a GPU; docs/results.md has what was measured, of the laptop config.
_base_ = ["declip_r50.py"]

# The views that only the other signals need are not computed.
model = dict(
    objectives=dict(clip=dict(weight=1.0), multi_view=None, simsiam=None, mlm=None, nn_queue=None)
)
