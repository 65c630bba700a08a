# The last phase of Web-DINO 7B (Fan et al. 2025, arXiv 2504.01017, appendix C): 20,000 steps at a
# higher resolution from the weights of the first, with a batch of 2,048 and a peak rate of 1.41e-5.
#
# All schedules are compressed to these steps, from the 651,042 of 2.0 billion images. Not known:
# how many the paper counts from (it says that the warm-up keeps its share), and the size of local
# crops, here 98 px as before. Once the paper says 10,000 steps.
_base_ = ["web_dino.py"]

strategy = "fsdp2"

load_from = "work_dirs/web_dino_7b"

_steps = 20_000
_share = _steps / _base_.train_cfg.max_iters
_temperature = dict(teacher_temperature=dict(warmup=round(37_500 * _share)))
_rest = dict(freeze=round(1250 * _share))

model = dict(
    towers=dict(image=dict(arch="7B")), objectives=dict(dino=_temperature, ibot=_temperature)
)

train_dataloader = dict(batch_size=2048)

optim_wrapper = dict(
    optimizer=dict(lr=dict(start=1.41e-5, warmup=round(100_000 * _share))),
    groups=dict(last_layer=_rest, patches_last_layer=_rest),
)

train_cfg = dict(max_iters=_steps)

# To the whole size: DINOv2's resize to 256 and crop is for 224.
test_view = [
    dict(type="ResizeCenterCrop", interpolation="cubic"),
    dict(type="Normalize", mean="imagenet"),
]
