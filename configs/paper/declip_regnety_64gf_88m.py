# DeCLIP (Li et al. 2022), the largest model: RegNetY-64GF, and for texts BERT's architecture over
# CLIP's BPE.
#
#   NNODES=10 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_regnety_64gf_88m.py 8
#
# Hardware: not known. Where 128 pairs do not fit on a GPU, set model.chunks.
# Data: see declip_r50_88m.py.
# Published: the paper reports this model; we had no copy to check its number. Not run by us.
#
# Not known: all but the two architectures, of which the released code has neither. Rates, batch,
# length and the width of the joint space are those of declip_r50_88m.py.
_base_ = ["declip_r50_88m.py"]

model = dict(
    towers=dict(
        image=dict(_delete_=True, type="RegNetY", arch="64GF"),
        text=dict(_delete_=True, type="BERT", arch="base"),
    )
)
