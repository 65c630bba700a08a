# All probes on the embedded corpus, frozen; the test sets are of designers that training never saw:
#   python tools/test.py configs/eval/probes_emoji.py work_dirs/dino_vit_s16_laptop
# In place of a work dir: configs/eval/models/pixels.py, or the config of any model.
_render = 72  # pixels of the cached drawings
_seen = ("noto-v1", "fluent-flat", "fluent-high-contrast")
_concepts = {
    name: dict(type="Emoji", split=name, size=_render)
    for name in (*_seen, "unseen/noto-v1", "unseen/fluent-flat")
}
_groups = {name: dict(type="Emoji", split=name, size=_render, target="group") for name in _seen}
_drawings = dict(type="Emoji", split="train-drawings", size=_render, target="group")
_grouped = dict(train=_drawings, splits=_groups)

evaluation = dict(
    evaluators=dict(
        knn=dict(type="KNN", k=10, ks=(20,), shots=(10,), **_grouped),
        logistic=dict(type="LogisticRegression", **_grouped),
        # Normalised, since convnets and raw pixels have no last norm that sets their scale.
        linear=dict(type="LinearProbe", epochs=30, batch_norm=True, **_grouped),
        attentive=dict(type="AttentiveProbe", **_grouped),
        dense=dict(type="DenseProbe", **_grouped),
        zero_shot=dict(type="ZeroShot", splits=_concepts),
        retrieval=dict(type="Retrieval", splits={"noto-v1": _concepts["noto-v1"]}),
    )
)
