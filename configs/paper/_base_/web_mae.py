# Web-MAE (Fan et al. 2025, arXiv 2504.01017): MAE's recipe at 224 px on 2.0 billion images, with a
# lower rate and a longer warm-up, since MAE's diverged at this scale. One recipe for every size.
#
# The paper's images are MC-2B, 2 billion of MetaCLIP, which were never released. Point to yours
# with
#   --cfg-options data_root=FOLDER
_base_ = ["mae.py"]

data_root = "data/mc2b"

model = dict(towers=dict(image=dict(patch_size=14)))

optim_wrapper = dict(optimizer=dict(lr=dict(start=1.6e-3, warmup=80_000)))

train_cfg = dict(max_iters=488_281)  # 2.0 billion images
