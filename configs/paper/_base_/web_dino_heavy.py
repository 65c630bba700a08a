# Web-DINO on the 1.3 % of MC-2B that a vision-language model (SmolVLM2) answers "yes" for: "Please
# think carefully before answering. Does this image contain charts, tables, or documents with
# readable text? Answer only yes or no." The recipe stays the same, and so do the 2.0 billion images
# that it sees: some 77 epochs of 26 million.
#
# The list was never released. Yours is a CSV with a column `image`, the paths within data_root.
_base_ = ["web_dino_light.py"]

data_root = "data/mc2b"

train_dataloader = dict(dataset=dict(file=f"{data_root}/heavy.csv"))
