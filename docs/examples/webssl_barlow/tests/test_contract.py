from webssl_toolbox.testing import Case, contract

VIT = dict(type="ViT", patch_size=8, width=16, depth=2, heads=2, input_size=16)

test_contract = contract(
    Case(dict(towers=dict(image=VIT), objectives=dict(barlow=dict(type="BarlowTwins", dim=8))))
)
