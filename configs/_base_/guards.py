# Monitors that only speak up: where a loss jumps, and where representations collapse.
hooks = dict(loss_spike=dict(type="LossSpike"), collapse=dict(type="Collapse"))
