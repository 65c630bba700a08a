# Web-DINO on the 50.3 % of MC-2B that a vision-language model (SmolVLM2) answers "yes" for: "Does
# this image contain any readable text? Answer only yes or no." The recipe, and the 2.0 billion
# images that it sees, stay the same.
#
# The list was never released. Yours is a CSV with a column `image`, the paths within data_root.
_base_ = ["web_dino.py"]

data_root = "data/mc2b"

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ImageTextList",
        file=f"{data_root}/light.csv",
        root=data_root,
        caption="image",  # there are none, and no view reads one
    )
)

# They would read the folder, and not the list.
evaluation = dict(evaluators=dict(rank_me=None, patches=None))
