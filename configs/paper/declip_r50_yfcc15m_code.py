# declip_r50_yfcc15m.py as the released code trains it (Sense-GVT/DeCLIP at 5d99a855).
#
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST \
#       tools/dist_train.sh configs/paper/declip_r50_yfcc15m_code.py 8
#
# Hardware, data and published result: see declip_r50_yfcc15m.py. SimSiam and the queue are per
# rank, so the run is the same on 32 GPUs only.
#
# Not reproduced, since they are no choices but accidents:
# * the queue begins with random vectors, which are neighbours for the first 256 steps; here the
#   loss waits until it is full. Nor is the queue in the code's checkpoints.
# * a neighbour may be the query's own caption, met again; here it has another caption.
# * a random word of the masked caption may be the end token, which moves the pooled position.
# * use_sync_bn of the ResNet is left at True, which the released code cannot run.
_base_ = ["declip_r50_yfcc15m.py"]

model = dict(
    towers=dict(
        text=dict(causal=True)  # so that hidden words are predicted from those before them
    ),
    spaces=dict(
        joint=dict(
            bias=["text"],  # only the projection of texts has one
            # The logarithm is clamped to [3, 6] after each step, the scale to 100 where it is used.
            min_scale=20.0855,
        )
    ),
    objectives=dict(
        # No term of its own: 0.4 is the mean over all four pairs, and the caption is the masked
        # one, which is encoded for the MLM anyway. So the clean caption is never seen.
        clip=None,
        multi_view=dict(texts=("text_mlm", "text_aug"), skip=(), weight=0.4),
        # Local BatchNorm, and embeddings that are not yet of unit length.
        simsiam=dict(sync_bn=False, normalize=False),
        # Each rank keeps its own captions, of both views; images are told from neighbours, and not
        # neighbours from images.
        nn_queue=dict(
            texts=("text_mlm", "text_aug"),
            enqueue=("text_aug", "text_mlm"),
            rank_local=True,
            symmetric=False,
        ),
    ),
)
